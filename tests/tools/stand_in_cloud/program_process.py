"""A program in a process of its own, as Pulumi's language host runs it: `python -m ... JSON`, where JSON is what the engine asked.

What it tells of an error: pulumi-language-python-exec of pulumi/pulumi at 0491e0d1a5054b2977f1c119c04ccd34920556a4.
"""

import asyncio
import json
import logging
import os
import runpy
import sys
import traceback
from typing import Any

import pulumi
import pulumi.runtime

from infra.ending import ALREADY_TOLD


def main() -> None:
    """Run it; end with 0, or with the code that says that its error is told."""
    asked: dict[str, Any] = json.loads(sys.argv[1])
    pulumi.runtime.set_all_config(asked.pop("config"), asked.pop("secret_keys"))
    program, folder = asked.pop("program"), asked.pop("folder")
    pulumi.runtime.configure(pulumi.runtime.Settings(**asked))
    os.chdir(folder)
    sys.argv = [program]
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)

    def run() -> None:
        runpy.run_path(program, run_name="__main__")

    try:
        loop.run_until_complete(pulumi.runtime.run_in_stack(run))
    except pulumi.RunError as error:
        pulumi.log.error(str(error))
    except Exception:  # noqa: BLE001 as the real one; not a KeyboardInterrupt, whose traceback Python itself prints
        pulumi.log.error(traceback.format_exc())
    else:
        return
    sys.exit(ALREADY_TOLD)


if __name__ == "__main__":
    main()

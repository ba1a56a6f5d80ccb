"""Files that are written whole or not at all: under a temporary name beside the target, then renamed."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


@contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """The temporary name of `path`, `.NAME.partial`: what is written there gets its name at the end, and is removed on error."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, *, flush: bool = False) -> None:
    """Write a file whole; `flush` it to the disk before it gets its name.

    Raises: OSError naming `path`; what was there is intact, and nothing is beside it.
    """
    write_texts({path: text}, flush=flush)


def write_texts(texts: Mapping[Path, str], *, flush: bool = False) -> None:
    """Write files that belong together: all of them, or none where one of them finds no room.

    Raises: OSError naming the file.
    """
    with ExitStack() as stack:
        partials = {path: stack.enter_context(partial_file(path)) for path in texts}
        for path, text in texts.items():
            try:
                partials[path].write_text(text, encoding="utf-8")
                if flush:
                    flush_to_disk(partials[path])
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from None


def write_json(path: Path, values: object, *, flush: bool = False) -> None:
    """Write `values` as JSON, whole.

    Raises: as write_text.
    """
    write_text(path, json.dumps(values, indent=1) + "\n", flush=flush)


def flush_to_disk(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

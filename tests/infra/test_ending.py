"""What the program says when the engine is done with it, after an error of the provider: nothing."""

import signal
import subprocess
import sys

PROGRAM = "from infra.ending import end_without_a_traceback; end_without_a_traceback(); print(flush=True); input()"


def test_the_program_ends_without_a_traceback_when_the_engine_is_done_with_it():
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        program.stdout.readline()
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=60)

    assert (program.returncode, said) == (32, b"")

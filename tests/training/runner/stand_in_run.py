"""Stands in for `training fit` where the supervisor's own logic is tested: the same files, without torch.

`stand_in_run.py RUN TOTAL_STEPS BEHAVIOURS [WORDS]`: behaviours by start, with `,` between; the last one stays.
ok: to the end. crash@N, hang@N: at step N ends with code 1, or makes no step any more. deaf@N: hangs, and
ignores SIGTERM. eat@N: takes memory until the kernel kills it. refuse: code 2.
A checkpoint every 2 steps. `.NAME.words.txt` beside the run directory records what each start was told.
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from training.checkpoints.manifest import complete_checkpoints, folder_of, write_manifest
from training.checkpoints.progress_file import Progress, write_progress


def save(run: Path, step: int) -> None:
    folder = run / "checkpoints" / folder_of(step)
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / "trainer.ckpt").write_text(f"weights of step {step}\n")
        write_manifest(folder, step, "config", "data", None)


def main() -> int:
    run, total, behaviours, words = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(","), sys.argv[4:]
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    signal.signal(signal.SIGUSR1, lambda number, frame: print("stacks of all threads", flush=True))
    starts = run.with_name(f".{run.name}.words.txt")
    with starts.open("a") as file:
        file.write(" ".join(words) + "\n")
    behaviour, _, at = behaviours[min(len(behaviours), starts.read_text().count("\n")) - 1].partition("@")
    if behaviour == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour == "refuse" or (run.exists() and not words):
        print("refused: the run", file=sys.stderr)
        return 2
    if "overwrite=true" in words:
        shutil.rmtree(run)
    run.mkdir(parents=True, exist_ok=True)
    (run / "run.json").write_text(json.dumps({"starts": [{"total_steps": total, "time": "2026-11-21T00:00:00"}]}))
    shutil.copy(run.parent.parent / "jobs" / run.name / "run.yaml", run / "config.yaml")
    done = complete_checkpoints(run / "checkpoints")
    for step in range(done[-1].step if done else 0, total):
        if at == str(step) and behaviour == "crash":
            print("a bug", flush=True)
            return 1
        if at == str(step) and behaviour == "eat":
            Path("/proc/self/oom_score_adj").write_text("1000")  # it, and not its supervisor
            taken = [bytearray(os.urandom(2**20)) for _ in range(2**20)]
            return len(taken)
        while at == str(step) and behaviour in ("hang", "deaf"):
            time.sleep(0.05)
            if told and behaviour == "hang":
                return 1
        time.sleep(0.02)
        write_progress(run, Progress(os.getpid(), step + 1, total, "train", time.time(), 0.02, 0.5))
        hangs_next = behaviour == "hang" and at == str(step + 1)  # SIGTERM from here on finds it hung
        if (step + 1) % 2 == 0 or (told and not hangs_next) or step + 1 == total:
            save(run, step + 1)
        if told:
            return 1
    (run / "model.pt").write_text("weights\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

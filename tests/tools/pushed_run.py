"""A run that has finished and was pushed, without anybody having trained: what the laptop finds in a bucket."""

import json
from pathlib import Path

from training.checkpoints.manifest import write_manifest
from training.checkpoints.progress_file import Progress, write_progress
from training.runner.job import JobPaths
from training.runner.mirror.lease import holder_of, release
from training.runner.mirror.push import Pusher
from training.runner.state import State, write_state

STEP = 8


def push_finished_run(root: Path, name: str, bucket: str) -> JobPaths:
    """Lay a finished run below ROOT, as a machine has it, and push it; the machine is called incubator-l4."""
    paths = JobPaths(root, name)
    checkpoint = paths.checkpoints / f"step={STEP:09d}"
    for folder in (checkpoint, paths.folder):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "machine.json").write_text(json.dumps({"format": 1, "name": "incubator-l4", "bucket": bucket}))
    paths.job_file.write_text(json.dumps({"name": name, "bucket": bucket}))
    (checkpoint / "trainer.ckpt").write_text("payload")
    write_manifest(checkpoint, STEP, "config", "data", None)
    (paths.run / "run.json").write_text(json.dumps({"starts": [{"time": "2026-11-21T00:00:00", "total_steps": STEP}]}))
    (paths.run / "model.pt").write_text("weights")
    write_progress(paths.run, Progress(1, STEP, STEP))
    paths.log.write_text("one\ntwo\nthree\n")
    write_state(paths, State("finished"))
    Pusher(paths.run, paths.folder, bucket, 1.0).once()
    release(bucket, name, holder_of(paths.folder))
    return paths

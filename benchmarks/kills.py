"""Kill a run at random moments, resume it each time, and compare its results with those of an uninterrupted run.

    python benchmarks/kills.py smoke --out build/kills --kills 30

The process is killed (SIGKILL) some time after a stage began to work; the times are exponentially distributed. A run
that ends before it is killed is compared with the uninterrupted one, and another one is begun, until all kills are
done. Prints what each kill interrupted, what was saved last and how long before, and whether the results of all runs
are equal. Few and small images are used, and shards and checkpoints are written often, so that kills fall between them.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from ezsd.data.target_store import TargetStore
from ezsd.errors import EzsdError
from ezsd.run_folder import STAGES, RunFolder, Stage
from ezsd.utils.files import digest, read_json, read_tensors
from tables import Row, add_json_option, show

_CHANGES = (
    "data.train.limit=16", "data.val.limit=8", "propose.dense_sides=[256]", "propose.objectness=0.5",
    "propose.rpn_epochs=1", "propose.shard_images=2", "train.checkpoint_steps=2",
)  # fmt: skip
_SAVED = ("**/step-*/checkpoint.json", "shard-*.arrow", "parts/**/*.json", "inputs.json", "*.safetensors", "folds/**/*")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    add_json_option(parser)
    given = parser.parse_args()
    changes = [part for change in _CHANGES for part in ("--set", change)]
    command = [sys.executable, "-m", "ezsd", "run", given.recipe, *changes, "--until", "evaluate", "--out"]
    whole = RunFolder(given.out / "uninterrupted")
    subprocess.run([*command, str(whole.path)], check=True)
    expected, seconds = results(whole), sum(read_json(whole.done(stage))["seconds"] for stage in STAGES)
    numbers, rows, rounds = random.Random(given.seed), list[Row](), 0
    while len(rows) < given.kills:
        rounds += 1
        run = RunFolder(given.out / f"killed-{rounds}")
        ended = False
        while not ended:
            alive = len(rows) < given.kills
            row = killed(command, run, numbers.expovariate(given.kills / seconds / 2) if alive else None)
            rows += [] if row is None else [{"kill": len(rows) + 1, "run": rounds, **row}]
            ended = row is None
        if wrong := [name for name, value in results(run).items() if expected[name] != value]:
            raise SystemExit(f"{run.path}: {', '.join(wrong)} differ from those of {whole.path}")
    show(rows, given.json)
    print(f"\n{len(rows)} kills in {rounds} runs; {len(expected)} results of each are those of the uninterrupted run")


def killed(command: list[str], run: RunFolder, after: float | None) -> Row | None:
    """Start or resume a run and kill it; return what was interrupted, or None if it ended before.

    Args:
        command: The command without the folder.
        run: The run folder.
        after: Seconds from the moment when a stage begins to work; None = the run is not killed.
    """
    began = time.time()
    process = subprocess.Popen([*command, str(run.path)], stderr=subprocess.DEVNULL)
    until: float | None = None
    while process.poll() is None:
        time.sleep(0.01)
        working = [stage for stage in STAGES if _modified(run.inputs(stage)) > began]
        if after is None or not working:
            continue
        until = until or time.time() + after
        if time.time() >= until:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return _interrupted(run, after)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} {run.path} ended with exit code {process.returncode}")
    return None


def _interrupted(run: RunFolder, after: float) -> Row:
    now, stage = time.time(), _unfinished(run)
    if stage is None:
        return {"stage": "none", "after s": after, "saved": "everything", "lost s": 0.0}
    saved = {path: _modified(path) for pattern in _SAVED for path in run.of(stage).glob(pattern)}
    last = max(saved, key=lambda path: saved[path], default=run.of(stage))
    name = str(last.parent if last.name == "checkpoint.json" else last)
    lost = now - max(saved.values(), default=now)
    return {"stage": stage, "after s": after, "saved": os.path.relpath(name, run.of(stage)), "lost s": lost}


def _unfinished(run: RunFolder) -> Stage | None:
    return next((stage for stage in STAGES if not run.done(stage).exists()), None)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def results(run: RunFolder) -> dict[str, str]:
    """Return digests of everything that does not contain times, by name."""
    tensors = {
        str(path.relative_to(run.path)): digest(*(value.float().numpy().tobytes() for value in _values(path)))
        for path in sorted(run.path.rglob("*.safetensors"))
        if not {"checkpoint", "checkpoints"} & set(path.parts)
    }
    files = (run.detections, run.detections_zsd, run.per_category, run.detector_confusion)
    return {**tensors, "targets": _targets(run), **{path.name: digest(path) for path in files if path.exists()}}


def _values(path: Path) -> list[object]:
    return [tensor for _, tensor in sorted(read_tensors(path)[0].items())]


def _targets(run: RunFolder) -> str:
    try:
        store = TargetStore(run.of("propose"))
    except EzsdError:  # a recipe without distillation
        return ""
    images = [image for shard in read_json(run.targets.index)["shards"] for image in shard["image_ids"]]
    rows = (store[image] for image in images)
    return digest(*(part.numpy().tobytes() for regions in rows for part in vars(regions).values()))


if __name__ == "__main__":
    main()

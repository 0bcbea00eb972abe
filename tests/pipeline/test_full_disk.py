"""A disk that is full while a stage writes: a message, exit code 2, and nothing broken when there is space again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ezsd.pipeline.run import run_recipe
from ezsd.recipe import parse_recipe
from ezsd.run_folder import STAGES, RunFolder, Stage
from ezsd.utils.files import digest, read_tensors
from tiny import TinyCoco, make_tiny_coco
from tiny_teacher import tiny_values

_BLOCK = 4096


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system in memory of 96 MB."""
    folder = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a tmpfs, on Linux")
    if error := subprocess.run(command, capture_output=True, text=True, check=False).stderr:
        pytest.skip(f"a tmpfs cannot be mounted here: {error}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> TinyCoco:
    return make_tiny_coco(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(coco: TinyCoco, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        run_recipe(parse_recipe(tiny_values(str(coco.images), str(coco.annotations)), "test"), folder)
    return RunFolder(folder)


@pytest.mark.parametrize(("stage", "free"), [("adapt", 0), ("propose", 2), ("train", 8), ("evaluate", 2)])
def test_full_disk_is_a_message_and_the_run_goes_on_when_there_is_space(
    disk: Path, coco: TinyCoco, finished: RunFolder, tmp_path: Path, stage: Stage, free: int
) -> None:
    recipe, run = tmp_path / "tiny.yaml", RunFolder(disk / "run")
    recipe.write_text(yaml.safe_dump(tiny_values(str(coco.images), str(coco.annotations))))
    shutil.rmtree(run.path, ignore_errors=True)
    shutil.copytree(finished.path, run.path)
    run.report.unlink()
    for later in STAGES[STAGES.index(stage) :]:
        shutil.rmtree(run.of(later))
    _fill(disk, free * _BLOCK)
    failed = _run(recipe, run)
    (disk / "filler").unlink()
    assert failed.returncode == 2, failed.stderr
    assert "No space left" in failed.stderr or "disk" in failed.stderr
    assert "Traceback" not in failed.stderr
    resumed = _run(recipe, run)
    assert resumed.returncode == 0, resumed.stderr
    assert _results(run) == _results(finished)


def _fill(disk: Path, free: int) -> None:
    """Leave ``free`` bytes of the disk."""
    used = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(used.f_bavail * used.f_frsize - free))


def _run(recipe: Path, run: RunFolder) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "ezsd", "run", str(recipe), "--out", str(run.path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def _results(run: RunFolder) -> dict[str, str]:
    tensors = {
        f"{path.name} {key}": digest(value.numpy().tobytes())
        for path in (run.norms, run.model / "model.safetensors")
        for key, value in read_tensors(path)[0].items()
    }
    return {**tensors, "detections": digest(run.detections)}

"""Errors of the processes that read images."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils.data import DataLoader

from ezsd.errors import ArtifactError, DataError
from ezsd.training.dataset import shared_batch
from ezsd.utils.workers import worker_errors
from tiny import make_tiny_coco
from tiny_teacher import tiny_values


class _Broken:
    """A dataset that fails in the worker."""

    def __init__(self, failure: str) -> None:
        self.failure = failure

    def __len__(self) -> int:
        return 4

    def __getitem__(self, place: int) -> Any:
        if self.failure == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.failure == "data":
            raise DataError("a.jpg: cannot be read as an image (truncated)")
        if self.failure == "memory":
            torch.Tensor.share_memory_ = _no_memory  # type: ignore[method-assign]
        return torch.zeros(3), {"boxes": torch.zeros(0, 4)}


def _no_memory(tensor: torch.Tensor) -> torch.Tensor:
    raise RuntimeError(
        "unable to allocate shared memory(shm) for file </torch_1>: Resource temporarily unavailable (11)"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked")
@pytest.mark.parametrize(
    "failure, error, expected",
    [
        ("killed", ArtifactError, "has ended .*data.workers to 0"),
        ("data", DataError, r"^a\.jpg: cannot be read as an image \(truncated\)$"),
        ("memory", ArtifactError, "Shared memory.* is too small.*--shm-size"),
    ],
)
def test_a_failing_worker_ends_the_run_with_what_helps(failure: str, error: type[Exception], expected: str) -> None:
    loader = DataLoader(_Broken(failure), 2, num_workers=1, collate_fn=shared_batch)  # type: ignore[arg-type]
    with pytest.raises(error, match=expected), worker_errors():
        list(loader)


_SCRIPT = """
import multiprocessing
multiprocessing.set_start_method("spawn", force=True)  # as on macOS and Windows
from pathlib import Path
from ezsd import load_recipe, run_recipe
{guard}run_recipe(load_recipe("recipe.yaml"), Path("run"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("guard", ["", 'if __name__ == "__main__":\n    '])
def test_a_script_without_main_guard_gets_one_message_where_processes_are_spawned(tmp_path: Path, guard: str) -> None:
    coco = make_tiny_coco(tmp_path / "data")
    values = tiny_values(str(coco.images), str(coco.annotations))
    values["data"]["workers"] = 1
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "script.py").write_text(_SCRIPT.format(guard=guard))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "EZSD_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    if guard:
        assert done.returncode == 0, done.stderr
    else:
        assert 'put its calls under if __name__ == "__main__"' in done.stderr
        assert done.stderr.count("Traceback") == 1 and "is in use by process" not in done.stderr

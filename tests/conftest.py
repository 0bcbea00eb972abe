"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest
import torch

from ezsd.errors import ArtifactError
from ezsd.utils.log import hide_log, show_log
from ezsd.utils.ray_engine import RayEngine
from tiny import TinyCoco, make_tiny_coco

hypothesis.settings.register_profile("any machine", deadline=None)  # deadlines would fail on a busy machine
hypothesis.settings.load_profile("any machine")
# One thread for each process: test processes and the subprocesses they start share the cores.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of the real images; tests that use it are marked ``real_data``."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EZSD_TEST_DATA") or default)
    if not (folder / "coco2k" / "instances_val.json").is_file():
        pytest.skip(f"no real images in {folder}; set EZSD_TEST_DATA to the folder that contains coco2k")
    return folder


@pytest.fixture
def tiny_coco() -> Callable[..., TinyCoco]:
    """Return a function ``tiny_coco(folder)`` that makes the data set of tests/tiny.py in ``folder``."""
    return make_tiny_coco


@pytest.fixture(autouse=True)
def _fresh_log() -> Iterator[None]:
    """Hide the log after each test, because a command can have shown it."""
    yield
    hide_log()


@pytest.fixture
def shown_log() -> None:
    """Show the log in the same way as the command line."""
    show_log()


@pytest.fixture(scope="session")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Start Ray with two CPUs; return the file that kills a worker, see :func:`tiny_teacher.kill_once`."""
    kill = tmp_path_factory.mktemp("ray") / "kill"
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("EZSD_TEST_KILL", str(kill))  # the workers inherit it
        patch.setenv("RAY_worker_niceness", "0")  # by default 15, which starves on a busy machine
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_agent_register_timeout_ms", "120000")
        for attempt in range(3):  # Ray gives up after 30 seconds on a busy machine
            try:
                stack.enter_context(RayEngine(actors=2).connected())
                break
            except ArtifactError:
                if attempt == 2:
                    raise
        yield kill

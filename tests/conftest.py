"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from ezsd.utils.log import hide_log, show_log
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

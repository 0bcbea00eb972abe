"""Fixtures for the tests of the service."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny import make_tiny_coco
from tiny_run import make_model_of_run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_of_run(tmp_path_factory.mktemp("service"))


@pytest.fixture(scope="session")
def image_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted(make_tiny_coco(tmp_path_factory.mktemp("images")).images.iterdir())

"""Fixtures for the tests of the service."""

from __future__ import annotations

from pathlib import Path

import pytest

from ezsd.deploy.onnx_export import OnnxOptions, export_onnx
from tiny import make_tiny_coco
from tiny_run import make_model_of_run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_of_run(tmp_path_factory.mktemp("service"))


@pytest.fixture(scope="session")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with model.onnx, which has two names more than the model, and baked.onnx with three names."""
    pytest.importorskip("onnx", reason="onnx is not installed (extra export)")
    folder = tmp_path_factory.mktemp("exported")
    export_onnx(model, folder / "model.onnx", "traffic cone, dog")
    export_onnx(model, folder / "baked.onnx", ["bar", "circle", "cone, orange"], OnnxOptions(baked=True))
    return folder


@pytest.fixture(scope="session")
def image_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted(make_tiny_coco(tmp_path_factory.mktemp("images")).images.iterdir())

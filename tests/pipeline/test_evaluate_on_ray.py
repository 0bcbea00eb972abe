from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ezsd.inference import batching
from ezsd.pipeline.run import run_recipe, run_stage
from ezsd.recipe import parse_recipe
from ezsd.utils.ray_engine import RayEngine
from tiny import make_tiny_coco
from tiny_teacher import tiny_values


@pytest.mark.slow
def test_actors_detect_the_same_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: Path) -> None:
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(batching, "_PART_IMAGES", 3)
    coco = make_tiny_coco(tmp_path / "data")
    values: Any = tiny_values(str(coco.images), str(coco.annotations))
    local, ray = tmp_path / "local", tmp_path / "ray"
    run_recipe(parse_recipe(values, "test"), local, until="evaluate")
    shutil.copytree(local, ray)
    shutil.rmtree(ray / "evaluate")

    run_stage(ray, "evaluate", engine=RayEngine(actors=2))

    for name in ("detections.json", "detections_zsd.json", "metrics.json", "per_category.csv"):
        assert (ray / "evaluate" / name).read_bytes() == (local / "evaluate" / name).read_bytes(), name

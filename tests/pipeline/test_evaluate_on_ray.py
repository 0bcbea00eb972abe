from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ezsd.inference import batching
from ezsd.pipeline.run import run_recipe, run_stage
from ezsd.recipe import parse_recipe
from ezsd.utils.ray_engine import RayEngine
from pickled_engine import Pickled
from tiny import make_tiny_coco
from tiny_teacher import tiny_values


@pytest.mark.parametrize("kind", ["pickled", pytest.param("ray", marks=pytest.mark.slow)])
def test_actors_detect_the_same_objects(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if kind == "ray":
        request.getfixturevalue("local_ray")
    engine = RayEngine(actors=2) if kind == "ray" else Pickled()
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(batching, "_PART_IMAGES", 3)
    coco = make_tiny_coco(tmp_path / "data")
    values: Any = tiny_values(str(coco.images), str(coco.annotations))
    local, ray = tmp_path / "local", tmp_path / "ray"
    run_recipe(parse_recipe(values, "test"), local, until="evaluate")
    shutil.copytree(local, ray)
    shutil.rmtree(ray / "evaluate")

    run_stage(ray, "evaluate", engine=engine)

    for name in ("detections.json", "detections_zsd.json", "metrics.json", "per_category.csv"):
        assert (ray / "evaluate" / name).read_bytes() == (local / "evaluate" / name).read_bytes(), name

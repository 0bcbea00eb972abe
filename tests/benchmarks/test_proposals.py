"""Tests of the benchmark of proposals: it reads a run folder and prints recall and cost of each scoring."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ezsd.data.formats.coco import load_images
from ezsd.proposals.base_rpn import train_base_rpn
from ezsd.recipe import parse_recipe, save_recipe
from tiny import SPLIT, TinyCoco
from tiny_teacher import tiny_values

ROOT = Path(__file__).parents[2]


def test_output_compares_the_sources_of_proposals(tmp_path: Path, tiny_coco: Callable[..., TinyCoco]) -> None:
    coco = tiny_coco(tmp_path / "data")
    values = {**tiny_values(str(coco.images), str(coco.annotations)), "adapt": {"enabled": False}}
    recipe = parse_recipe(values, "test")
    recipe = recipe.model_copy(update={"propose": recipe.propose.model_copy(update={"rpn_epochs": 1.0})})
    save_recipe(recipe, tmp_path / "run" / "recipe.yaml")
    train_base_rpn(recipe, SPLIT.base, load_images(coco.part(limit=2), SPLIT.base), tmp_path / "run" / "targets")
    paths = f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "proposals.py"), str(tmp_path / "run"), "--images", "4"],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": paths, "EZSD_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("4 images")
    found = {line[:22].strip(): line[22:].split("  ")[:2] for line in lines[1:]}
    assert set(found) == {
        "random", "recipe", "grid", "dense + crops of 10", "grid, objectness", "regions", "rpn", "exhaustive",
    }  # fmt: skip
    assert found["grid"] == found["exhaustive"]  # this teacher uses crops for both
    assert found["regions"][0].strip().startswith("@10 ")

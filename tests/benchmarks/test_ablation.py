"""The ablation runs every variant on every seed, shares what variants have in common, and goes on where it was."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ezsd.files import read_json
from ezsd.recipe import parse_recipe, save_recipe
from tiny import TinyCoco
from tiny_teacher import tiny_values

ROOT = Path(__file__).parents[2]
VARIANTS = ("ezsd", "no-adaptation", "rpn-regions", "no-semantic-regression", "baseline")


def _ablation(tmp_path: Path) -> str:
    paths = f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"
    files = (ROOT / "benchmarks" / "ablation.py", tmp_path / "recipe.yaml", tmp_path / "out")
    script, recipe, out = map(str, files)
    done = subprocess.run(
        [sys.executable, script, recipe, "--out", out, "--seeds", "2", "--set", "train.epochs=1"],
        capture_output=True, text=True, check=False, timeout=600,
        env={**os.environ, "PYTHONPATH": paths, "EZSD_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_line_a_variant_and_nothing_is_done_twice(tmp_path: Path, tiny_coco: Callable[..., TinyCoco]) -> None:
    coco = tiny_coco(tmp_path / "data")
    values = tiny_values(str(coco.images), str(coco.annotations))
    values["propose"] = {**values["propose"], "rpn_epochs": 1}
    save_recipe(parse_recipe(values, "test"), tmp_path / "recipe.yaml")
    lines = [line for line in _ablation(tmp_path).splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == [f"{name} (2 seeds)" for name in VARIANTS]
    assert len({line.count("|") for line in lines}) == 1
    for seed in range(2):
        runs = {name: tmp_path / "out" / f"{name}_seed{seed}" for name in VARIANTS}
        done = {name: read_json(runs[name] / "targets" / "metrics.json") for name in VARIANTS}
        assert done["no-semantic-regression"] == done["ezsd"]
        assert done["rpn-regions"]["rpn_seconds"] > 0
        adapted = {name: read_json(runs[name] / "evaluate" / "metrics.json")["teacher"] for name in VARIANTS}
        assert adapted["rpn-regions"] == adapted["ezsd"]
        assert adapted["no-adaptation"]["accuracy_novel_after"] is None
    model = tmp_path / "out" / "ezsd_seed0" / "train" / "model" / "model.safetensors"
    before = model.stat().st_mtime_ns
    assert [line for line in _ablation(tmp_path).splitlines() if line.startswith("|")] == lines
    assert model.stat().st_mtime_ns == before

"""Tests of the ablation: it runs every variant with every seed, shares common stages, and resumes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ablation
from ezsd.recipe import load_recipe, parse_recipe, save_recipe
from ezsd.utils.files import read_json
from tiny import TinyCoco
from tiny_teacher import tiny_values

ROOT = Path(__file__).parents[2]
CHOSEN = ("ezsd", "no-adaptation", "rpn-regions", "no-novel-negatives")


def test_table_has_one_line_per_variant_and_nothing_is_computed_twice(
    tmp_path: Path, tiny_coco: Callable[..., TinyCoco], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    coco, out = tiny_coco(tmp_path / "data"), tmp_path / "out"
    values: Any = tiny_values(str(coco.images), str(coco.annotations))
    values["propose"] |= {"rpn_epochs": 1}
    values["train"] |= {"novel_negatives": True}
    save_recipe(parse_recipe(values, "test"), tmp_path / "recipe.yaml")
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path))
    monkeypatch.setattr(ablation, "VARIANTS", {name: ablation.VARIANTS[name] for name in CHOSEN})
    arguments = ["ablation.py", str(tmp_path / "recipe.yaml"), "--out", str(out), "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--set", "train.epochs=1"])
    tables, stamps = [], []
    for _ in range(2):
        ablation.main()
        tables.append([line for line in capsys.readouterr().out.splitlines() if line.startswith("|")])
        stamps.append([path.stat().st_mtime_ns for path in sorted(out.glob("*/train/model/model.safetensors"))])
    lines = tables[0]
    assert tables[1] == lines and stamps[1] == stamps[0] and len(stamps[0]) == 8
    assert [line.split("|")[1].strip() for line in lines[2:]] == [f"{name} (2 seeds)" for name in CHOSEN]
    assert len({line.count("|") for line in lines}) == 1
    for seed in range(2):
        runs = {name: out / f"{name}_seed{seed}" for name in CHOSEN}
        done = {name: read_json(runs[name] / "targets" / "metrics.json") for name in CHOSEN}
        assert done["no-novel-negatives"] == done["ezsd"]
        assert done["rpn-regions"]["rpn_seconds"] > 0
        adapted = {name: read_json(runs[name] / "evaluate" / "metrics.json")["teacher"] for name in CHOSEN}
        assert adapted["rpn-regions"] == adapted["ezsd"]
        assert adapted["no-adaptation"]["accuracy_novel_after"] is None


def test_every_variant_changes_the_pocket_recipe() -> None:
    recipe = ROOT / "recipes" / "pocket.yaml"
    found = {name: load_recipe(recipe, changes).model_dump_json() for name, changes in ablation.VARIANTS.items()}
    assert len(set(found.values())) == len(found)
    assert ablation.SHARED.keys() < found.keys()

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
from recipe_values import by_key, written_by_init
from tiny import TinyCoco
from tiny_teacher import tiny_values

# Sizes, counts and rules in which a recipe may differ from the publication.
NO_ADDITIONS = {
    "adapt.towers", "adapt.jitter", "adapt.min_side", "propose.nms", "propose.keep", "propose.crop_rank",
    "train.flip", "train.proposals_per_image", "detector.score_threshold", "detector.detections_per_image",
}  # fmt: skip
CHOSEN = ("ezsd", "no-adaptation", "rpn-regions", "no-novel-negatives", "baseline")


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
    for variants in ("IDEAS", "ADDITIONS"):
        chosen = {name: value for name, value in getattr(ablation, variants).items() if name in CHOSEN}
        monkeypatch.setattr(ablation, variants, chosen)
    monkeypatch.setattr(ablation, "PRESETS", ("baseline",))
    arguments = ["ablation.py", str(tmp_path / "recipe.yaml"), "--out", str(out), "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--set", "train.epochs=1"])
    tables, stamps = [], []
    for _ in range(2):
        ablation.main()
        tables.append([line for line in capsys.readouterr().out.splitlines() if line.startswith("|")])
        stamps.append([path.stat().st_mtime_ns for path in sorted(out.glob("*/train/model/model.safetensors"))])
    lines = tables[0]
    assert tables[1] == lines and stamps[1] == stamps[0] and len(stamps[0]) == 10
    assert [line.split("|")[1].strip() for line in lines[2:]] == [f"{name} (2 seeds)" for name in CHOSEN]
    assert len({line.count("|") for line in lines}) == 1
    for seed in range(2):
        runs = {name: out / f"{name}_seed{seed}" for name in CHOSEN}
        done = {name: read_json(runs[name] / "targets" / "metrics.json") for name in CHOSEN}
        assert done["no-novel-negatives"] == done["ezsd"]
        assert done["rpn-regions"]["rpn_seconds"] > 0
        adapted = {name: read_json(runs[name] / "adapt" / "done.json") for name in CHOSEN}
        assert adapted["baseline"] == adapted["no-adaptation"] != adapted["ezsd"]
        measured = {name: read_json(runs[name] / "evaluate" / "metrics.json")["teacher"] for name in CHOSEN}
        assert measured["rpn-regions"] == measured["ezsd"]
        assert measured["no-adaptation"]["accuracy_novel_after"] is None


@pytest.fixture(params=["pocket", "init"])
def recipe(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    return written_by_init(tmp_path) if request.param == "init" else "pocket"


def test_a_variant_changes_its_own_keys_only_and_is_skipped_if_the_recipe_does_not_use_it(recipe: Path | str) -> None:
    found = ablation.variants(recipe, ["train.epochs=1"])
    assert list(found)[:4] == ["ezsd", *ablation.IDEAS] and list(found)[-2:] == ["paper", "baseline"]
    assert len({variant.model_dump_json() for variant in found.values()}) == len(found)
    assert {variant.train.epochs for variant in found.values()} == {1}
    own = by_key(found["ezsd"])
    for name, changes in (ablation.IDEAS | ablation.ADDITIONS).items():
        switch, *others = (change.partition("=")[0] for change in changes)
        if name in found:
            changed = {key for key, value in by_key(found[name]).items() if value != own[key]}
            assert switch in changed and changed <= {switch, *others}
    assert "no-ema" in found if own["train.ema"] else "no-ema" not in found


def test_every_addition_of_a_recipe_can_be_disabled_alone(recipe: Path | str) -> None:
    ours, paper = by_key(load_recipe(recipe)), by_key(load_recipe(recipe, preset="paper"))
    different = {key for key in ours if ours[key] != paper[key]}
    switches = {change.partition("=")[0] for changes in ablation.ADDITIONS.values() for change in changes}
    assert different - switches <= NO_ADDITIONS
    off = by_key(load_recipe(recipe, [change for changes in ablation.ADDITIONS.values() for change in changes]))
    assert {key: off[key] for key in different - NO_ADDITIONS} == {key: paper[key] for key in different - NO_ADDITIONS}

"""Tests of ``ezsd plan``: its counts match the run, and its times come from the measured paces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from ezsd.commands import timing as module
from ezsd.commands.plan import make_plan
from ezsd.data.categories import load_split
from ezsd.data.formats.coco import load_images
from ezsd.errors import DataError
from ezsd.pipeline.run import run_recipe
from ezsd.pipeline.workload import Pace, StagePlan, count_work, describe_work
from ezsd.recipe import Recipe, parse_recipe
from tiny import TinyCoco, make_tiny_coco
from tiny_teacher import tiny_values


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", dict.fromkeys([*module._SECONDS], 0.1))
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def coco(tmp_path: Path) -> TinyCoco:
    return make_tiny_coco(tmp_path / "data")


def _recipe(coco: TinyCoco, **changes: dict[str, Any]) -> Recipe:
    values: dict[str, Any] = tiny_values(str(coco.images), str(coco.annotations))
    for section, entries in changes.items():
        values[section] = values.get(section, {}) | entries
    return parse_recipe(values, "test")


def _counted(recipe: Recipe) -> dict[str, StagePlan]:
    split = load_split(recipe.split)
    images = {"train": load_images(recipe.data.train, split.base), "val": load_images(recipe.data.val, split.names)}
    return {plan.stage: plan for plan in count_work(recipe, split, images)}


def test_plan_counts_the_steps_that_choose_the_share(coco: TinyCoco) -> None:
    fixed, chosen = (_counted(_recipe(coco, adapt={"epochs": 5, "share": share}))["adapt"] for share in (1.0, "auto"))
    extra = chosen.units["adapt step"] - fixed.units["adapt step"]
    assert extra == -(-fixed.units["adapt step"] * 3 // 4)  # three folds, with a quarter of the crops in each step
    assert "to choose the share" in chosen.work and "to choose" not in fixed.work


def test_counts_match_the_run(coco: TinyCoco, tmp_path: Path) -> None:
    recipe = _recipe(coco, adapt={"min_side": 20}, propose={"dense_sides": [64, 96]})
    plans = _counted(recipe)
    done = run_recipe(recipe, tmp_path / "run")
    assert plans["adapt"].units["adapt step"] == done["adapt"].steps
    assert plans["adapt"].units["look at a crop"] == 2 * done["adapt"].val_crops
    assert f"{done['adapt'].crops} crops forward and backward" in plans["adapt"].teacher
    assert plans["adapt"].units["read an image"] == 8  # kept for the second epoch
    assert plans["propose"].units == {"propose in an image": done["propose"].images}
    assert f"{done['propose'].dense_passes} dense passes" in plans["propose"].teacher
    rows = done["propose"].proposals + done["propose"].base_boxes
    assert rows <= plans["propose"].stored <= 1.2 * rows
    assert plans["train"].units == {"train step": done["train"].steps}
    found = json.loads((tmp_path / "run/evaluate/detections.json").read_text())
    assert plans["evaluate"].stored >= len(found)
    assert plans["evaluate"].units["detect in an image"] == done["evaluate"].counts.images


def test_validations_are_work_of_the_training(coco: TinyCoco) -> None:
    plan = _counted(_recipe(coco, train={"validate_steps": 3, "validate_images": 6}))["train"]
    assert "3 validations on at most 6 val images" in plan.work  # at steps 3, 6 and 8
    assert plan.units == {"train step": 8, "detect in an image": 9}  # a pace is that of two rounds


def test_unneeded_stages_are_not_planned(coco: TinyCoco) -> None:
    plans = _counted(_recipe(coco, adapt={"enabled": False}, train={"distillation_weight": 0.0},
                             evaluate={"proposals": False}))  # fmt: skip
    assert list(plans) == ["adapt", "train", "evaluate"]
    assert "adapt step" not in plans["adapt"].units
    assert plans["evaluate"].units["recall of an image"] == 0 and plans["evaluate"].teacher == ""


def test_counts_depend_on_the_scoring(coco: TinyCoco) -> None:
    dense, exhaustive = _counted(_recipe(coco))["propose"], _counted(_recipe(coco, propose={"scoring": "exhaustive"}))
    assert "dense passes" in dense.teacher and "dense passes" not in exhaustive["propose"].teacher
    crops = [int(text.partition("at most ")[2].split()[0].replace(",", ""))
             for text in (dense.teacher, exhaustive["propose"].teacher)]  # fmt: skip
    assert crops[1] > 2 * crops[0]
    rpn = _counted(_recipe(coco, propose={"scoring": "rpn", "rpn_epochs": 3}))["propose"]
    assert rpn.units["rpn step"] == 12  # 3 x 8 images, 2 per step


def test_time_is_count_times_pace() -> None:
    paces = {"adapt step": Pace(1.0, 0.5, 2.0), "read an image": Pace(0.1, 0.1, 0.1)}
    plan = StagePlan("adapt", "", "", {"adapt step": 100, "read an image": 50, "look at a crop": 7})
    assert plan.time(paces) == Pace(105.0, 55.0, 205.0)  # type: ignore[arg-type]


def test_plan_has_all_rows_and_writes_no_files(coco: TinyCoco, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    console = Console(width=200, record=True, file=(tmp_path / "plan.txt").open("w"))
    console.print(make_plan(_recipe(coco), "tiny.yaml"))
    expected = console.export_text()
    assert "Plan of tiny.yaml on cpu" in expected
    assert "2 base and 2 novel names; train 8 images with" in expected
    for row in ("adapt", "propose", "train", "evaluate", "total", "MB", "Measured in", "of memory"):
        assert row in expected
    added = {path for path in tmp_path.rglob("*") if path.is_file()} - set(before)
    assert {path.name for path in added if "cache" not in path.parts} == {"plan.txt"}


def test_problems_of_both_parts_are_reported_together(coco: TinyCoco, tmp_path: Path) -> None:
    next(coco.images.iterdir()).unlink()
    val = tmp_path / "val.json"
    val.write_text("{}")
    part = {"images": str(coco.images), "annotations": str(val)}
    with pytest.raises(DataError) as caught:
        make_plan(_recipe(coco, data={"val": part}), "tiny.yaml")
    assert len(caught.value.problems) >= 2
    assert "val.json" in str(caught.value)


def test_describe_work_counts_the_stages_without_measuring(coco: TinyCoco) -> None:
    recipe = _recipe(coco)
    split = load_split(recipe.split)
    images = {"train": load_images(recipe.data.train, split.base), "val": load_images(recipe.data.val, split.names)}
    expected = describe_work(recipe, split, images, ["train", "evaluate"])
    assert "train: 8 steps of 2 images" in expected and "evaluate: 8 images" in expected and "adapt" not in expected
    assert "train" not in describe_work(recipe, split, {"val": images["val"]}, ["evaluate"])
    assert "ezsd plan" in expected


def test_command_prints_the_plan_and_exits_with_2_on_problems(coco: TinyCoco, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from ezsd.cli import app

    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(tiny_values(str(coco.images), str(coco.annotations))))
    result = CliRunner().invoke(app, ["plan", str(path), "--set", "train.epochs=10"])
    assert result.exit_code == 0, result.output
    assert "total" in result.stdout
    assert CliRunner().invoke(app, ["plan", str(path), "--set", "train.lr=fast"]).exit_code == 2

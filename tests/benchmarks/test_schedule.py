"""Tests of the schedule: its variants and lengths, the crossing, the plot, and one small run."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import schedule
from ezsd.recipe import load_recipe, parse_recipe, save_recipe
from schedule import Point
from tiny import TinyCoco
from tiny_teacher import tiny_values


def _point(variant: str, share: float, novel: float, seconds: float = 100.0) -> Point:
    return Point(variant, share, "recipe", 1000 * share, 4000 * share, seconds * share, novel, 1.0, 50.0)


POINTS = [
    *(_point("ezsd", share, novel) for share, novel in ((0.05, 5.0), (0.1, 20.0), (1.0, 60.0))),
    *(_point("baseline", share, novel, 80.0) for share, novel in ((0.05, 2.0), (0.1, 6.0), (1.0, 19.5))),
    _point("paper", 1.0, 61.0),
]


def test_plain_baseline_has_none_of_the_three_ideas_and_no_addition() -> None:
    found = {name: schedule.variant_recipe("pocket", ["train.epochs=4"], name) for name in schedule.VARIANTS}
    assert found["ezsd"] == load_recipe("pocket", ["train.epochs=4"])
    assert {name: recipe.train.names_weight > 0 for name, recipe in found.items()} == {
        "ezsd": True, "paper": False, "plain-baseline": False, "baseline": True,
    }  # fmt: skip
    for name in ("plain-baseline", "baseline"):
        recipe = found[name]
        assert (recipe.adapt.enabled, recipe.propose.scoring) == (False, "rpn")
        assert not recipe.detector.semantic_regression
    assert all(recipe.train.epochs == 4 for recipe in found.values())


def test_every_variant_gets_the_settings_for_short_trainings() -> None:
    assert schedule.settings_of(0.1) == ("recipe", "short") and schedule.settings_of(0.5) == ("recipe",)
    for name in schedule.VARIANTS:
        recipe = schedule.variant_recipe("pocket", [], name)
        same, short = (schedule.at_length(recipe, 0.1, settings).train for settings in ("recipe", "short"))
        assert same.epochs == short.epochs == pytest.approx(0.8)
        assert (short.batch_size, short.warmup_steps, short.lr) == (2, 20, pytest.approx(0.7 * recipe.train.lr))
        assert same.batch_size == recipe.train.batch_size
        assert (short.distillation_weight < same.distillation_weight) == (recipe.train.names_weight > 0)


def test_crossing_is_the_first_length_that_reaches_the_final_figure() -> None:
    lines = schedule.crossings(POINTS)
    assert len(lines) == 2
    assert "does not reach the novel AP50 of paper" in lines[0]
    assert "of baseline after 4,000 images, 1,000 steps and 80 s (19.5) at 0.1 of the schedule" in lines[1]
    assert "400 images, 100 steps, 10 s (20.0)" in lines[1]


def test_table_and_plot_show_every_point() -> None:
    assert len(schedule.table(POINTS).splitlines()) == 2 + len(POINTS)
    page = ElementTree.fromstring(schedule.plot(POINTS))
    assert len(list(page.iter("{http://www.w3.org/2000/svg}circle"))) == 2 * len(POINTS)


@pytest.mark.slow
def test_run_bills_shared_stages_to_every_length(
    tmp_path: Path, tiny_coco: Callable[..., TinyCoco], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    coco, out = tiny_coco(tmp_path / "data"), tmp_path / "out"
    values: Any = tiny_values(str(coco.images), str(coco.annotations))
    save_recipe(parse_recipe(values, "test"), tmp_path / "recipe.yaml")
    arguments = ["schedule.py", str(tmp_path / "recipe.yaml"), "--out", str(out), "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--shares", "0.5", "1", "--variants", "ezsd"])
    schedule.main()
    assert "| ezsd | 0.5 | recipe |" in capsys.readouterr().out
    first, second = json.loads((out / "schedule.json").read_text())
    assert first["steps"] * 2 == second["steps"]
    costs = [
        json.loads((out / f"ezsd_recipe_{share}_seed0/evaluate/metrics.json").read_text())["cost"]
        for share in ("0.5", "1")
    ]
    assert costs[0]["propose_s"] == costs[1]["propose_s"] and costs[0]["adapt_s"] == costs[1]["adapt_s"]
    assert first["seconds"] == pytest.approx(sum(costs[0][key] for key in ("adapt_s", "propose_s", "train_s")))

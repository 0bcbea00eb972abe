"""Tests of the benchmark that leaves base names out: which names, and that no box of a novel name is read."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ezsd.errors import RecipeError
from ezsd.recipe import Recipe, parse_recipe, save_recipe
from left_out import left_out, left_out_recipe, main
from tiny import SPLIT, TinyCoco
from tiny_teacher import tiny_values


def _recipe(coco: TinyCoco) -> Recipe:
    values: Any = tiny_values(str(coco.images), str(coco.annotations))
    return parse_recipe(values, "test")


def test_names_are_left_out_over_the_whole_range_of_their_numbers() -> None:
    train = Counter({f"name{number}": 100 - number for number in range(12)})
    assert left_out(train, train, 0.25) == ["name2", "name6", "name10"]
    assert left_out(train, Counter({"name5": 1, "name7": 2}), 0.25) == ["name7"]
    assert left_out(train, Counter({"name5": 1}), 0.25) == []


def test_left_out_names_are_base_names_and_the_novel_ones_are_gone(
    tmp_path: Path, tiny_coco: Callable[..., TinyCoco]
) -> None:
    recipe = _recipe(tiny_coco(tmp_path))
    split: Any = left_out_recipe(recipe, 0.5).split
    assert len(split["novel"]) == 1 and {*split["base"], *split["novel"]} == set(SPLIT.base)
    single = recipe.model_copy(update={"split": {"base": SPLIT.base[:1], "novel": SPLIT.novel}})
    with pytest.raises(RecipeError, match="Fewer than two base names"):
        left_out_recipe(single, 0.5)


@pytest.mark.slow
def test_small_run(
    tmp_path: Path, tiny_coco: Callable[..., TinyCoco], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    recipe, out = _recipe(tiny_coco(tmp_path / "data")), tmp_path / "out"
    save_recipe(recipe, tmp_path / "recipe.yaml")
    monkeypatch.setattr(sys, "argv", ["left_out.py", str(tmp_path / "recipe.yaml"), "--out", str(out)])
    main()
    assert "| AP50 |" in capsys.readouterr().out and (out / "report.html").is_file()
    names = json.loads((out / "train/model/config.json").read_text())
    assert not {*names["base"], *names["novel"]} & set(SPLIT.novel)

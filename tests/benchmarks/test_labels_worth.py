"""Tests of the worth in labels: draws of boxes, the comparison, and one small run."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import labels_worth
from ezsd.errors import DataError
from ezsd.recipe import parse_recipe, save_recipe
from tiny import CATEGORIES, SPLIT, TinyCoco
from tiny_teacher import tiny_values


def _counts(content: dict[str, list[Any]]) -> Counter[str]:
    return Counter(CATEGORIES[entry["category_id"]] for entry in content["annotations"])


def test_a_draw_keeps_all_base_boxes_and_as_many_novel_boxes_as_asked_for(
    tmp_path: Path, tiny_coco: Callable[..., TinyCoco]
) -> None:
    content = tiny_coco(tmp_path).content
    before, found = _counts(content), labels_worth.few_boxes(content, SPLIT, 1, 0)
    after = _counts(found)
    assert {name: after[name] for name in SPLIT.novel} == {"triangle": 1, "bar": 1}
    assert all(after[name] == before[name] for name in (*SPLIT.base, "ring"))
    assert found == labels_worth.few_boxes(content, SPLIT, 1, 0)
    assert any(labels_worth.few_boxes(content, SPLIT, 1, draw) != found for draw in range(1, 5))
    assert _counts(content) == before
    with pytest.raises(DataError, match='"bar" has . boxes, 40 are needed'):
        labels_worth.few_boxes(content, SPLIT, 40, 0)


def test_verdict_is_the_fewest_boxes_that_equal_ezsd() -> None:
    rows = [
        {"detector": detector, "boxes": boxes, "draw": draw, "novel": novel + draw, "base": 9.0, "seconds": 5.0}
        for detector, boxes, novel in (
            ("ezsd", 0, 10.0),
            ("ordinary", 2, 4.0),
            ("ordinary", 5, 12.0),
            ("ezsd", 2, 15.0),
        )
        for draw in range(2)
    ]
    assert "(10.5) with 5 boxes" in labels_worth.verdict(rows)
    assert "does not equal" in labels_worth.verdict([row for row in rows if row["boxes"] != 5])
    assert "| 2 | ordinary | 4.5 ± 0.7 | 9.0 ± 0.0 | 5.0 ± 0.0 |" in labels_worth.table(rows)


@pytest.mark.slow
def test_small_run(
    tmp_path: Path, tiny_coco: Callable[..., TinyCoco], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    coco, out = tiny_coco(tmp_path / "data"), tmp_path / "out"
    values: Any = tiny_values(str(coco.images), str(coco.annotations))
    save_recipe(parse_recipe(values, "test"), tmp_path / "recipe.yaml")
    arguments = ["labels_worth.py", str(tmp_path / "recipe.yaml"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--boxes", "1", "--draws", "1"])
    labels_worth.main()
    assert "| 0 | ezsd |" in capsys.readouterr().out
    rows = json.loads((out / "labels_worth.json").read_text())
    assert [(row["detector"], row["boxes"]) for row in rows] == [("ezsd", 0), ("ordinary", 1), ("ezsd", 1)]
    config = json.loads((out / "ezsd_1_draw0/train/model/config.json").read_text())
    assert config["setting"] == "few_shot"
    labels_worth.main()  # resumes: nothing is trained again
    assert json.loads((out / "labels_worth.json").read_text()) == rows

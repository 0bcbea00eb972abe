"""Tests of the measurement of paces: it runs the code of the stages and keeps no files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ezsd.commands import timing as module
from ezsd.commands.timing import measure
from ezsd.data.categories import CategorySplit, load_split
from ezsd.data.formats.coco import load_images
from ezsd.data.samples import ImageSet
from ezsd.pipeline.workload import Pace
from ezsd.proposals.candidates import anchor_grid
from ezsd.recipe import ProposeConfig, Recipe, parse_recipe
from tiny import make_tiny_coco
from tiny_teacher import tiny_values

EVERY = {"read an image", "look at a crop", "adapt step", "propose in an image", "train step", "detect in an image",
         "recall of an image"}  # fmt: skip


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", dict.fromkeys([*module._SECONDS], 0.1))
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()


def _read(tmp_path: Path, changes: Mapping[str, Mapping[str, Any]]) -> tuple[Recipe, CategorySplit, ImageSet, ImageSet]:
    coco = make_tiny_coco(tmp_path / "data")
    values: dict[str, Any] = tiny_values(str(coco.images), str(coco.annotations))
    for section, entries in changes.items():
        values[section] = values.get(section, {}) | entries
    recipe = parse_recipe(values, "test")
    split = load_split(recipe.split)
    return recipe, split, load_images(recipe.data.train, split.base), load_images(recipe.data.val, split.names)


@pytest.mark.parametrize(
    "changes, measured",
    [
        ({}, EVERY),
        ({"adapt": {"enabled": False}}, EVERY - {"adapt step"}),
        ({"train": {"distillation_weight": 0.0}, "evaluate": {"proposals": False}},
         EVERY - {"propose in an image", "recall of an image"}),
        ({"propose": {"scoring": "rpn"}}, EVERY | {"rpn step"}),
        ({"propose": {"scoring": "exhaustive"}}, EVERY),
    ],
)  # fmt: skip
def test_only_the_work_of_the_recipe_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, dict[str, Any]], measured: set[str]
) -> None:
    found = measure(*_read(tmp_path, changes))
    assert set(found.paces) == measured
    assert all(0 < pace.low <= pace.mean <= pace.high for kind, pace in found.paces.items() if kind != "adapt step")
    assert found.embedding_dim == 16 and found.model_bytes > 1e6
    assert list((tmp_path / "temporary").iterdir()) == []  # the files of the stages are removed
    assert capsys.readouterr().err == ""


def test_pace_has_the_spread_of_the_measurements() -> None:
    pace = Pace.of([1.0, 1.0, 1.0, 3.0])
    assert pace.mean == 1.5
    assert pace.low == 1.0 and 1.5 < pace.high <= 3.0
    assert Pace.of([2.0]) == Pace(2.0, 1.0, 4.0)  # one measurement has no spread
    assert pace * 2 == Pace(3.0, 2.0, 2 * pace.high)


def test_exhaustive_scoring_is_measured_on_a_coarser_grid(tmp_path: Path) -> None:
    image = _read(tmp_path, {})[2].images[0]
    settings = ProposeConfig(scoring="exhaustive", image_size=(512, 512), stride=16)
    coarse, factor = module._affordable(settings, image)
    grids = [len(anchor_grid(image.height, image.width, each)) for each in (settings, coarse)]
    assert grids[1] < 600 < grids[0]
    assert factor == grids[0] / grids[1]
    assert module._affordable(ProposeConfig(), image) == (ProposeConfig(), 1.0)

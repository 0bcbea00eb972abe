"""The benchmark of the plain closed-set detector: it learns base boxes alone, resumes, and speaks of whole photos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

import closed_set
from ezsd.data.coco import load_photos
from ezsd.files import read_tensors
from ezsd.recipe import Recipe, parse_recipe
from tiny import CATEGORIES, SPLIT, TinyCoco
from tiny_teacher import tiny_values


def _recipe(coco: TinyCoco) -> Recipe:
    return parse_recipe(tiny_values(str(coco.images), str(coco.annotations)), "test")


def _trained(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(sorted((folder / "checkpoints").iterdir())[-1] / "tensors.safetensors")[0]


def test_novel_boxes_teach_it_nothing_and_count_for_nothing(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    coco = tiny_coco(tmp_path / "with")
    figures = closed_set.closed_set(_recipe(coco), tmp_path / "first")
    base = {key for key, name in CATEGORIES.items() if name in SPLIT.base}
    coco.content["annotations"] = [entry for entry in coco.content["annotations"] if entry["category_id"] in base]
    coco.save()
    others = closed_set.closed_set(_recipe(coco), tmp_path / "second")
    assert (figures["ap50"], figures["ap"]) == (others["ap50"], others["ap"])
    first, second = _trained(tmp_path / "first"), _trained(tmp_path / "second")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_it_goes_on_where_it_was_and_writes_its_figures(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    recipe = _recipe(tiny_coco(tmp_path / "data"))
    figures = closed_set.closed_set(recipe, tmp_path / "out")
    again = closed_set.closed_set(recipe, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == again
    assert (again["ap50"], again["ap"]) == (figures["ap50"], figures["ap"])


def test_boxes_are_told_in_pixels_of_the_photo(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    photo = load_photos(tiny_coco(tmp_path / "data").part(), SPLIT.base).photos[0]
    found = {"boxes": torch.tensor([[1.0, 2, 4, 8]]), "labels": torch.tensor([2]), "scores": torch.tensor([0.5])}
    (result,) = closed_set.results_of(photo, found, 2.0)
    assert result == {"image_id": photo.image_id, "category_id": 2, "bbox": [2, 4, 6, 12], "score": 0.5}

"""Tests of the plain closed-set detector: it learns base boxes only, resumes, and returns its own labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import closed_set
from ezsd.detector.rcnn import Rcnn
from ezsd.errors import ArtifactError
from ezsd.recipe import Recipe, parse_recipe
from ezsd.utils.files import read_tensors
from tiny import CATEGORIES, SPLIT, TinyCoco
from tiny_teacher import tiny_values


def _recipe(coco: TinyCoco) -> Recipe:
    return parse_recipe(tiny_values(str(coco.images), str(coco.annotations)), "test")


def _trained(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(sorted((folder / "checkpoints").iterdir())[-1] / "tensors.safetensors")[0]


def test_novel_boxes_do_not_change_training_or_figures(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    coco = tiny_coco(tmp_path / "with")
    figures = closed_set.closed_set(_recipe(coco), tmp_path / "first")
    base = {key for key, name in CATEGORIES.items() if name in SPLIT.base}
    coco.content["annotations"] = [entry for entry in coco.content["annotations"] if entry["category_id"] in base]
    coco.save()
    others = closed_set.closed_set(_recipe(coco), tmp_path / "second")
    assert (figures["ap50"], figures["ap"]) == (others["ap50"], others["ap"])
    first, second = _trained(tmp_path / "first"), _trained(tmp_path / "second")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_second_call_resumes_and_writes_the_figures(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    recipe = _recipe(tiny_coco(tmp_path / "data"))
    figures = closed_set.closed_set(recipe, tmp_path / "out")
    again = closed_set.closed_set(recipe, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == again
    assert (again["ap50"], again["ap"]) == (figures["ap50"], figures["ap"])


def test_folder_of_a_different_recipe_is_rejected(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    recipe = _recipe(tiny_coco(tmp_path / "data"))
    closed_set.closed_set(recipe, tmp_path / "out")
    before = (tmp_path / "out" / "metrics.json").read_text()
    with pytest.raises(ArtifactError, match="made from a different recipe"):
        closed_set.closed_set(recipe.model_copy(update={"seed": recipe.seed + 1}), tmp_path / "out")
    assert (tmp_path / "out" / "metrics.json").read_text() == before


def test_fixed_names_ignore_the_requested_names(tiny_coco: Callable[..., TinyCoco], tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = _recipe(tiny_coco(tmp_path / "data")).detector
    plain = closed_set.plain_detector(settings, 3, pretrained=False).eval()
    asked = Rcnn(plain.backbone, plain.rpn, closed_set.FixedNames(plain.roi_heads), settings.image_size).eval()
    image = torch.rand(3, 64, 96)
    (found,) = asked.detect([image], torch.zeros(0, 1))
    with torch.no_grad():
        expected = plain([image])[0]
    assert len(found.boxes) and torch.equal(found.boxes, expected["boxes"])
    assert torch.equal(found.labels + 1, expected["labels"]) and torch.equal(found.scores, expected["scores"])

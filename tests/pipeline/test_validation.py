"""Validation while training: AP50 of base names on val images, without novel boxes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ezsd.data.formats.coco import load_images
from ezsd.data.samples import ImageSet
from ezsd.detector.detections import Detections
from ezsd.errors import RecipeError
from ezsd.pipeline.context import RunContext
from ezsd.pipeline.validation import measure_base, validation_images
from ezsd.run_folder import RunFolder
from tiny import CATEGORIES, CROWD_IMAGE, SPLIT, TinyCoco, make_tiny_coco
from tiny_run import make_recipe


@pytest.fixture
def coco(tmp_path: Path) -> TinyCoco:
    return make_tiny_coco(tmp_path / "data")


def _context(coco: TinyCoco, tmp_path: Path, **train: int) -> RunContext:
    recipe = make_recipe(coco)
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=train)})
    return RunContext(recipe, SPLIT, RunFolder(tmp_path / "run"), "cpu")


class _Knows(torch.nn.Module):
    """Detects given boxes by image; images are recognized by their pixels."""

    def __init__(self, images: ImageSet, share: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.image_size = (64, 96)
        self.images, self.share = list(images), share
        self.asked: list[int] = []

    def detect(self, pixels: list[Tensor], text: Tensor, *_: Any) -> list[Detections]:
        from ezsd.data.samples import read_image

        found = []
        for one in pixels:
            image = next(each for each in self.images if torch.equal(read_image(each), one))
            self.asked.append(image.image_id)
            kept = self.share(image.labels)
            found.append(Detections(image.boxes[kept], image.labels[kept] - 1, torch.ones(int(kept.sum()))))
        assert len(text) == len(SPLIT.base)
        return found


def test_only_base_boxes_of_chosen_images_are_measured(coco: TinyCoco, tmp_path: Path) -> None:
    val = load_images(coco.part(), SPLIT.names)
    context = _context(coco, tmp_path, validate_images=5)
    images = validation_images(context, val)
    assert len(images) == 5 and images.names == SPLIT.base
    measure = measure_base(context, images, torch.zeros(2, 4))
    perfect = _Knows(images, lambda labels: labels > 0)
    assert measure(perfect) == pytest.approx(100)
    assert sorted(perfect.asked) == [image.image_id for image in images]
    assert measure(_Knows(images, lambda labels: labels == 1)) == pytest.approx(50)  # one of two names
    assert measure(_Knows(images, lambda labels: labels < 0)) == 0


def test_images_are_a_seeded_choice_among_those_with_base_boxes(coco: TinyCoco, tmp_path: Path) -> None:
    val = load_images(coco.part(), SPLIT.names)
    every = validation_images(_context(coco, tmp_path, validate_images=64), val)
    assert len(every) == 7 and all(len(image.boxes) for image in every)
    assert not next(image for image in every if image.image_id == CROWD_IMAGE).crowd.any()
    chosen = set()
    for seed in range(20):
        context = _context(coco, tmp_path, validate_images=3)
        recipe = context.recipe.model_copy(update={"seed": seed})
        context = RunContext(recipe, SPLIT, context.folder, "cpu")
        first, again = (tuple(image.image_id for image in validation_images(context, val)) for _ in range(2))
        assert first == again
        chosen.add(first)
    assert len(chosen) > 5


def test_novel_boxes_do_not_change_the_choice(coco: TinyCoco, tmp_path: Path) -> None:
    before = validation_images(_context(coco, tmp_path, validate_images=3), load_images(coco.part(), SPLIT.names))
    for entry in coco.content["annotations"]:
        if CATEGORIES[entry["category_id"]] in SPLIT.novel:
            entry["bbox"] = [1.0, 2.0, 9.0, 9.0]
    coco.save()
    after = validation_images(_context(coco, tmp_path, validate_images=3), load_images(coco.part(), SPLIT.names))
    for one, other in zip(before, after, strict=True):
        assert one.image_id == other.image_id and torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.labels, other.labels)


def test_val_images_without_base_boxes_raise_an_error(coco: TinyCoco, tmp_path: Path) -> None:
    coco.content["annotations"] = [
        entry for entry in coco.content["annotations"] if CATEGORIES[entry["category_id"]] not in SPLIT.base
    ]
    coco.save()
    with pytest.raises(RecipeError, match="validate_steps needs base boxes"):
        validation_images(_context(coco, tmp_path), load_images(coco.part(), SPLIT.names))

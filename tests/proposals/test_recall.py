"""Recall of novel boxes by proposals and by random boxes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision.ops import box_iou

from ezsd.data.formats.coco import load_images
from ezsd.data.samples import with_names
from ezsd.proposals.proposer import Proposer
from ezsd.proposals.recall import measure_proposals, novel_recall, random_recall, recall_config
from ezsd.recipe import ProposeConfig
from ezsd.teacher import text_embeddings
from tiny import SPLIT, TinyCoco
from tiny_teacher import ColourTeacher

PROMPT = "a photo of a {name}"
SETTINGS = ProposeConfig(
    image_size=(64, 96), stride=16, sides=(16, 32), ratios=(0.5, 1.0, 2.0), dense_sides=(96,), shortlist=60, keep=12,
    base_filter=False, crop_rank=0.0, batch_size=32,
)  # fmt: skip


@pytest.fixture
def tiny(tmp_path: Path, tiny_coco: Callable[..., TinyCoco], monkeypatch: pytest.MonkeyPatch) -> TinyCoco:
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))
    return tiny_coco(tmp_path / "data")


def test_recall_counts_novel_boxes_that_overlap_the_best_proposals(tiny: TinyCoco) -> None:
    images = load_images(tiny.part(), SPLIT.names)
    novel = {image.image_id: image.boxes[(image.labels > 2) & ~image.crowd] for image in images}
    total = sum(map(len, novel.values()))
    assert total >= 3
    away = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    late = {image_id: torch.cat([away.expand(2, 4), boxes]) for image_id, boxes in novel.items()}
    recall = novel_recall(late, images, SPLIT.novel, at=(2, 9))
    assert recall == {"novel_recall_at_2": 0.0, "novel_recall_at_9": 1.0}
    one = next(image_id for image_id, boxes in novel.items() if len(boxes))
    only = {image_id: boxes if image_id == one else away for image_id, boxes in novel.items()}
    assert novel_recall(only, images, SPLIT.novel, at=(9,))["novel_recall_at_9"] == len(novel[one]) / total
    assert novel_recall({}, images, SPLIT.novel) == {"novel_recall_at_100": None, "novel_recall_at_300": None}
    for image in images:
        image.crowd[image.labels > 2] = True
    assert novel_recall(late, images, SPLIT.novel)["novel_recall_at_100"] is None


def test_the_iou_threshold_of_recall_is_one_half(tiny: TinyCoco) -> None:
    images = load_images(tiny.part(), SPLIT.names)
    image = next(entry for entry in images if bool((entry.labels > 2).any()))
    box = image.boxes[image.labels > 2][:1]
    for part, met in ((0.51, 1), (0.49, 0)):
        shrunk = box.clone()
        shrunk[:, 3] = box[:, 1] + (box[:, 3] - box[:, 1]) * part
        assert math.isclose(float(box_iou(box, shrunk)), part, abs_tol=1e-3)
        recall = novel_recall({image.image_id: shrunk}, images, SPLIT.novel)["novel_recall_at_100"]
        assert recall is not None and (recall > 0) == bool(met)


def test_recall_is_measured_on_images_with_novel_boxes(tiny: TinyCoco) -> None:
    images = load_images(tiny.part(), SPLIT.names)
    every = SETTINGS.model_copy(update={"sides": (32,), "shortlist": 5000, "nms": 1.0})
    proposer = Proposer(ColourTeacher(), text_embeddings(ColourTeacher(), SPLIT.names, PROMPT), 2, every, "cpu")
    found = measure_proposals(proposer, images, SPLIT)
    chance = random_recall(images, SPLIT, every)
    assert set(found) == {"novel_recall_at_100", "novel_recall_at_300"}
    assert found["novel_recall_at_300"] == chance["novel_recall_at_300"]  # all boxes of the grid, in a different order

    def measured(**changes: float) -> float:
        changed = replace(proposer, config=every.model_copy(update=changes))
        return measure_proposals(changed, images, SPLIT)["novel_recall_at_300"] or 0

    assert measured(crop_rank=0.5) == found["novel_recall_at_300"]
    assert 0 < measured(base_overlap=0.0) < (found["novel_recall_at_300"] or 0)
    nothing = measure_proposals(proposer, load_images(tiny.part(), SPLIT.base), SPLIT)
    assert nothing["novel_recall_at_100"] is None


def test_recall_crops_only_what_can_change_it(tiny: TinyCoco) -> None:
    ranked = SETTINGS.model_copy(update={"crop_rank": 0.5})
    assert (recall_config(ranked).keep, recall_config(ranked).crop_rank) == (300, 0.0)
    assert recall_config(ranked, at=(10, 100)).crop_rank == 0.5  # crops reorder the best 12
    assert recall_config(ranked.model_copy(update={"keep": 150})).crop_rank == 0.5
    assert recall_config(ranked.model_copy(update={"scoring": "exhaustive"})).crop_rank == 0.5
    teacher = ColourTeacher()
    proposer = Proposer(teacher, text_embeddings(teacher, SPLIT.names, PROMPT), 2, ranked, "cpu")
    images = [with_names(image, SPLIT.names, SPLIT.base) for image in load_images(tiny.part(), SPLIT.names)]
    best = replace(proposer, config=recall_config(ranked)).rank(images)
    for kept, more in zip(proposer.rank(images), best, strict=True):
        assert {tuple(box) for box in kept.tolist()} == {tuple(box) for box in more[: len(kept)].tolist()}

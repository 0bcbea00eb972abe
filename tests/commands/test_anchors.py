"""Anchor sides for own images: the best overlap is that of the RPN's anchors, and the choice follows the boxes."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from ezsd.commands.anchors import LabeledBoxes, advice_on_anchors, best_overlaps, choose_anchors
from ezsd.detector.rpn import build_rpn
from ezsd.recipe import DetectorConfig


def _random_boxes(count: int, width: int, height: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    sides = torch.rand(count, 2, generator=generator).pow(2) * torch.tensor([width, height]) + 1
    corner = torch.rand(count, 2, generator=generator) * (torch.tensor([width, height]) - sides).clamp(min=0)
    return torch.cat([corner, corner + sides], dim=1)


@pytest.mark.parametrize("scales", [(1.0,), (0.71, 1.0, 1.41)])
def test_best_overlap_is_that_of_all_anchors_of_the_rpn(scales: tuple[float, ...]) -> None:
    width, height, sides = 192, 128, (11, 23, 45, 91, 182)
    rpn = build_rpn(DetectorConfig(anchor_sides=sides, anchor_scales=scales), 8)
    levels = [torch.zeros(1, 8, -(-height // stride), -(-width // stride)) for stride in (4, 8, 16, 32, 64)]
    anchors = rpn.anchor_generator(ImageList(torch.zeros(1, 3, height, width), [(height, width)]), levels)[0]
    boxes = _random_boxes(300, width, height)
    found = best_overlaps(LabeledBoxes(boxes, torch.tensor([[width, height]]).expand(300, 2)), sides, scales)
    assert torch.allclose(found, box_iou(boxes, anchors).amax(1), atol=1e-5)


def _squares(side: float, size: tuple[float, float] = (384, 288)) -> LabeledBoxes:
    corners = torch.arange(0, 64, 8).float()[:, None].repeat(1, 2)
    return LabeledBoxes(torch.cat([corners, corners + side], dim=1), torch.tensor([size]).repeat(len(corners), 1))


def test_sides_scale_with_the_input_unless_others_fit_clearly_better() -> None:
    usual = choose_anchors(_squares(60), (288, 384), 16 / 384)
    assert usual.sides == (16, 32, 64, 128, 256)
    assert choose_anchors(_squares(60), (480, 640), 16 / 384).sides == (27, 53, 107, 213, 427)
    small = choose_anchors(_squares(6), (288, 384), 16 / 384)
    assert small.sides[0] == 8 and small.shares[0] > 0.5
    assert "Anchors of 8 to 128 px: 100 % of the base boxes have an anchor with IoU 0.5" in small.advice


@pytest.mark.parametrize("small, smallest", [(1, 16), (4, 11)])
def test_a_few_boxes_do_not_change_the_sides(small: int, smallest: int) -> None:
    usual, tiny = _squares(60), _squares(9)  # a box of 9 px fits an anchor of 11 px, but none of 16 px
    boxes = torch.cat([usual.boxes.repeat(5, 1), tiny.boxes[:small]])
    labeled = LabeledBoxes(boxes, usual.sizes[:1].repeat(len(boxes), 1))
    assert choose_anchors(labeled, (288, 384), 16 / 384).sides[0] == smallest


def test_boxes_are_measured_in_the_resized_image() -> None:
    large = _squares(60, (3840, 2880))  # 6 pixels in an input of 384
    assert choose_anchors(large, (288, 384), 16 / 384).sides[0] == 8


def test_no_boxes_give_the_usual_sides() -> None:
    nothing = LabeledBoxes(torch.zeros(0, 4), torch.zeros(0, 2))
    assert choose_anchors(nothing, (288, 384), 16 / 384).sides == (16, 32, 64, 128, 256)


def test_advice_names_anchors_that_fit_after_a_change_of_the_input_size() -> None:
    boxes, usual = _squares(30), {"anchor_sides": (24, 48, 96, 192), "anchor_scales": (0.71, 1.0, 1.41)}
    assert not advice_on_anchors(boxes, DetectorConfig(image_size=(288, 384), **usual))
    (advice,) = advice_on_anchors(boxes, DetectorConfig(image_size=(72, 96), **usual))
    assert (
        "detector.image_size [72, 96]: 0 % of the base boxes have an anchor with IoU 0.5 or more, 0 % with 0.7"
        in advice
    )
    advised = tuple(json.loads(advice.partition("anchor_sides: ")[2].partition("]")[0] + "]"))
    assert not advice_on_anchors(boxes, DetectorConfig(image_size=(72, 96), **usual | {"anchor_sides": advised}))


def test_without_boxes_there_is_no_advice() -> None:
    nothing = LabeledBoxes(torch.zeros(0, 4), torch.zeros(0, 2))
    assert not advice_on_anchors(nothing, DetectorConfig())

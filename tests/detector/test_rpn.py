"""The RPN: ignored regions, anchors, sampling and NMS."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from ezsd.detector.rpn import build_rpn, on_ignored
from ezsd.recipe import DetectorConfig
from ezsd.utils.boxes import covered_share


def boxes(seed: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 60
    return torch.cat([corner, corner + 2 + torch.rand(count, 2, generator=generator) * 40], dim=1)


def target(crowd: Tensor | None = None, ignored: Tensor | None = None) -> dict[str, Tensor]:
    nothing = torch.zeros(0, 4)
    return {
        "crowd_boxes": nothing if crowd is None else crowd,
        "ignored_boxes": nothing if ignored is None else ignored,
    }


@given(st.integers(0, 200))
def test_covered_share_is_intersection_over_own_area(seed: int) -> None:
    first, second = boxes(seed, 5), boxes(seed + 1, 4)
    area = (first[:, 2:] - first[:, :2]).prod(1)[:, None]
    other = (second[:, 2:] - second[:, :2]).prod(1)[None]
    iou = box_iou(first, second)
    intersection = iou * (area + other) / (1 + iou)
    assert torch.allclose(covered_share(first, second), intersection / area, atol=1e-4)


def test_anchors_are_exact_for_half_precision_features() -> None:
    rpn = build_rpn(DetectorConfig(backbone="tf_efficientnet_lite0", fpn_channels=8), 8)
    images = ImageList(torch.zeros(1, 3, 256, 512), [(256, 512)])
    levels = [torch.zeros(1, 8, 64 // 2**level, 128 // 2**level) for level in range(5)]
    exact = rpn.anchor_generator(images, levels)[0]
    assert len(exact) == sum(3 * level[0, 0].numel() for level in levels)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(rpn.anchor_generator(images, [level.to(dtype) for level in levels])[0], exact)


def test_small_box_inside_a_crowd_is_ignored() -> None:
    found = on_ignored(torch.tensor([[10.0, 10, 14, 14], [80, 80, 90, 90]]), target(torch.tensor([[0.0, 0, 60, 60]])))
    assert found.tolist() == [True, False]


def test_box_is_on_a_crowd_if_more_than_half_of_it_is_inside() -> None:
    crowds = torch.tensor([[0.0, 0, 100, 100], [500, 500, 600, 600]])
    shares = torch.tensor([[90.0, 0, 110, 20], [89, 0, 109, 20], [91, 0, 111, 20]])  # 0.5, 0.55 and 0.45 inside
    assert on_ignored(shares, target(crowds)).tolist() == [False, True, False]


def test_box_is_on_an_ignored_region_if_the_iou_is_over_half() -> None:
    region = torch.tensor([[0.0, 0, 100, 100]])
    found = on_ignored(torch.tensor([[0.0, 0, 50, 100], [0, 0, 52, 100], [0, 0, 48, 100]]), target(ignored=region))
    assert found.tolist() == [False, True, False]


def test_small_box_inside_an_ignored_region_is_not_ignored() -> None:
    region = torch.tensor([[0.0, 0, 60, 60]])
    found = on_ignored(torch.tensor([[0.0, 0, 60, 50], [10, 10, 14, 14]]), target(ignored=region))
    assert found.tolist() == [True, False]


def test_anchors_on_ignored_regions_are_not_background() -> None:
    rpn = build_rpn(DetectorConfig(), 8)
    anchors = torch.tensor([[0.0, 0, 50, 50], [100, 100, 150, 150], [200, 200, 250, 250]])
    crowd, ignored = anchors[:1], anchors[1:2]
    real = torch.tensor([[300.0, 300, 320, 320]])
    labels, _ = rpn.assign_targets_to_anchors([anchors], [{"boxes": real[:0], **target(crowd, ignored)}])
    assert labels[0].tolist() == [-1, -1, 0]


def test_object_on_an_ignored_region_stays_an_object() -> None:
    rpn = build_rpn(DetectorConfig(), 8)
    anchors = torch.tensor([[0.0, 0, 50, 50]])
    labels, _ = rpn.assign_targets_to_anchors([anchors], [{"boxes": anchors, **target(anchors, anchors)}])
    assert labels[0].tolist() == [1]


def test_anchors_have_one_side_per_level_and_three_ratios() -> None:
    rpn = build_rpn(DetectorConfig(anchor_sides=(8, 16, 32, 64, 128)), 8)
    images = ImageList(torch.zeros(1, 3, 256, 256), [(256, 256)])
    levels = [torch.zeros(1, 8, 64 // 2**level, 64 // 2**level) for level in range(5)]
    anchors = rpn.anchor_generator(images, levels)[0]
    sides = anchors[:, 2:] - anchors[:, :2]
    for level, side in zip((slice(0, 3), slice(-3, None)), (8, 128), strict=True):
        ratios = sides[level, 1] / sides[level, 0]
        assert torch.allclose(ratios, torch.tensor([0.5, 1, 2]), rtol=0.25)  # torchvision rounds to whole pixels
        assert torch.allclose(sides[level].prod(1).sqrt(), torch.tensor(float(side)), rtol=0.1)


def test_anchor_scales_multiply_the_anchors_of_a_position() -> None:
    one, two = (
        build_rpn(DetectorConfig(anchor_sides=(16, 32, 64, 128, 256), anchor_scales=scales), 8)
        for scales in ((1.0,), (1.0, 1.5))
    )
    images = ImageList(torch.zeros(1, 3, 64, 64), [(64, 64)])
    levels = [torch.zeros(1, 8, 16 // 2**level, 16 // 2**level) for level in range(5)]
    few, many = (rpn.anchor_generator(images, levels)[0] for rpn in (one, two))
    assert len(many) == 2 * len(few) == sum(level.numel() for level in two.head(levels)[0])
    found = {tuple(anchor) for anchor in many.tolist()}
    assert {tuple(anchor) for anchor in few.tolist()} < found
    assert (-12.0, -12.0, 12.0, 12.0) in found  # side 16 x 1.5 at the first position
    two.eval()
    boxes, scores = two.propose(images, dict(zip("0123p", levels, strict=True)))
    assert len(boxes) == len(scores) > 0


def test_anchors_are_objects_from_an_iou_of_0_7_and_background_below_0_3() -> None:
    rpn = build_rpn(DetectorConfig(), 8)
    anchors = torch.tensor([[0.0, 0, 100, 95], [0, 0, 100, 72], [0, 0, 100, 65], [0, 0, 100, 32], [0, 0, 100, 28]])
    labels, _ = rpn.assign_targets_to_anchors([anchors], [{"boxes": torch.tensor([[0.0, 0, 100, 100]]), **target()}])
    assert labels[0].tolist() == [1, 1, -1, -1, 0]


def test_half_of_256_sampled_anchors_are_objects_if_enough_exist() -> None:
    labels = torch.cat([torch.ones(300), torch.zeros(300)])
    (objects,), (background,) = build_rpn(DetectorConfig(), 8).fg_bg_sampler([labels])
    assert (int(objects.sum()), int(background.sum())) == (128, 128)


@pytest.mark.parametrize("training", [True, False])
def test_nms_runs_before_the_best_regions_are_kept(training: bool) -> None:
    rpn = build_rpn(DetectorConfig(rpn_proposals=2), 8).train(training)

    def kept(boxes: list[list[float]]) -> list[list[float]]:
        scores = torch.arange(len(boxes), 0, -1.0)[:, None]
        return rpn.filter_proposals(torch.tensor([boxes]), scores[None], [(500, 500)], [len(boxes)])[0][0].tolist()

    best, other = [0.0, 0, 100, 100], [200.0, 200, 300, 300]
    worse, separate = [0.0, 0, 100, 72], [0.0, 0, 100, 68]  # IoU with the best
    assert kept([best, worse, separate, other]) == [best, separate]
    assert kept([best, worse, worse, other]) == [best, other]
    assert kept([best, worse, worse, worse, other]) == [best]  # NMS gets twice as many regions as are kept

"""The anchor grid, scoring and selection of candidate boxes."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import nms

from ezsd.proposals.candidates import agreement, anchor_grid, confidence, first_of_nms, lie_on, select
from ezsd.recipe import ProposeConfig
from ezsd.utils.resize import resize_scale


@settings(max_examples=40)
@given(height=st.integers(1, 900), width=st.integers(1, 900))
def test_the_grid_is_inside_the_image_without_duplicates_and_reaches_all_corners(height: int, width: int) -> None:
    boxes = anchor_grid(height, width, ProposeConfig(image_size=(256, 384), sides=(32, 64, 128)))
    if min(height, width) > 8:
        assert len(boxes)
    sides = boxes[:, 2:] - boxes[:, :2]
    assert bool((boxes >= 0).all()) and bool((boxes <= torch.tensor([width, height] * 2)).all())
    assert bool((sides >= 1).all())
    assert len(boxes.unique(dim=0)) == len(boxes)
    if min(height, width) > 8:
        reach = 32 / resize_scale(height, width, (256, 384))
        assert bool((boxes.amin(0)[:2] <= reach).all())
        assert bool((boxes.amax(0)[2:] >= torch.tensor([width, height]) - reach).all())


def test_the_grid_has_the_configured_sides_and_ratios_in_image_pixels() -> None:
    config = ProposeConfig(image_size=(800, 1333), stride=32, sides=(64,), ratios=(0.25, 1.0))
    boxes = anchor_grid(400, 600, config)  # the image is enlarged by a factor of 2
    widths, heights = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    inside = (boxes[:, :2] > 0).all(1) & (boxes[:, 2] < 600) & (boxes[:, 3] < 400)
    assert {(round(float(w), 3), round(float(h), 3)) for w, h in zip(widths[inside], heights[inside], strict=True)} == {
        (32.0, 32.0), (64.0, 16.0),
    }  # fmt: skip
    assert len(boxes) == 25 * 38 * 2


def test_confidence_is_one_for_a_certain_teacher_and_lowest_for_uniform_probabilities() -> None:
    sure, flat = torch.eye(4)[:1], torch.full((1, 4), 0.25)
    both = torch.cat([sure, flat])
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(2, 1)
    torch.testing.assert_close(confidence(both, boxes, 2, ProposeConfig(ranking="entropy")), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(
        confidence(both, boxes, 2, ProposeConfig(ranking="max_probability")), torch.tensor([1.0, 0.25])
    )


def test_the_novel_ranking_ignores_base_names_and_prefers_larger_boxes() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])  # base, novel
    boxes = torch.tensor([[0.0, 0, 50, 50], [0, 0, 10, 10], [0, 0, 40, 40]])
    scores = confidence(probabilities, boxes, 1, ProposeConfig(ranking="novel"))
    assert scores.argsort(descending=True).tolist() == [2, 1, 0]
    assert (
        confidence(probabilities, boxes, 2, ProposeConfig(ranking="novel")) > 0
    ).all()  # a split without novel names
    assert confidence(probabilities[:0], boxes[:0], 1, ProposeConfig(ranking="novel")).shape == (0,)


def test_agreement_is_the_maximum_of_objectness_times_iou() -> None:
    regions = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20], [50, 50, 60, 60]])
    objectness = torch.tensor([0.4, 0.9, 0.8])
    boxes = torch.cat([regions, torch.tensor([[80.0, 80, 90, 90]])])
    expected = torch.tensor([max(0.4, 0.45), 0.9, 0.8, 0.0])
    torch.testing.assert_close(agreement(boxes, regions, objectness), expected)
    assert agreement(boxes, regions[:0], objectness[:0]).tolist() == [0, 0, 0, 0]


@given(st.integers(0, 10_000), st.integers(0, 4), st.floats(0.05, 0.95))
def test_lie_on_compares_the_covered_area_with_the_share(seed: int, count: int, share: float) -> None:
    numbers = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 30, (40 + count, 2), generator=numbers)
    every = torch.cat([corners, corners + torch.randint(1, 20, corners.shape, generator=numbers)], 1)
    boxes, base = every.split([40, count])
    image = torch.zeros(count, 50, 50)
    for layer, (x1, y1, x2, y2) in zip(image, base.tolist(), strict=True):
        layer[y1:y2, x1:x2] = 1
    shares = torch.tensor(
        [[float(layer[y1:y2, x1:x2].mean()) for layer in image] + [0.0] for x1, y1, x2, y2 in boxes.tolist()]
    )
    best = shares.amax(1)
    clear = (best - share).abs() > 1e-4  # exclude cases decided by rounding
    assert torch.equal(lie_on(boxes.float(), base.float(), share)[clear], (best > share)[clear])
    assert not lie_on(boxes.float(), base.float(), 1.0).any()


@given(st.integers(0, 10_000), st.integers(1, 60), st.sampled_from([0.3, 0.5, 0.7]))
def test_first_of_nms_matches_full_nms(seed: int, count: int, threshold: float) -> None:
    numbers = torch.Generator().manual_seed(seed)
    corners = torch.rand(300, 2, generator=numbers) * 20
    boxes = torch.cat([corners, corners + 1 + torch.rand(300, 2, generator=numbers) * 30], 1)
    scores = (torch.rand(300, generator=numbers) * 50).round() / 50  # with ties
    expected = nms(boxes, scores, threshold)[:count]
    assert torch.equal(first_of_nms(boxes, scores, threshold, count), expected)


def test_select_applies_nms_shortlist_filter_and_limit_in_this_order() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 11], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10.0]])
    probabilities = torch.tensor([[0.05, 0.95], [0.04, 0.96], [0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])  # base, novel
    even = torch.ones(5)
    loose = ProposeConfig(base_filter=False, shortlist=10, keep=10)
    assert select(boxes, probabilities, even, 1, loose).tolist() == [1, 2, 3, 4]
    filtered = loose.model_copy(update={"base_filter": True})
    assert select(boxes, probabilities, even, 1, filtered).tolist() == [1, 3, 4]
    assert select(boxes, probabilities, even, 1, filtered.model_copy(update={"shortlist": 3})).tolist() == [1, 3]
    assert select(boxes, probabilities, even, 1, filtered.model_copy(update={"keep": 2})).tolist() == [1, 3]
    doubted = torch.tensor([1, 0.5, 0.5, 1, 1])
    assert select(boxes, probabilities, doubted, 1, loose).tolist() == [0, 3, 2, 4]

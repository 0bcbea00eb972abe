"""Soft-NMS: which scores decay, and by how much."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from ezsd.detector.detections import soft_nms

boxes_of = st.lists(
    st.tuples(st.floats(0, 50), st.floats(0, 50), st.floats(1, 50), st.floats(1, 50)), min_size=1, max_size=12
)


@given(boxes_of, st.integers(0, 1000), st.floats(0.05, 2))
def test_scores_never_increase_and_the_best_box_of_a_label_keeps_its_score(
    sides: list[tuple[float, float, float, float]], seed: int, sigma: float
) -> None:
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in sides])
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(len(boxes), generator=generator).sort(descending=True).values
    labels = torch.randint(0, 3, (len(boxes),), generator=generator)
    decayed = soft_nms(boxes, scores, labels, sigma)
    assert (decayed <= scores).all() and (decayed >= 0).all()
    for label in labels.unique():
        first = int((labels == label).nonzero()[0])
        assert decayed[first] == scores[first]


def test_second_box_decays_by_the_gaussian_of_its_overlap() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])
    decayed = soft_nms(boxes, torch.tensor([0.9, 0.8]), torch.tensor([1, 1]), 0.5)
    torch.testing.assert_close(decayed, torch.tensor([0.9, 0.8 * math.exp(-(0.5**2) / 0.5)]))


def test_boxes_of_other_labels_or_places_keep_their_scores() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 30, 30]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert torch.equal(soft_nms(boxes, scores, torch.tensor([0, 1, 0]), 0.3), scores)


def test_no_boxes_give_no_scores() -> None:
    assert soft_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.3).shape == (0,)

"""Pure functions of boxes, against torchvision."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

from ezsd.utils.boxes import paired_iou


@given(st.integers(0, 10), st.integers(0, 1000))
def test_paired_iou_is_the_diagonal_of_all_ious(count: int, seed: int) -> None:
    corners = torch.rand(2, count, 2, 2, generator=torch.Generator().manual_seed(seed)) * 20
    first, second = torch.cat([corners.amin(2), corners.amax(2) + 0.5], dim=2)
    torch.testing.assert_close(paired_iou(first, second), box_iou(first, second).diagonal())


def test_paired_iou_of_empty_boxes_is_zero() -> None:
    assert paired_iou(torch.zeros(1, 4), torch.zeros(1, 4)).tolist() == [0.0]

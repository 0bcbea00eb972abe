"""Transforms change image, boxes, masks and proposals consistently."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ezsd.data.transforms import Sample, flip, resize, resize_image
from ezsd.utils.boxes import resize_scale

SIDES = st.integers(8, 90)


def _marked(height: int, width: int, box: tuple[int, int, int, int], masks: bool = True) -> Sample:
    """Return a black image with a white box, and a mask and a proposal that match the box."""
    x1, y1, x2, y2 = box
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, y1:y2, x1:x2] = 255
    boxes = torch.tensor([box], dtype=torch.float32)
    return Sample.of(image, boxes, torch.tensor([4]), image[:1] // 255 if masks else None, boxes.clone())


def _extent(bright: Tensor) -> list[int]:
    rows, columns = torch.nonzero(bright.any(1))[:, 0], torch.nonzero(bright.any(0))[:, 0]
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    height, width = draw(SIDES), draw(SIDES)
    x1, y1 = draw(st.integers(0, width - 4)), draw(st.integers(0, height - 4))
    return _marked(height, width, (x1, y1, draw(st.integers(x1 + 4, width)), draw(st.integers(y1 + 4, height))))


@given(samples(), st.tuples(st.integers(16, 120), st.integers(0, 120)))
@settings(max_examples=60)
def test_resized_boxes_masks_and_proposals_match_the_resized_object(sample: Sample, sides: tuple[int, int]) -> None:
    image_size = (sides[0], sides[0] + sides[1])
    resized = resize(sample, image_size)
    scale = resize_scale(*sample.image.shape[-2:], image_size)

    height, width = resized.image.shape[-2:]
    assert min(height, width) <= image_size[0] and max(height, width) <= image_size[1]
    assert min(height, width) == image_size[0] or max(height, width) == image_size[1]
    assert abs(height - sample.image.shape[-2] * scale) <= 0.5 + 1e-6
    assert resized.masks is not None and resized.masks.shape == (1, height, width)
    assert resized.masks.dtype == torch.uint8
    assert torch.equal(resized.boxes, resized.proposals)
    assert torch.equal(resized.labels, sample.labels)
    x1, y1, x2, y2 = resized.boxes[0].tolist()
    assert 0 <= x1 < x2 <= width + 1e-4 and 0 <= y1 < y2 <= height + 1e-4
    sides_of_box = torch.tensor([x2 - x1, y2 - y1])
    if (sides_of_box >= 2).all():
        assert (torch.tensor(_extent(resized.masks[0])) - resized.boxes[0]).abs().max() <= 1.001
        assert (torch.tensor(_extent(resized.image[0] > 127)) - resized.boxes[0]).abs().max() <= 1.5


@given(samples())
@settings(max_examples=60)
def test_flipped_boxes_masks_and_proposals_match_the_flipped_object(sample: Sample) -> None:
    flipped = flip(sample)

    assert flipped.masks is not None
    for bright, boxes in [(flipped.image[0], flipped.boxes), (flipped.masks[0], flipped.proposals)]:
        assert _extent(bright > 0) == boxes[0].tolist()
    back = flip(flipped)
    assert torch.equal(back.image, sample.image) and torch.equal(back.boxes, sample.boxes)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(480, 640, 800 / 480), (640, 480, 800 / 480), (400, 1333, 1.0), (1333, 200, 1.0), (1600, 1600, 0.5)],
)
def test_the_long_side_limits_the_scale_of_the_short_side(height: int, width: int, expected: float) -> None:
    assert resize_scale(height, width, (800, 1333)) == pytest.approx(expected)


@pytest.mark.parametrize("height, width, expected", [(1, 200, (1, 40)), (200, 1, (40, 1))])
def test_a_narrow_image_keeps_at_least_one_pixel(height: int, width: int, expected: tuple[int, int]) -> None:
    assert resize_image(torch.zeros(3, height, width, dtype=torch.uint8), (20, 40)).shape[1:] == expected


def test_downscaling_is_antialiased() -> None:
    noise = torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    small = resize_image(noise, (8, 8)).float()
    assert small.shape == (3, 8, 8)
    assert noise.float().std() > 70 and small.std() < 20


def test_samples_without_boxes_or_masks_are_supported() -> None:
    none = torch.zeros(0, 4)
    sample = Sample.of(torch.zeros(3, 20, 30, dtype=torch.uint8), none, torch.zeros(0, dtype=torch.int64), None, none)
    changed = flip(resize(sample, (40, 60)))
    assert changed.image.shape == (3, 40, 60)
    assert changed.boxes.shape == changed.proposals.shape == (0, 4) and changed.masks is None
    empty = Sample.of(sample.image, none, sample.labels, torch.zeros(0, 20, 30, dtype=torch.uint8), none)
    changed = flip(resize(empty, (40, 60)))
    assert changed.masks is not None and changed.masks.shape == (0, 40, 60)


def test_resize_and_flip_do_not_modify_their_input() -> None:
    sample = _marked(20, 30, (3, 4, 12, 15))
    resize(sample, (40, 60))
    flip(sample)
    assert sample.boxes.tolist() == [[3, 4, 12, 15]] and sample.image.shape == (3, 20, 30)

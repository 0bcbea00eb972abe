"""Transforms change image, boxes, masks and proposals consistently."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional

from ezsd.data.transforms import (
    Sample,
    color_map,
    crop,
    flip,
    jitter_color,
    jitter_scale,
    kept_by_crop,
    resize,
    resize_image,
)
from ezsd.utils.resize import resize_scale

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


@given(samples(), st.data())
@settings(max_examples=60)
def test_cropped_boxes_masks_and_proposals_match_the_cropped_object(sample: Sample, data: st.DataObject) -> None:
    height, width = sample.image.shape[-2:]
    top, left = data.draw(st.integers(0, height - 4)), data.draw(st.integers(0, width - 4))
    window = (top, left, data.draw(st.integers(4, height - top)), data.draw(st.integers(4, width - left)))
    kept = kept_by_crop(sample.boxes, window, smallest=2)
    cropped = crop(sample, window, kept, kept)

    assert cropped.image.shape[-2:] == window[2:]
    assert cropped.masks is not None and len(cropped.masks) == len(cropped.boxes) == len(cropped.labels)
    bright = cropped.image[0] > 0
    visible = float(bright.sum()) / float((sample.image[0] > 0).sum())
    if len(cropped.boxes):
        assert _extent(bright) == _extent(cropped.masks[0] > 0) == cropped.boxes[0].tolist()
        assert torch.equal(cropped.boxes, cropped.proposals) and visible >= 0.3 - 1e-6
    else:
        assert visible < 0.3 or min(_sides(_extent(bright))) < 2


def _sides(box: list[int]) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


@given(samples(), st.integers(20, 60), st.integers(0, 40), st.floats(0.4, 1), st.floats(1, 3), st.integers(0, 999))
@settings(max_examples=100)
def test_jittered_boxes_match_the_jittered_object(
    sample: Sample, short: int, more: int, low: float, high: float, seed: int
) -> None:
    image_size = (short, short + more)
    generator = torch.Generator().manual_seed(seed)
    jittered, boxes, proposals = jitter_scale(sample, image_size, (low, high), generator)

    height, width = jittered.image.shape[-2:]
    assert min(height, width) <= image_size[0] and max(height, width) <= image_size[1]
    assert boxes.tolist() == proposals.tolist() == [True]  # the only box is never lost
    assert torch.equal(jittered.boxes, jittered.proposals) and jittered.labels.tolist() == [4]
    x1, y1, x2, y2 = jittered.boxes[0].tolist()
    assert 0 <= x1 < x2 <= width + 1e-4 and 0 <= y1 < y2 <= height + 1e-4
    if min(x2 - x1, y2 - y1) >= 2:
        assert (torch.tensor(_extent(jittered.image[0] > 127)) - jittered.boxes[0]).abs().max() <= 1.5
        assert jittered.masks is not None
        assert (torch.tensor(_extent(jittered.masks[0])) - jittered.boxes[0]).abs().max() <= 1.001


def test_scale_factors_are_log_uniform_and_large_images_are_cropped_at_random_places() -> None:
    sample = _marked(80, 120, (0, 0, 120, 80))
    generator = torch.Generator().manual_seed(0)
    results = [jitter_scale(sample, (40, 60), (0.25, 4.0), generator)[0] for _ in range(400)]
    shorts = torch.tensor([result.image.shape[-2] for result in results])
    assert 0.45 < float((shorts == 40).float().mean()) < 0.55  # half of the factors are above 1
    assert 0.2 < float((shorts < 20).float().mean()) < 0.3
    spots = _marked(80, 120, (50, 30, 70, 50))
    spots.image[0, :, :] = torch.arange(120, dtype=torch.uint8)
    lefts = {int(jitter_scale(spots, (40, 60), (2.0, 2.0), generator)[0].image[0, 0, 0]) for _ in range(30)}
    assert len(lefts) > 10


def test_rows_of_boxes_labels_and_masks_stay_together() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [40, 0, 50, 10], [0, 40, 10, 50], [40, 40, 50, 50.0]])
    image = torch.zeros(3, 50, 50, dtype=torch.uint8)
    masks = torch.zeros(4, 50, 50, dtype=torch.uint8)
    for row, (x1, y1, x2, y2) in enumerate(boxes.int().tolist()):
        masks[row, y1:y2, x1:x2] = 1
        image[:, y1:y2, x1:x2] = 10 * (row + 1)
    sample = Sample.of(image, boxes, torch.arange(1, 5), masks, boxes.flip(0))
    for seed in range(20):
        result, kept, kept_proposals = jitter_scale(sample, (50, 50), (1.5, 2), torch.Generator().manual_seed(seed))
        assert result.labels.tolist() == (kept.nonzero()[:, 0] + 1).tolist()
        assert kept.tolist() == kept_proposals.flip(0).tolist()
        assert result.masks is not None and len(result.masks) == len(result.boxes)
        for label, box, mask in zip(result.labels.tolist(), result.boxes, result.masks, strict=True):
            x1, y1, x2, y2 = box.round().int().tolist()
            assert int(result.image[0, (y1 + y2) // 2, (x1 + x2) // 2]) == 10 * label
            assert (torch.tensor(_extent(mask)) - box).abs().max() <= 1.001


def test_image_whose_box_would_be_lost_in_every_crop_is_not_cropped() -> None:
    sample = _marked(64, 64, (0, 0, 64, 64))  # a crop of factor 3 shows a ninth of the box
    result, kept, _ = jitter_scale(sample, (32, 32), (3.0, 3.0), torch.Generator().manual_seed(0))
    assert kept.all() and result.boxes.tolist() == [[0, 0, 32, 32]]


@pytest.mark.parametrize(
    ("change", "factors"),
    [
        (functional.adjust_brightness, (1.3, 1.0, 1.0)),
        (functional.adjust_contrast, (1.0, 0.6, 1.0)),
        (functional.adjust_saturation, (1.0, 1.0, 0.4)),
    ],
)
def test_color_map_is_that_of_torchvision(change: Callable[..., Tensor], factors: tuple[float, float, float]) -> None:
    image = 0.25 + torch.rand(3, 9, 7, generator=torch.Generator().manual_seed(0)) / 2
    matrix, offset = color_map(*factors, 0.0, image.mean((1, 2)))
    changed = torch.einsum("ij,jhw->ihw", matrix, image) + offset[:, None, None]
    factor = next(each for each in factors if each != 1)
    assert torch.allclose(changed, change(image, factor), atol=1e-3)


def test_turned_hue_keeps_gray_and_moves_colors() -> None:
    matrix, offset = color_map(1.0, 1.0, 1.0, 2 * math.pi / 3, torch.tensor([0.5, 0.5, 0.5]))
    assert torch.allclose(matrix, torch.eye(3).roll(1, 0), atol=1e-6)  # a third of a turn: red becomes green
    assert torch.allclose(matrix @ torch.full((3,), 0.4), torch.full((3,), 0.4)) and not offset.any()


def test_color_jitter_depends_on_strength_and_generator() -> None:
    image = _marked(20, 30, (3, 4, 12, 15)).image
    image[0] += 60
    image[1] += 90
    weak, strong, again = (
        jitter_color(image, strength, torch.Generator().manual_seed(1)).float() for strength in (0.05, 0.4, 0.4)
    )
    assert torch.equal(strong, again) and strong.shape == image.shape
    assert 0 < (weak - image).abs().mean() < (strong - image).abs().mean()

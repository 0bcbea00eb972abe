"""The format of boxes is told from all boxes together: neither one wrong box nor small images and boxes change it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ezsd.data.formats.box_formats import BOX_FORMATS, Numbers, likely_formats, to_xywh

_COUNTS, _SIDES, _SEEDS = st.integers(1, 60), st.integers(1, 3000) | st.integers(1, 70), st.integers(0, 2**32 - 1)


def _random(count: int, side: int, seed: int, largest: float, whole: bool) -> tuple[Numbers, Numbers]:
    """Return boxes (x, y, width, height) all over images of different sizes, with sides up to a part of the image."""
    numbers = np.random.default_rng(seed)
    sizes = np.maximum(1, (side * numbers.uniform(0.5, 1, (count, 2))).round())
    sides = np.minimum(sizes, np.maximum(1, sizes * numbers.uniform(0, largest, (count, 2))))
    sides = np.ceil(sides) if whole else sides
    corners = numbers.uniform(0, 1, (count, 2)) * (sizes - sides)
    return np.concatenate([np.floor(corners) if whole else corners, sides], axis=1), sizes


def _formats(boxes: Numbers, sizes: Numbers) -> tuple[str, ...]:
    return likely_formats(boxes, sizes, np.full(len(boxes), np.nan, np.float32))


def _in_format(boxes: Numbers, sizes: Numbers, box_format: str) -> Numbers:
    layout, _, unit = box_format.partition("-")
    x, y, w, h = boxes.T
    written = {"xywh": (x, y, w, h), "xyxy": (x, y, x + w, y + h), "cxcywh": (x + w / 2, y + h / 2, w, h)}[layout]
    full = {"": None, "fraction": 1, "percent": 100}[unit]
    scale = 1 if full is None else full / np.concatenate([sizes, sizes], axis=1)
    return np.stack(written, axis=1) * scale


@given(_COUNTS, _SIDES, _SEEDS, st.floats(0, 1) | st.just(0.0), st.booleans())
@settings(max_examples=300, deadline=None)
def test_boxes_in_pixels_are_never_refused_however_small_they_and_their_images_are(
    count: int, side: int, seed: int, largest: float, whole: bool
) -> None:
    assert _formats(*_random(count, side, seed, largest, whole)) == ()


@given(st.sampled_from(BOX_FORMATS), st.integers(30, 60), st.integers(600, 3000), _SEEDS, st.integers(0, 1))
@settings(max_examples=200, deadline=None)
def test_another_format_is_recognized_from_all_boxes_whatever_one_of_them_is(
    box_format: str, count: int, side: int, seed: int, wrong: int
) -> None:
    boxes, sizes = _random(count, side, seed, 0.9, False)
    written = _in_format(boxes, sizes, box_format)
    written[:wrong] = [900, 10, 800, 3000]
    found = _formats(written, sizes)
    assert box_format in found if box_format != "xywh" else not found
    assert np.allclose(to_xywh(_in_format(boxes, sizes, box_format), sizes, box_format), boxes)


@pytest.mark.parametrize("box", [[0, 0, 0, 0], [3, 4, 0, 2]])
def test_boxes_without_area_are_no_fractions(box: list[float]) -> None:
    boxes = np.array([box] * 30 + [[50, 60, 70, 80]] * 3, dtype=np.float64)
    assert _formats(boxes, np.full((33, 2), 640.0)) == ()


@pytest.mark.parametrize("side, refused", [(640, True), (32, False)])
def test_numbers_of_zero_and_one_are_pixels_only_in_small_images(side: int, refused: bool) -> None:
    boxes = np.array([[0, 0, 1, 1]] * 5, dtype=np.float64)
    assert bool(_formats(boxes, np.full((5, 2), float(side)))) == refused


def test_one_small_image_does_not_hide_percent() -> None:
    boxes, sizes = _random(40, 1000, 0, 0.5, False)
    sizes[0] = 50
    assert "xywh-percent" in _formats(_in_format(boxes, sizes, "xywh-percent"), sizes)

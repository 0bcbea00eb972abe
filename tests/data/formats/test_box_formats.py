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
    full = {"": None, "fraction": 1, "percent": 100, "1000": 1000}[unit]
    scale = 1 if full is None else full / np.concatenate([sizes, sizes], axis=1)
    x, y, w, h = (boxes * scale).T
    written = {
        "xywh": (x, y, w, h),
        "xyxy": (x, y, x + w, y + h),
        "yxyx": (y, x, y + h, x + w),
        "cxcywh": (x + w / 2, y + h / 2, w, h),
    }[layout]
    return np.stack(written, axis=1)


@given(_COUNTS, _SIDES, _SEEDS, st.floats(0, 1) | st.just(0.0), st.booleans())
@settings(max_examples=300, deadline=None)
def test_boxes_in_pixels_are_never_refused_however_small_they_and_their_images_are(
    count: int, side: int, seed: int, largest: float, whole: bool
) -> None:
    boxes, sizes = _random(count, side, seed, largest, whole)
    assert _formats(boxes, sizes) == ()
    assert likely_formats(_in_format(boxes, sizes, "xyxy"), sizes, expected="xyxy") == ()


@given(
    st.sampled_from([name for name in BOX_FORMATS if not name.endswith("-1000")]),
    st.integers(30, 60),
    st.integers(600, 3000),
    _SEEDS,
    st.integers(0, 1),
)
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


def _to_the_ends(count: int, side: int, seed: int) -> tuple[Numbers, Numbers]:
    """Return boxes of which the last ends at the end of its image, as some of many do; images are wide and high."""
    boxes, sizes = _random(count, side, seed, 0.5, False)
    boxes[-1] = [*sizes[-1] / 2, *sizes[-1] / 2]
    return boxes, sizes


@given(st.sampled_from(["xyxy", "yxyx"]), st.integers(30, 60), st.integers(50, 800) | st.integers(3200, 6000), _SEEDS)
@settings(max_examples=200, deadline=None)
def test_corners_from_0_to_1000_are_recognized_in_small_and_in_large_images(
    layout: str, count: int, side: int, seed: int
) -> None:
    boxes, sizes = _to_the_ends(count, side, seed)
    written = _in_format(boxes, sizes, f"{layout}-1000").round()
    assert f"{layout}-1000" in _formats(written, sizes)
    assert f"{layout}-1000" in likely_formats(written, sizes, expected="xyxy")
    assert np.allclose(to_xywh(written, sizes, f"{layout}-1000"), boxes, atol=side / 500)


@pytest.mark.parametrize("change", ["fractions of a pixel", "a third beyond 1000", "images of 1280", "few boxes"])
def test_objects_in_the_first_1000_pixels_of_large_images_are_pixels(change: str) -> None:
    boxes, sizes = _to_the_ends(40, 1000, 0)
    corners, sizes = _in_format(boxes, sizes, "xyxy").round(), np.full((40, 2), 3000.0)
    assert likely_formats(corners, sizes, expected="xyxy") == (
        "xyxy-1000",
        "yxyx-1000",
    )  # nothing else tells them apart
    if change == "fractions of a pixel":
        corners += 0.25
    elif change == "a third beyond 1000":
        corners[::3] += 1000
    elif change == "images of 1280":
        sizes[:] = 1280
    else:
        corners, sizes = corners[-4:], sizes[-4:]
    assert likely_formats(corners, sizes, expected="xyxy") == ()


def test_x_y_width_height_from_0_to_1000_is_not_taken_for_corners() -> None:
    boxes, sizes = _to_the_ends(40, 600, 0)
    assert _formats(_in_format(boxes, sizes, "xywh-1000").round(), sizes) == ("xywh-1000",)


def test_the_order_of_x_and_y_is_told_from_images_that_are_not_square() -> None:
    boxes, sizes = _random(40, 1000, 0, 0.5, True)
    sizes[:] = [1000, 500]
    boxes[:, 1::2] /= 2
    for layout in ("xyxy", "yxyx"):
        assert _formats(_in_format(boxes, sizes, layout), sizes) == (layout,)
    assert likely_formats(_in_format(boxes, sizes, "yxyx"), sizes, expected="xyxy") == ("yxyx",)
    assert likely_formats(boxes, sizes, expected="xyxy") == ("xywh",)


def test_areas_tell_corners_also_with_y_first() -> None:
    boxes, sizes = _random(40, 1000, 0, 0.2, True)
    boxes[:, :2] /= 5  # as corners and as width and height, all are inside
    corners = _in_format(boxes, sizes, "yxyx")
    assert _formats(corners, sizes) == ()
    assert "yxyx" in likely_formats(corners, sizes, boxes[:, 2:].prod(axis=1))

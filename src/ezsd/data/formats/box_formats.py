"""Formats of boxes in annotation files, and how to tell from all boxes that they are not in the expected one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

OVERHANG = 2.0  # pixels; annotation tools round, so overhangs up to this are clipped silently
_UNITS = {"": None, "fraction": 1.0, "percent": 100.0, "1000": 1000.0}  # the number that is the side of the image
_ROUNDED = 1.02  # normalized numbers can exceed their range by rounding
_MOST_OUTSIDE = 0.1  # fraction of the boxes that can be outside the image by mistake
_UNFIT = 0.05  # fraction of the boxes that can be wrong in another format; one box always can
_CLEARER = 4  # how many times as many boxes must be outside as x, y, width, height
_SMALL = 64  # pixels; in such images, a box with sides of 1 can be one pixel
_LARGE = 200  # pixels; from this side on, 100 pixels are a part of the image in which not all boxes lie by chance
_OUTLIERS = 0.1  # fraction of the boxes that can exceed 100 %
_CHANCE = 1e-6  # that boxes all over the images are within their first 100 or 1000 pixels
_NEAR_END = 900  # of numbers from 0 to 1000; one box of many is as near to the end of the image
_LARGER = 1500  # pixels; from this side on, the first 1000 pixels are not the image with a margin


def _from_xyxy(boxes: Numbers) -> Numbers:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _from_yxyx(boxes: Numbers) -> Numbers:
    return _from_xyxy(boxes[:, [1, 0, 3, 2]])


def _from_cxcywh(boxes: Numbers) -> Numbers:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)


_LAYOUTS: dict[str, Callable[[Numbers], Numbers]] = {
    "xywh": lambda boxes: boxes, "xyxy": _from_xyxy, "yxyx": _from_yxyx, "cxcywh": _from_cxcywh,
}  # fmt: skip
_CORNER_LAYOUTS = ("xyxy", "yxyx")
_MEANINGS = {
    "xywh": "x, y, width, height", "xyxy": "x1, y1, x2, y2", "yxyx": "y1, x1, y2, x2, as TensorFlow writes",
    "cxcywh": "center x, center y, width, height",
}  # fmt: skip
_PER_SIDE = ", 0 to 1000 of the image sides, as vision-language models write"
BOX_FORMATS = tuple(f"{layout}-{unit}".rstrip("-") for unit, layout in product(_UNITS, _LAYOUTS))


def to_xywh(boxes: Numbers, sizes: Numbers, box_format: str) -> Numbers:
    """Convert boxes to x, y, width, height in pixels.

    Args:
        boxes: [N, 4] in ``box_format``.
        sizes: [N, 2] width and height of the image of each box, pixels.
        box_format: One of ``BOX_FORMATS``; "cxcywh" has the center first, "-fraction" numbers are 0 to 1, "-percent"
            numbers 0 to 100 and "-1000" numbers 0 to 1000 of the sides of the image.
    """
    layout, _, unit = box_format.partition("-")
    scale = pixels_of_one(sizes, unit)
    return _LAYOUTS[layout](boxes) * np.concatenate([scale, scale], axis=1)


def pixels_of_one(sizes: Numbers, unit: str) -> Numbers:
    """Return [N, 2]: how many pixels 1 is in x and y.

    Args:
        sizes: [N, 2] width and height of the images, pixels.
        unit: "fraction", "percent", "1000", or an empty text for pixels.
    """
    full = _UNITS[unit]
    return np.ones_like(sizes) if full is None else sizes / full


def likely_formats(
    boxes: Numbers, sizes: Numbers, areas: Numbers | None = None, expected: str = "xywh"
) -> tuple[str, ...]:
    """Return the formats that explain all boxes together if the expected one, in pixels, does not; else nothing.

    Single boxes that are wrong do not change the result, and boxes without area say nothing.

    Args:
        boxes: [N, 4] finite numbers as in the file.
        sizes: [N, 2] width and height of the image of each box, pixels.
        areas: [N] the areas in the file, NaN if there is none; None if the file has no areas.
        expected: The layout that the boxes should have, "xywh" or "xyxy".
    """
    used = (boxes[:, 2:] != 0).all(axis=1)
    boxes, sizes = boxes[used], sizes[used]
    if not len(boxes):
        return ()
    unit = likely_unit(boxes, sizes)
    outside = {layout: int(_outside(to_xywh(boxes, sizes, layout + unit), sizes).sum()) for layout in _LAYOUTS}
    most = max(1.0, _UNFIT * len(boxes))
    if unit:
        found = tuple(layout + unit for layout, count in outside.items() if count <= most)
        return found or ((f"{expected}{unit}",) if unit == "-fraction" else ())
    in_pixels = outside.pop(expected)
    if thousandths := _certain_thousandths(boxes, sizes, most):
        return thousandths
    corners = tuple(layout for layout in _CORNER_LAYOUTS if outside.get(layout, len(boxes)) <= most)
    if corners and areas is not None and _are_corners(boxes, areas[used]):
        return corners + _thousandths(boxes, most)
    if in_pixels <= _MOST_OUTSIDE * len(boxes) or in_pixels < 2:
        return ()
    most = min(most, in_pixels / _CLEARER)
    return tuple(layout for layout, count in outside.items() if count <= most) + _thousandths(boxes, most)


def _are_corners(boxes: Numbers, areas: Numbers) -> bool:
    """Return whether the areas in the file are those of two corners, and not those of a width and a height."""
    return len(boxes) > 2 and _same_area(_from_xyxy(boxes), areas) > 0.9 and _same_area(boxes, areas) < 0.1


def _thousandths(boxes: Numbers, most: float) -> tuple[str, ...]:
    """Return the formats in whole numbers from 0 to 1000 that explain all but ``most`` boxes.

    Some of them must end near 1000, in x and in y, as some of many boxes do.
    """
    whole = ((boxes == boxes.round()) & (boxes <= 1000)).all(axis=1)
    ends = np.full((len(boxes), 2), 1000.0)
    found = []
    for layout in _LAYOUTS:
        xywh = to_xywh(boxes, ends, layout)
        wrong = _outside(xywh, ends) | ~whole
        last = (xywh[:, :2] + xywh[:, 2:])[~wrong].max(axis=0, initial=0)
        if wrong.sum() <= most and last.min() >= _NEAR_END:
            found.append(f"{layout}-1000")
    return tuple(found)


def _certain_thousandths(boxes: Numbers, sizes: Numbers, most: float) -> tuple[str, ...]:
    """Return the formats of corners from 0 to 1000, if it is no chance that none is beyond 1000 in larger images."""
    chances = np.where(sizes >= _LARGER, 1000 / sizes, 1.0)
    if np.log(chances).sum() >= np.log(_CHANCE):
        return ()
    return tuple(name for name in _thousandths(boxes, most) if name.partition("-")[0] in _CORNER_LAYOUTS)


def shown_formats(formats: Sequence[str]) -> str:
    """Return formats with what they mean, such as "xyxy (x1, y1, x2, y2)"."""
    texts = []
    for name in formats:
        layout, _, unit = name.partition("-")
        texts.append(f"{name} ({_MEANINGS[layout]}{_PER_SIDE if unit == '1000' else ''})")
    return " or ".join(texts)


def likely_fractions(boxes: Numbers, sizes: Numbers) -> tuple[tuple[str, ...], NDArray[np.bool_]]:
    """Return the formats that explain all boxes together if center and size as fractions do not; else nothing.

    Args:
        boxes: [N, 4] numbers as in the file.
        sizes: [N, 2] width and height of the image of each box, pixels.

    Returns:
        The formats, and [N]: whether a box is outside of its image as center and size.
    """
    valid: NDArray[np.bool_] = np.all(np.abs(boxes) <= _ROUNDED, axis=1)
    boxes = np.where(valid[:, None], boxes, 0.5)
    outside: dict[str, NDArray[np.bool_]] = {
        layout: np.logical_and(_outside(to_xywh(boxes, sizes, f"{layout}-fraction"), sizes), valid)
        for layout in _LAYOUTS
    }
    centered = outside.pop("cxcywh")
    if centered.sum() < 2 or centered.sum() <= _MOST_OUTSIDE * valid.sum():
        return (), centered
    most = min(max(1.0, _UNFIT * valid.sum()), centered.sum() / _CLEARER)
    return tuple(f"{layout}-fraction" for layout, wrong in outside.items() if wrong.sum() <= most), centered


def likely_unit(numbers: Numbers, sizes: Numbers) -> str:
    """Return "-fraction" or "-percent" if the numbers of all boxes together are no pixels, else an empty text.

    Numbers are percent if nine tenths of the boxes are within the first 100 pixels of their images, and these are too
    many, and too large, for that to be chance.

    Args:
        numbers: [N, 4] as in the file, in any layout.
        sizes: [N, 2] width and height of the image of each box, pixels.
    """
    fractions = is_fraction(numbers, sizes)
    clear = fractions | (np.abs(numbers).max(axis=1, initial=0) > _ROUNDED)  # not one pixel of a small image
    if fractions.any() and fractions.sum() >= 0.5 * clear.sum():
        return "-fraction"
    if not len(numbers) or np.quantile(numbers.max(axis=1), 1 - _OUTLIERS, method="lower") > 100 * _ROUNDED:
        return ""
    within = numbers.max(axis=1) <= 100 * _ROUNDED
    chances = np.where(sizes >= _LARGE, 100 / sizes, 1.0)[within]
    return "-percent" if np.log(chances).sum() < np.log(_CHANCE) else ""


def is_fraction(boxes: Numbers, sizes: Numbers) -> NDArray[np.bool_]:
    """Return [N]: whether all four numbers are between 0 and 1, and cannot be those of one pixel in a small image."""
    one_pixel = (boxes[:, 2:] >= 1).all(axis=1)
    large = sizes.min(axis=1) > np.where(one_pixel, _SMALL, 4)
    found: NDArray[np.bool_] = np.all(np.abs(boxes) <= _ROUNDED, axis=1) & large
    return found


def is_outside(boxes: Numbers, sizes: Numbers) -> NDArray[np.bool_]:
    """Return [N]: whether a box (x, y, width, height) exceeds the image by more than the overhang."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    limits = np.concatenate([sizes, sizes], axis=1)
    outside: NDArray[np.bool_] = np.any((corners < -OVERHANG) | (corners > limits + OVERHANG), axis=1)
    return outside


def _outside(boxes: Numbers, sizes: Numbers) -> NDArray[np.bool_]:
    """Return [N]: whether a box (x, y, width, height) is not in its image, or has a negative side."""
    found: NDArray[np.bool_] = is_outside(boxes, sizes) | (boxes[:, 2:] < 0).any(1)
    return found


def _same_area(boxes: Numbers, areas: Numbers) -> float:
    known = np.isfinite(areas)
    if not known.any():
        return 0.0
    own = boxes[known, 2] * boxes[known, 3]
    return float((np.abs(own - areas[known]) <= 0.02 * areas[known]).mean())

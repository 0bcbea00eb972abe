"""Formats of boxes in annotation files, and how to tell from all boxes that they are not in COCO's."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

OVERHANG = 2.0  # pixels; annotation tools round, so overhangs up to this are clipped silently
_UNITS = {"": None, "-fraction": 1.0, "-percent": 100.0}  # the number that stands for the side of the image
_ROUNDED = 1.02  # normalized numbers can exceed their range by rounding
_MOST_OUTSIDE = 0.1  # fraction of the boxes that can be outside the image by mistake
_FIT = 0.98  # fraction of the boxes that must fit for another format
_FEW = 5  # boxes that cannot say whether numbers up to 100 are percent
_LARGE = 200  # pixels; in such images, not all boxes have numbers up to 100 by chance


def _from_xyxy(boxes: Numbers) -> Numbers:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _from_cxcywh(boxes: Numbers) -> Numbers:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)


_LAYOUTS: dict[str, Callable[[Numbers], Numbers]] = {
    "xywh": lambda boxes: boxes, "xyxy": _from_xyxy, "cxcywh": _from_cxcywh,
}  # fmt: skip
BOX_FORMATS = tuple(layout + unit for unit, layout in product(_UNITS, _LAYOUTS))


def to_xywh(boxes: Numbers, sizes: Numbers, box_format: str) -> Numbers:
    """Convert boxes to x, y, width, height in pixels.

    Args:
        boxes: [N, 4] in ``box_format``.
        sizes: [N, 2] width and height of the image of each box, pixels.
        box_format: One of ``BOX_FORMATS``; "cxcywh" has the center first, "-fraction" numbers are 0 to 1 and "-percent"
            numbers 0 to 100 of the sides of the image.
    """
    layout, dash, unit = box_format.partition("-")
    full = _UNITS[dash + unit]
    scale = 1.0 if full is None else np.concatenate([sizes, sizes], axis=1) / full
    return _LAYOUTS[layout](boxes * scale)


def likely_formats(boxes: Numbers, sizes: Numbers, areas: NDArray[np.float32]) -> tuple[str, ...]:
    """Return the formats that explain all boxes if x, y, width, height in pixels does not; else nothing.

    Args:
        boxes: [N, 4] finite numbers as in the file.
        sizes: [N, 2] width and height of the image of each box, pixels.
        areas: [N] the areas in the file, NaN if there is none.
    """
    if not len(boxes):
        return ()
    if is_fraction(boxes, sizes).mean() >= 0.5:
        unit = "-fraction"
    elif len(boxes) >= _FEW and sizes.min() >= _LARGE and np.abs(boxes).max() <= 100 * _ROUNDED:
        unit = "-percent"
    else:
        unit = ""
    fits = {layout: _fit(to_xywh(boxes, sizes, layout + unit), sizes) for layout in _LAYOUTS}
    if not unit:
        outside = 1 - fits.pop("xywh")
        by_area = len(boxes) > 2 and _same_area(_from_xyxy(boxes), areas) > 0.9 and _same_area(boxes, areas) < 0.1
        if by_area and fits["xyxy"] >= _FIT:
            return ("xyxy",)
        if outside <= _MOST_OUTSIDE or outside * len(boxes) < 2:
            return ()
    found = tuple(layout + unit for layout, fit in fits.items() if fit >= _FIT)
    return found or ((f"xywh{unit}",) if unit == "-fraction" else ())


def is_fraction(boxes: Numbers, sizes: Numbers) -> NDArray[np.bool_]:
    """Return [N]: whether all four numbers are between 0 and 1, in an image of more than 4 pixels."""
    found: NDArray[np.bool_] = np.all(np.abs(boxes) <= _ROUNDED, axis=1) & (sizes.min(axis=1) > 4)
    return found


def is_outside(boxes: Numbers, sizes: Numbers) -> NDArray[np.bool_]:
    """Return [N]: whether a box (x, y, width, height) exceeds the image by more than the overhang."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    limits = np.concatenate([sizes, sizes], axis=1)
    outside: NDArray[np.bool_] = np.any((corners < -OVERHANG) | (corners > limits + OVERHANG), axis=1)
    return outside


def _fit(boxes: Numbers, sizes: Numbers) -> float:
    """Return the fraction of the boxes (x, y, width, height) that have an area and lie in their image."""
    return float((~is_outside(boxes, sizes) & (boxes[:, 2:] >= 0).all(1)).mean())


def _same_area(boxes: Numbers, areas: NDArray[np.float32]) -> float:
    known = np.isfinite(areas)
    if not known.any():
        return 0.0
    own = boxes[known, 2] * boxes[known, 3]
    return float((np.abs(own - areas[known]) <= 0.02 * areas[known]).mean())

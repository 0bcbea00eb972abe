"""Check the segmentations of COCO files."""

from __future__ import annotations

import itertools
import math
from typing import Any


def is_segmentation(segmentation: Any, width: int, height: int) -> bool:
    """Return whether a segmentation is polygons of at least three points, or an RLE of the image's size."""
    if isinstance(segmentation, list):
        return bool(segmentation) and all(map(_is_polygon, segmentation))
    if not isinstance(segmentation, dict) or segmentation.get("size") != [height, width]:
        return False
    runs = _runs(segmentation.get("counts"))
    if runs is None:
        return False
    return all(isinstance(run, int) and run >= 0 for run in runs) and sum(runs) == width * height


def box_around(segmentation: Any) -> tuple[float, float, float, float]:
    """Return x, y, width, height of the box around polygons or an RLE; NaN if it cannot be read."""
    if isinstance(segmentation, list) and segmentation and all(map(_is_polygon, segmentation)):
        xs = [x for polygon in segmentation for x in polygon[::2]]
        ys = [y for polygon in segmentation for y in polygon[1::2]]
        return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    if not isinstance(size, list) or len(size) != 2 or not is_segmentation(segmentation, size[1], size[0]):
        return (math.nan,) * 4
    return _around_runs(_runs(segmentation["counts"]) or [], size[0])


def _around_runs(runs: list[int], height: int) -> tuple[float, float, float, float]:
    """Return the box around the pixels of an RLE, whose runs go down the columns."""
    ends = list(itertools.accumulate(runs))
    drawn = [(end - run, end - 1) for run, end in zip(runs[1::2], ends[1::2], strict=True) if run]
    if not drawn:
        return (math.nan,) * 4
    left, right = drawn[0][0] // height, drawn[-1][1] // height
    whole = any(first // height != last // height for first, last in drawn)
    top = 0 if whole else min(first % height for first, _ in drawn)
    bottom = height - 1 if whole else max(last % height for _, last in drawn)
    return float(left), float(top), right - left + 1.0, bottom - top + 1.0


def _runs(counts: Any) -> list[int] | None:
    return _unpacked(counts) if isinstance(counts, str) else counts if isinstance(counts, list) else None


def _is_polygon(polygon: Any) -> bool:
    try:
        return len(polygon) >= 6 and len(polygon) % 2 == 0 and math.isfinite(sum(polygon))
    except (TypeError, OverflowError):
        return False


def _unpacked(counts: str) -> list[int] | None:
    """Decode the run lengths of a compressed COCO RLE (``rleFrString`` of cocoapi); None if the string is truncated.

    A character holds six bits. From the fourth run on, a run is stored as the difference to the run two before it.
    """
    runs: list[int] = []
    value = shift = 0
    for code in counts.encode("utf-8", "replace"):
        bits = code - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16 and 1) << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return None if shift else runs

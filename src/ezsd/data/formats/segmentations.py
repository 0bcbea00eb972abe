"""Check the segmentations of COCO files."""

from __future__ import annotations

import math
from typing import Any


def is_segmentation(segmentation: Any, width: int, height: int) -> bool:
    """Return whether a segmentation is polygons of at least three points, or an RLE of the image's size."""
    if isinstance(segmentation, list):
        return bool(segmentation) and all(map(_is_polygon, segmentation))
    if not isinstance(segmentation, dict) or segmentation.get("size") != [height, width]:
        return False
    counts = segmentation.get("counts")
    runs = _unpacked(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list):
        return False
    return all(isinstance(run, int) and run >= 0 for run in runs) and sum(runs) == width * height


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

"""Detect in overlapping tiles of large images, so that small objects are seen at full size; without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import supervision as sv

from ezsd.errors import RecipeError
from ezsd.inference.masks import with_masks
from ezsd.inference.view import iou_and_share, scores_of, select

_SAME = 0.5  # IoU (NMS), or IoU and share of the smaller box (NMM), of detections of one object
DetectMany = Callable[[Sequence[np.ndarray[Any, Any]]], list[sv.Detections]]


@dataclass(frozen=True)
class Tiling:
    """How an image is cut into tiles.

    Attributes:
        side: The side of a tile in pixels.
        overlap: The overlap of neighbors, as a fraction of the side. Objects that are smaller are complete in a tile.
        merge: How detections of one object in several tiles are merged: ``nms`` keeps the best, ``nmm`` joins them.
        batch_size: Tiles per call of the detector.
    """

    side: int
    overlap: float = 0.2
    merge: Literal["nms", "nmm"] = "nms"
    batch_size: int = 4

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            RecipeError: A value is out of range.
        """
        if self.side < 32:
            raise RecipeError(f"tile {self.side}: expected a side of at least 32 pixels, such as 640.")
        if not 0 <= self.overlap < 0.9:
            raise RecipeError(f"overlap {self.overlap}: expected a fraction from 0 to 0.9, such as 0.2.")
        if self.merge not in ("nms", "nmm"):
            raise RecipeError(f"merge {self.merge}: expected nms or nmm.")


def detect_tiles(detect: DetectMany, image: np.ndarray[Any, Any], tiling: Tiling, floor: float) -> sv.Detections:
    """Detect in the tiles of an image and in the whole image, and merge the detections of each name.

    Args:
        detect: Returns the detections of several images.
        image: [H, W, 3] uint8, RGB.
        tiling: How the image is cut.
        floor: Detections with lower scores are left out; merging many of them is slow.

    Returns:
        The detections; with ``nms`` their masks are not pasted yet.
    """

    def strong(images: Sequence[np.ndarray[Any, Any]]) -> list[sv.Detections]:
        found = [select(each, scores_of(each) >= floor) for each in detect(images)]
        if tiling.merge == "nms":
            return found  # boxes decide which are kept, as in the detector; only masks that are shown are pasted
        return [with_masks(each, tile.shape[:2]) for each, tile in zip(found, images, strict=True)]

    whole = strong([image])[0]
    if max(image.shape[:2]) <= tiling.side:
        return whole
    slicer = sv.InferenceSlicer(
        callback=strong,
        slice_wh=tiling.side,
        overlap_wh=round(tiling.side * tiling.overlap),
        overlap_filter=sv.OverlapFilter.NONE,
        batch_size=max(2, tiling.batch_size),  # with one tile at a time, supervision calls with an image, not a list
    )
    merge = _best if tiling.merge == "nms" else _joined
    return merge(sv.Detections.merge([merge(slicer(image)), whole]))


def _best(found: sv.Detections) -> sv.Detections:
    """Return the best of the detections of each object, in descending order of score; in memory of a few boxes each."""
    order = np.argsort(-scores_of(found), kind="stable")
    boxes, names = found.xyxy[order].astype(np.float64), np.asarray(found.class_id)[order]
    left, kept = np.ones(len(found), dtype=bool), []
    for row in range(len(found)):
        if left[row]:
            kept.append(row)
            left &= (iou_and_share(boxes[row], boxes)[0] <= _SAME) | (names != names[row])
    return select(found, order[kept])


def _joined(found: sv.Detections) -> sv.Detections:
    """Return the detections of each object as one, in descending order of score."""
    joined = found.with_nmm(_SAME)
    return select(joined, np.argsort(-scores_of(joined), kind="stable"))

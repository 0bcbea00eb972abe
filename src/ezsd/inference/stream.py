"""Detect in everything that a source contains, in batches; without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import supervision as sv

from ezsd.errors import RecipeError
from ezsd.inference.inputs import in_parts
from ezsd.inference.masks import with_masks
from ezsd.inference.sources import Frame, Source
from ezsd.inference.tiling import DetectMany, Tiling, detect_tiles
from ezsd.inference.tracking import WEAK, ObjectTracker
from ezsd.inference.view import Thresholds, best_score_below, shown

_FLOOR = 0.1  # detections of tiles with less than this fraction of the least threshold are left out
_BATCHES_AT_ONCE = 4  # images of several batches are sorted by size, so that batches of mixed sizes are full, too


class Found(NamedTuple):
    """The detections of one image.

    Attributes:
        frame: The image.
        detections: The shown detections, in descending order of score.
        best_below: The best score of the detections below their threshold; None if there are none.
    """

    frame: Frame
    detections: sv.Detections
    best_below: float | None


@dataclass(frozen=True)
class View:
    """Which detections are shown.

    Attributes:
        names: The vocabulary.
        thresholds: The least score of each name.
        multi_label: Keep all names of an object.
        track: Number the objects of videos.
        tiling: Detect in tiles, too; None = in whole images only.
    """

    names: Sequence[str]
    thresholds: Thresholds
    multi_label: bool = False
    track: bool = False
    tiling: Tiling | None = None


def detect_stream(detect: DetectMany, source: Source, view: View, batch_size: int) -> Iterator[Found]:
    """Yield the detections of each image of a source, in order.

    Args:
        detect: Returns all detections of several images; their order of size does not matter.
        source: The images.
        view: Which detections are shown.
        batch_size: The number of images per batch of the detector.

    Raises:
        RecipeError: The batch size is less than 1.
    """
    if batch_size < 1:
        raise RecipeError(f"batch_size {batch_size}: expected at least 1.")
    limits = view.thresholds.of(view.names)
    tracker = ObjectTracker() if view.track else None
    for part in in_parts(source, lambda frame: frame.pixels, _BATCHES_AT_ONCE * batch_size):
        pixels = [frame.pixels for frame in part]
        found = detect_all(detect, pixels, view)
        for frame, detections in zip(part, found, strict=True):
            if tracker is None:
                kept = shown(detections, limits, view.multi_label)
            else:
                kept = tracker.update(frame, shown(detections, WEAK * limits, view.multi_label), limits)
            kept = with_masks(kept, frame.pixels.shape[:2])
            yield Found(frame, kept, best_score_below(detections, limits))


def detect_all(detect: DetectMany, images: Sequence[np.ndarray[Any, Any]], view: View) -> Sequence[sv.Detections]:
    """Return all detections of images, however low their scores are; with tiling, those that are not much too low.

    Args:
        detect: Returns all detections of several images.
        images: [H, W, 3] uint8, RGB, each.
        view: Its tiling and thresholds are used.
    """
    if view.tiling is None:
        return detect(images)
    floor = _FLOOR * float(view.thresholds.of(view.names).min())
    return [detect_tiles(detect, image, view.tiling, floor) for image in images]

"""What a call of a detector does around the network: checks, reading in parts, the threshold; without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import supervision as sv

from ezsd.errors import RecipeError
from ezsd.inference.inputs import ImageInput, read_pixels

Pixels: TypeAlias = "np.ndarray[Any, Any]"  # uint8 RGB [H, W, 3]

_READ_AT_ONCE = 8  # batches; images of the same padded size are batched together


def detect_all(
    images: ImageInput | list[Any] | tuple[Any, ...],
    threshold: float,
    batch_size: int,
    detect: Callable[[Sequence[Pixels]], list[sv.Detections]],
) -> sv.Detections | list[sv.Detections]:
    """Return the detections of an image, or of each image of a list.

    Args:
        images: An image as in :meth:`ezsd.inference.detector.Detector.__call__`, or a list of images.
        threshold: The minimum score of a detection.
        batch_size: The maximum number of images per batch.
        detect: Returns all detections of several images, however low their scores are.

    Raises:
        RecipeError: The threshold or the batch size is invalid.
        DataError: An image cannot be read.
    """
    if not 0 <= threshold <= 1:
        raise RecipeError(f"threshold {threshold}: expected a score between 0 and 1, such as 0.3.")
    if batch_size < 1:
        raise RecipeError(f"batch_size {batch_size}: expected at least 1.")
    listed = images if isinstance(images, (list, tuple)) else [images]
    results: list[sv.Detections] = []
    for start in range(0, len(listed), _READ_AT_ONCE * batch_size):
        pixels = [read_pixels(image) for image in listed[start : start + _READ_AT_ONCE * batch_size]]
        results += [_above(found, threshold) for found in detect(pixels)]
    return results if listed is images else results[0]


def _above(found: sv.Detections, threshold: float) -> sv.Detections:
    return cast(sv.Detections, found[np.asarray(found.confidence) >= threshold])

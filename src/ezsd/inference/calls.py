"""What a call of a detector does around the network: reading in parts, tiles, what people see; without torch.

:class:`ezsd.Detector` and :class:`ezsd.OnnxDetector` use these functions, so that they differ in the network alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import supervision as sv

from ezsd.errors import DataError, RecipeError
from ezsd.inference.inputs import ImageInput, in_parts, read_pixels
from ezsd.inference.masks import SMALL_MASKS, with_masks
from ezsd.inference.sources import several_images
from ezsd.inference.stream import View, detect_all
from ezsd.inference.tiling import DetectMany
from ezsd.inference.view import shown

Pixels: TypeAlias = "np.ndarray[Any, Any]"  # uint8 RGB [H, W, 3]
Array: TypeAlias = "np.ndarray[Any, Any]"

_READ_AT_ONCE = 8  # batches; images of the same padded size are batched together


def call(
    images: ImageInput | list[Any] | tuple[Any, ...], view: View, batch_size: int, detect: DetectMany
) -> sv.Detections | list[sv.Detections]:
    """Return the shown detections of an image, or of each image of a list.

    Args:
        images: An image as in :meth:`ezsd.inference.detector.Detector.__call__`, or a list of images.
        view: Which detections are shown.
        batch_size: The maximum number of images per batch.
        detect: Returns all detections of several images, however low their scores are.

    Raises:
        RecipeError: The batch size is invalid.
        DataError: An image cannot be read, or is a folder, a pattern, a video or the like.
    """
    if batch_size < 1:
        raise RecipeError(f"batch_size {batch_size}: expected at least 1.")
    limits = view.thresholds.of(view.names)
    listed = images if isinstance(images, (list, tuple)) else [images]
    for image in listed:
        if kind := several_images(image):
            raise DataError(
                f"{image} is {kind}, but a call takes an image or a list of images. Use the method stream, as in: "
                "for frame, detections, _ in detector.stream(source)"
            )
    results: list[sv.Detections] = []
    for pixels in in_parts(map(read_pixels, listed), lambda image: image, _READ_AT_ONCE * batch_size):
        for image, found in zip(pixels, detect_all(detect, pixels, view), strict=True):
            results.append(with_masks(shown(found, limits, view.multi_label), image.shape[:2]))
    return results if listed is images else results[0]


def with_names(boxes: Array, labels: Array, scores: Array, masks: Array | None, names: Sequence[str]) -> sv.Detections:
    """Return all detections of an image; :func:`ezsd.inference.masks.with_masks` pastes the masks of those shown.

    Args:
        boxes: [N, 4], xyxy in pixels of the image.
        labels: [N], indices of ``names``.
        scores: [N].
        masks: [N, S, S] probabilities inside the boxes, if the model predicts them.
        names: The vocabulary.
    """
    small: dict[str, Any] = {} if masks is None else {SMALL_MASKS: masks}
    return sv.Detections(
        xyxy=boxes,
        confidence=scores,
        class_id=labels.astype(int),
        data={"class_name": np.array(names, dtype=str)[labels]} | small,
    )

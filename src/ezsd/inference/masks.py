"""Masks of the size of the image from the small masks that a detector predicts; without torch.

A mask of the size of the image is large: 300 masks of 12 megapixels are 3.6 GB. So detections keep their small masks
until it is decided which of them are shown. These are pasted one at a time, and of each, runs of equal pixels are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import supervision as sv

Array = np.ndarray[Any, Any]

SMALL_MASKS = "small_masks"  # key in the data of sv.Detections whose masks are not pasted yet: [N, S, S] probabilities


def with_masks(found: sv.Detections, size: tuple[int, int]) -> sv.Detections:
    """Paste the small masks of detections, if they have any.

    Args:
        found: Detections with ``data["small_masks"]``.
        size: H and W of the image.

    Returns:
        The detections, with ``mask`` instead.
    """
    if SMALL_MASKS not in found.data:
        return found
    found.mask = paste_masks(np.asarray(found.data[SMALL_MASKS]), found.xyxy, size)
    found.data = {key: values for key, values in found.data.items() if key != SMALL_MASKS}
    return found


def paste_masks(masks: Array, boxes: Array, size: tuple[int, int]) -> sv.CompactMask:
    """Return the pixels with a probability over 0.5, the same as of torchvision's ``paste_masks_in_image``.

    Args:
        masks: [N, S, S] probabilities inside the boxes.
        boxes: [N, 4] xyxy, float32.
        size: H and W of the image.

    Returns:
        Masks [N, H, W], compressed; ``masks[i]`` is [H, W] bool.
    """
    side, (height, width) = masks.shape[-1], size
    bordered = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * ((side + 2) / side)
    corners = np.concatenate([middle - half, middle + half], axis=1).astype(np.int64)
    pasted = [_compact(np.zeros((0, height, width), dtype=bool))]
    for mask, (left, top, right, bottom) in zip(bordered, corners.tolist(), strict=True):
        rows, columns = (max(1, end - start + 1) for start, end in ((top, bottom), (left, right)))
        whole = _along(_along(mask, columns, 1), rows, 0) > 0.5
        x, y = max(left, 0), max(top, 0)
        inside = whole[y - top : height - top, x - left : width - left]
        pasted.append(_compact(inside[None]).with_offset(x, y, (height, width)))
    return sv.CompactMask.merge(pasted)


def each_mask(masks: sv.CompactMask | Array) -> Iterator[Array]:
    """Yield masks [H, W] bool, one at a time: compressed ones in the order of columns, which is fast to encode."""
    if not isinstance(masks, sv.CompactMask):
        yield from masks
        return
    for index, (left, top) in enumerate(masks.offsets.tolist()):
        crop, mask = masks.crop(index), np.zeros(masks.image_shape, dtype=bool, order="F")
        mask[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
        yield mask


def _compact(masks: Array) -> sv.CompactMask:
    """Compress masks [N, h, w]."""
    count, height, width = masks.shape
    return sv.CompactMask.from_dense(masks, np.tile([0, 0, width - 1, height - 1], (count, 1)), (height, width))


def _along(values: Array, count: int, axis: int) -> Array:
    """Interpolate linearly to ``count`` values along an axis, without antialiasing (half-pixel centers)."""
    length = values.shape[axis]
    place = ((np.arange(count, dtype=np.float32) + 0.5) * (length / count) - 0.5).clip(0)
    low = np.minimum(place.astype(np.int64), length - 1)
    share = (place - low).astype(np.float32)
    share = share[:, None] if axis == 0 else share
    result = values.take(low, axis)
    result *= 1 - share
    higher = values.take(np.minimum(low + 1, length - 1), axis)
    higher *= share
    result += higher
    return result

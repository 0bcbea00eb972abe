"""Write other COCO content: boxes in pixels, or some of the images."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ezsd.data.formats.box_formats import pixels_of_one, to_xywh
from ezsd.data.formats.coco_entries import image_ids
from ezsd.data.formats.coco_json import IN_PIXELS, key_of, packed_segmentation

_LISTS = ("images", "annotations", "categories")
_ROUNDED = 1.02


def with_pixel_boxes(
    content: Mapping[str, Any], sizes: Mapping[int, tuple[int, int]], box_format: str
) -> dict[str, Any]:
    """Return the content with boxes as x, y, width, height in pixels; boxes that cannot be converted are kept.

    Args:
        content: The content of a COCO file.
        sizes: Width and height of the images by the id of :func:`image_ids`.
        box_format: The format of the boxes in the content.
    """
    by_key = {
        key_of(entry.get("id")): sizes[image_id]
        for image_id, entry in zip(image_ids(content["images"]), content["images"], strict=True)
        if image_id is not None and image_id in sizes
    }
    annotations = []
    for entry in content["annotations"]:
        size = by_key.get(key_of(entry.get("image_id"))) if isinstance(entry, dict) else None
        try:
            box = np.array([float(value) for value in entry["bbox"]]).reshape(1, 4)
        except (TypeError, ValueError, KeyError, OverflowError):
            size = None
        if size is not None:
            pixels = to_xywh(box, np.array([size], dtype=np.float64), box_format)[0].round(4).tolist()
            entry = {**entry, "bbox": pixels, "area": round(pixels[2] * pixels[3], 4)}
            if (polygons := _pixel_polygons(entry.get("segmentation"), size, box_format)) is not None:
                entry["segmentation"] = polygons
        annotations.append(entry)
    return {"info": IN_PIXELS, **{key: content[key] for key in _LISTS}, "annotations": annotations}


def _pixel_polygons(segmentation: Any, size: tuple[int, int], box_format: str) -> list[list[float]] | None:
    """Return polygons in the unit of the boxes as pixels; None for what is in pixels already, or no polygon."""
    unit = box_format.partition("-")[2]
    polygons = packed_segmentation(segmentation) if unit else None
    if not isinstance(polygons, list) or not all(isinstance(polygon, array) for polygon in polygons):
        return None
    scale = pixels_of_one(np.array([size], dtype=np.float64), unit)[0].tolist()
    limits = [_ROUNDED * side / one for side, one in zip(size, scale, strict=True)]
    if not all(value <= limits[place % 2] for polygon in polygons for place, value in enumerate(polygon)):
        return None
    return [[round(value * scale[place % 2], 4) for place, value in enumerate(polygon)] for polygon in polygons]


def divided(content: Mapping[str, Any], val: Collection[int]) -> dict[str, dict[str, Any]]:
    """Return the content of "train" and "val".

    Args:
        content: The content of a COCO file.
        val: The val images, by the id of :func:`image_ids`.
    """
    in_val = [image_id in val for image_id in image_ids(content["images"])]
    keys = {key_of(entry.get("id")) for entry, chosen in zip(content["images"], in_val, strict=True) if chosen}

    def belongs(entry: Any) -> bool:
        return isinstance(entry, dict) and key_of(entry.get("image_id")) in keys

    return {
        name: {
            "images": [entry for entry, chosen in zip(content["images"], in_val, strict=True) if chosen == wanted],
            "annotations": [entry for entry in content["annotations"] if belongs(entry) == wanted],
            "categories": content["categories"],
            **({"info": content["info"]} if "info" in content else {}),
        }
        for name, wanted in (("train", False), ("val", True))
    }

"""Write annotations as another COCO file: boxes in pixels, or some of the images."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ezsd.data.formats.box_formats import pixels_of_one, to_xywh
from ezsd.data.formats.coco_entries import image_ids
from ezsd.data.formats.coco_json import IN_PIXELS, LABEL_PLACE, OF_INIT, Annotations, key_of, looked_up
from ezsd.utils.files import written_whole

_ROUNDED = 1.02


def with_pixel_boxes(content: Annotations, sizes: Mapping[int, tuple[int, int]], box_format: str) -> Annotations:
    """Return the annotations with boxes as x, y, width, height in pixels; boxes that cannot be converted are kept.

    Args:
        content: The annotations.
        sizes: Width and height of the images by the id of :func:`image_ids`.
        box_format: The format of the boxes in the content.
    """
    known = [sizes.get(image_id) if image_id is not None else None for image_id in image_ids(content.images)]
    places = {_key(entry): place for place, entry in enumerate(content.images)}
    image = np.array(looked_up(places, content.image_keys, len(known)), dtype=np.int64)
    usable = np.array([*(size is not None for size in known), False])[image] & np.isfinite(content.boxes).all(1)
    sides = np.array([*(size or (1, 1) for size in known), (1, 1)], dtype=np.float64)[image]
    boxes, areas = content.boxes.copy(), content.areas.copy()
    boxes[usable] = to_xywh(boxes[usable], sides[usable], box_format).round(4)
    areas[usable] = boxes[usable, 2:].prod(1).round(4)
    segmentations = list(content.segmentations)
    if unit := box_format.partition("-")[2]:
        for row in np.flatnonzero(usable).tolist():
            segmentations[row] = _in_pixels(segmentations[row], sides[row], unit)
    return replace(content, boxes=boxes, areas=areas, segmentations=segmentations, in_pixels=True)


def _in_pixels(segmentation: Any, size: NDArray[np.float64], unit: str) -> Any:
    """Return polygons in the unit of the boxes as pixels; what is in pixels already, or no polygon, as it is."""
    if not isinstance(segmentation, list) or not all(isinstance(polygon, array) for polygon in segmentation):
        return segmentation
    scale = pixels_of_one(size[None], unit)[0].tolist()
    limits = [_ROUNDED * side / one for side, one in zip(size.tolist(), scale, strict=True)]
    if not all(value <= limits[place % 2] for polygon in segmentation for place, value in enumerate(polygon)):
        return segmentation
    return [
        array("d", [round(value * scale[place % 2], 4) for place, value in enumerate(polygon)])
        for polygon in segmentation
    ]


def divided(content: Annotations, val: Collection[int]) -> dict[str, Annotations]:
    """Return the annotations of "train" and "val".

    Args:
        content: The annotations.
        val: The val images, by the id of :func:`image_ids`.
    """
    chosen = [image_id in val for image_id in image_ids(content.images)]
    in_val = {_key(entry): 1 for entry, is_val in zip(content.images, chosen, strict=True) if is_val}
    rows = np.array(looked_up(in_val, content.image_keys, 0), dtype=np.bool_)
    return {
        part: _selected(content, rows == wanted, [is_val == wanted for is_val in chosen])
        for part, wanted in (("train", False), ("val", True))
    }


def write_annotations(path: Path, content: Annotations) -> None:
    """Write annotations as a COCO file of ``ezsd init``, one entry a line.

    Raises:
        ArtifactError: The file cannot be written.
    """
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(_lines(content))


def _key(entry: Any) -> Any:
    return key_of(entry.get("id")) if isinstance(entry, dict) else None


def _selected(content: Annotations, rows: np.ndarray[Any, np.dtype[np.bool_]], images: list[bool]) -> Annotations:
    places = np.flatnonzero(rows).tolist()
    columns = (content.ids, content.image_keys, content.category_keys, content.segmentations, content.places)
    ids, image_keys, category_keys, segmentations, in_files = ([column[row] for row in places] for column in columns)
    kept = [entry for entry, wanted in zip(content.images, images, strict=True) if wanted]
    odd = {place: content.odd[row] for place, row in enumerate(places) if row in content.odd} if content.odd else {}
    boxes, areas, crowd = content.boxes[rows], content.areas[rows], content.crowd[rows]
    return Annotations(
        kept,
        content.categories,
        ids,
        image_keys,
        category_keys,
        boxes,
        areas,
        crowd,
        segmentations,
        in_files,
        content.drawn[rows],
        odd,
        content.in_pixels,
    )


def _lines(content: Annotations) -> Iterator[str]:
    info = OF_INIT | (IN_PIXELS if content.in_pixels else {})
    yield f'{{"info": {json.dumps(info)}, "images": [\n'
    yield from _listed(content.images)
    yield '], "categories": [\n'
    yield from _listed(content.categories)
    yield '], "annotations": [\n'
    yield from _listed(_entry(content, row) for row in range(len(content.ids)))
    yield "]}\n"


def _listed(entries: Any) -> Iterator[str]:
    for place, entry in enumerate(entries):
        yield f"{',' if place else ''}{json.dumps(entry)}\n"


def _entry(content: Annotations, row: int) -> Any:
    """Return an annotation as it is written; one that is not as expected stays so."""
    segmentation = content.segmentations[row]
    if isinstance(segmentation, list):
        segmentation = [part.tolist() if isinstance(part, array) else part for part in segmentation]
    drawn = {} if segmentation is None else {"segmentation": segmentation}
    box = content.boxes[row].tolist()
    if row in content.odd:
        entry = content.odd[row]
        known = {"bbox": box} if all(map(math.isfinite, box)) else {}
        return {**entry, **known, **drawn} if isinstance(entry, dict) else entry
    area = float(content.areas[row])
    return {
        "id": content.ids[row],
        "image_id": content.image_keys[row],
        "category_id": content.category_keys[row],
        "bbox": box,
        **({} if area != area else {"area": area}),
        "iscrowd": int(content.crowd[row]),
        **({} if content.places[row] is None else {LABEL_PLACE: content.places[row]}),
        **drawn,
    }

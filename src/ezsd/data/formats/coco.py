"""Pictures with boxes in COCO or LVIS format. Boxes of names that were not asked for never leave this room."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ezsd.data.formats.coco_json import Boxes, Record, find_boxes, find_labels, find_records, read_annotations
from ezsd.data.images import picture_faults
from ezsd.data.samples import Photo, Photos, segmentations_of
from ezsd.errors import DataError
from ezsd.recipe import Part

_SHOWN = 20
_SKIP_BAD = "Mend them, or set data.skip_bad: true to leave these photos and boxes out (they are listed and counted)."


def load_photos(part: Part, names: Sequence[str], skip_bad: bool = False, required: Sequence[str] = ()) -> Photos:
    """Read the annotations of one part and check its pictures.

    Nothing that is returned depends on boxes of other categories than ``names``; faults of such boxes count for
    nothing either. For training, ``names`` are the base names.

    Args:
        part: where photos and annotations are, and how many photos to take.
        names: categories to keep; label 1 is the first.
        skip_bad: leave bad photos and boxes out, and list them in ``skipped``, instead of stopping. Every picture is
            then decoded, not only its header.
        required: names that the annotation file must have.

    Raises:
        DataError: the annotations cannot be used, or photos or boxes are bad (all told at once, the first 20 in full).
    """
    found = _read(part, tuple(names), required, decode=skip_bad)
    faults = found.of_file if skip_bad else found.of_file + found.of_items
    if faults:
        advice = [] if skip_bad or found.of_file else [_SKIP_BAD]
        more = [f"and {len(faults) - _SHOWN} more."] if len(faults) > _SHOWN else []
        raise DataError([*faults[:_SHOWN], *more, *advice])
    if not found.photos.photos:
        raise DataError([f"{part.annotations}: no photo is left, all are bad.", *found.of_items[:_SHOWN]])
    return replace(found.photos, skipped=tuple(found.of_items))


def validate_part(part: Part, names: Sequence[str], required: Sequence[str] = ()) -> list[str]:
    """Return all faults that :func:`load_photos` would find; every picture is decoded. No fault: an empty list."""
    try:
        found = _read(part, tuple(names), required, decode=True)
    except DataError as error:
        return list(error.faults)
    return found.of_file + found.of_items


def coco_ground_truth(photos: Photos) -> dict[str, Any]:
    """Return the photos as a COCO dictionary for the evaluator: category id = label, annotation ids from 1."""
    annotations: list[dict[str, Any]] = []
    for photo in photos.photos:
        drawn = segmentations_of(photo) if photos.has_masks else None
        sides = photo.boxes[:, 2:] - photo.boxes[:, :2]
        areas = (sides.prod(1) if photo.areas is None else photo.areas).tolist()
        bboxes = torch.cat([photo.boxes[:, :2], sides], dim=1).tolist()
        for index, (label, crowd) in enumerate(zip(photo.labels.tolist(), photo.crowd.tolist(), strict=True)):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": photo.image_id,
                    "category_id": label,
                    "bbox": bboxes[index],
                    "area": areas[index],
                    "iscrowd": int(crowd),
                }
                | ({} if drawn is None else {"segmentation": drawn[index]})
            )
    return {
        "images": [{"id": photo.image_id, "width": photo.width, "height": photo.height} for photo in photos.photos],
        "annotations": annotations,
        "categories": [{"id": label, "name": name} for label, name in enumerate(photos.names, start=1)],
    }


@dataclass
class _Found:
    photos: Photos
    of_file: list[str]  # faults that stop in any case
    of_items: list[str]  # faults of single photos and boxes


@contextmanager
def _no_collection() -> Iterator[None]:
    """Switch the search for reference cycles off: JSON has none, and with millions of values it takes most time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@_no_collection()
def _read(part: Part, names: tuple[str, ...], required: Sequence[str], decode: bool) -> _Found:
    """Read everything and collect the faults; only a file that cannot be read at all raises."""
    content = read_annotations(part.annotations)
    label_of, of_file = find_labels(content["categories"], names, required)
    records, places, of_items = find_records(content["images"], part)
    if not places:
        of_file.append("no photo in images; expected at least one.")
    pictures = picture_faults([(record.path, record.width, record.height) for record in records], decode)
    of_items += [f"photo {record.image_id}: {fault}" for record, fault in zip(records, pictures, strict=True) if fault]
    boxes, box_faults = find_boxes(content["annotations"], label_of, places, records, names)
    usable = [fault is None for fault in pictures]
    photos, has_masks = _assemble(records, boxes, usable)
    where = part.annotations
    return _Found(
        Photos(photos, names, has_masks),
        [f"{where}: {fault}" for fault in of_file],
        [f"{where}: {fault}" for fault in of_items + box_faults],
    )


def _assemble(records: list[Record], boxes: Boxes, usable: list[bool]) -> tuple[list[Photo], bool]:
    """Give every usable photo its good boxes, in the order of the file."""
    good = np.flatnonzero(boxes.good & np.array([*usable, False])[boxes.photo])
    order = good[np.argsort(boxes.photo[good], kind="stable")]
    rows = [boxes.rows[place] for place in order.tolist()]
    crowd = np.array([bool(entry.get("iscrowd")) for entry in rows], dtype=np.bool_)
    counts = np.bincount(boxes.photo[order], minlength=len(records)).tolist()
    corners = boxes.boxes[order]
    has_masks = any(map(_has_segmentation, rows)) and all(
        bool(is_crowd) or _has_segmentation(entry) for entry, is_crowd in zip(rows, crowd, strict=True)
    )
    columns = zip(
        records,
        usable,
        _split(corners, counts),
        _split(boxes.labels[order], counts),
        _split(crowd, counts),
        _split(_areas(rows, corners), counts),
        np.cumsum(counts).tolist(),
        strict=True,
    )
    return [
        Photo(
            record.image_id,
            record.path,
            record.width,
            record.height,
            box,
            label,
            is_crowd,
            [entry.get("segmentation") or [] for entry in rows[end - len(box) : end]] if has_masks else None,
            area,
        )
        for record, wanted, box, label, is_crowd, area, end in columns
        if wanted
    ], has_masks


def _has_segmentation(entry: dict[str, Any]) -> bool:
    return bool(entry.get("segmentation"))


def _areas(rows: list[dict[str, Any]], corners: NDArray[np.float32]) -> NDArray[np.float32]:
    own = (corners[:, 2:] - corners[:, :2]).prod(1)
    given = np.array([_number(entry.get("area")) for entry in rows], dtype=np.float32)
    usable: NDArray[np.bool_] = np.isfinite(given) & (given > 0)
    return np.where(usable, given, own)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def _split(values: NDArray[Any], counts: list[int]) -> tuple[Tensor, ...]:
    return torch.split(torch.from_numpy(values), counts)

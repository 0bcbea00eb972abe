"""Load images and boxes in COCO or LVIS format. Boxes of categories that were not requested are never returned."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ezsd.data.categories import CategorySplit
from ezsd.data.formats.coco_json import Boxes, Record, find_boxes, find_labels, find_records, read_annotations
from ezsd.data.images import image_problems
from ezsd.data.samples import AnnotatedImage, ImageSet, segmentations_of
from ezsd.errors import DataError
from ezsd.recipe import DataConfig, Part

_SHOWN = 20
_SKIP_BAD = "Fix them, or set data.skip_bad: true to skip these images and boxes (they are listed and counted)."


def load_images(part: Part, names: Sequence[str], skip_bad: bool = False, required: Sequence[str] = ()) -> ImageSet:
    """Load the annotations of one part of the data and check its images.

    The result does not depend on boxes of categories outside ``names``, and problems of such boxes are ignored. For
    training, ``names`` are the base names.

    Args:
        part: The locations of images and annotations, and the maximum number of images.
        names: The categories to keep. Label 1 is the first name.
        skip_bad: Skip invalid images and boxes and list them in ``skipped`` instead of raising an error. Images are
            then decoded completely; otherwise only their headers are read.
        required: Names that the annotation file must contain.

    Returns:
        The images, sorted by id, with their boxes (xyxy, absolute pixels).

    Raises:
        DataError: The annotations cannot be used, or images or boxes are invalid. All problems are reported together;
            the first 20 are listed.
    """
    found = _read(part, tuple(names), required, decode=skip_bad)
    problems = found.of_file if skip_bad else found.of_file + found.of_items
    if problems:
        advice = [] if skip_bad or found.of_file else [_SKIP_BAD]
        more = [f"and {len(problems) - _SHOWN} more."] if len(problems) > _SHOWN else []
        raise DataError([*problems[:_SHOWN], *more, *advice])
    if not found.images:
        raise DataError([f"{part.annotations}: no image is left, all are invalid.", *found.of_items[:_SHOWN]])
    return replace(found.images, skipped=tuple(found.of_items))


def load_parts(
    data: DataConfig, split: CategorySplit, wanted: Collection[Literal["train", "val"]] = ("train", "val")
) -> dict[str, ImageSet]:
    """Load the wanted parts of the data: train with boxes of base and few-shot names only, val with boxes of all names.

    Raises:
        DataError: See :func:`load_images`; the problems of both parts are reported together.
    """
    parts = {"train": (data.train, split.trained, split.trained), "val": (data.val, split.names, ())}
    images: dict[str, ImageSet] = {}
    problems: list[str] = []
    for name in wanted:
        part, names, required = parts[name]
        try:
            images[name] = load_images(part, names, data.skip_bad, required)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return images


def validate_part(part: Part, names: Sequence[str], required: Sequence[str] = ()) -> list[str]:
    """Return all problems that :func:`load_images` would find. Every image is decoded."""
    try:
        found = _read(part, tuple(names), required, decode=True)
    except DataError as error:
        return list(error.problems)
    return found.of_file + found.of_items


def coco_ground_truth(images: ImageSet) -> dict[str, Any]:
    """Convert images to a COCO dictionary for the evaluator. Category ids are labels; annotation ids start at 1."""
    annotations: list[dict[str, Any]] = []
    for image in images:
        drawn = segmentations_of(image) if images.has_masks else None
        sides = image.boxes[:, 2:] - image.boxes[:, :2]
        areas = (sides.prod(1) if image.areas is None else image.areas).tolist()
        bboxes = torch.cat([image.boxes[:, :2], sides], dim=1).tolist()
        for index, (label, crowd) in enumerate(zip(image.labels.tolist(), image.crowd.tolist(), strict=True)):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image.image_id,
                    "category_id": label,
                    "bbox": bboxes[index],
                    "area": areas[index],
                    "iscrowd": int(crowd),
                }
                | ({} if drawn is None else {"segmentation": drawn[index]})
            )
    return {
        "images": [{"id": image.image_id, "width": image.width, "height": image.height} for image in images],
        "annotations": annotations,
        "categories": [{"id": label, "name": name} for label, name in enumerate(images.names, start=1)],
    }


@dataclass
class _Found:
    images: ImageSet
    of_file: list[str]  # problems that skip_bad does not cover
    of_items: list[str]  # problems of single images and boxes


@contextmanager
def _no_collection() -> Iterator[None]:
    """Disable cyclic garbage collection: JSON has no cycles, and the search takes most of the loading time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@_no_collection()
def _read(part: Part, names: tuple[str, ...], required: Sequence[str], decode: bool) -> _Found:
    """Load everything and collect the problems. Raise DataError only if the annotation file cannot be read."""
    content = read_annotations(part.annotations)
    label_of, of_file = find_labels(content["categories"], names, required)
    records, places, of_items = find_records(content["images"], part)
    if not places:
        of_file.append("no image in images; expected at least one.")
    pixels = image_problems([(record.path, record.width, record.height) for record in records], decode)
    of_items += [
        f"image {record.image_id}: {problem}" for record, problem in zip(records, pixels, strict=True) if problem
    ]
    boxes, box_problems = find_boxes(content["annotations"], label_of, places, records, names)
    usable = [problem is None for problem in pixels]
    images, has_masks = _assemble(records, boxes, usable)
    where = part.annotations
    return _Found(
        ImageSet(images, names, has_masks),
        [f"{where}: {problem}" for problem in of_file],
        [f"{where}: {problem}" for problem in of_items + box_problems],
    )


def _assemble(records: list[Record], boxes: Boxes, usable: list[bool]) -> tuple[list[AnnotatedImage], bool]:
    """Assign the valid boxes to the usable images, in file order."""
    good = np.flatnonzero(boxes.good & np.array([*usable, False])[boxes.image])
    order = good[np.argsort(boxes.image[good], kind="stable")]
    rows = [boxes.rows[place] for place in order.tolist()]
    crowd = np.array([bool(entry.get("iscrowd")) for entry in rows], dtype=np.bool_)
    counts = np.bincount(boxes.image[order], minlength=len(records)).tolist()
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
        AnnotatedImage(
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

"""Load images and boxes in COCO or LVIS format. Boxes of categories that were not requested are never returned."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ezsd.data.categories import CategorySplit
from ezsd.data.formats.coco_boxes import Boxes, find_boxes
from ezsd.data.formats.coco_entries import Record, Records, find_labels, find_records
from ezsd.data.formats.coco_json import Annotations, read_annotations
from ezsd.data.formats.coco_notes import box_notes, copy_notes, drawn_notes, mask_notes, name_notes, size_notes
from ezsd.data.formats.problems import Problems
from ezsd.data.formats.segmentations import is_segmentation
from ezsd.data.images import ImageCheck, check_images
from ezsd.data.samples import AnnotatedImage, ImageSet, segmentations_of, shared_notes
from ezsd.errors import DataError
from ezsd.recipe import DataConfig, Part
from ezsd.utils.format import counted

_SKIP_BAD = (
    "Fix them, or set data.skip_bad: true (ezsd convert: --skip-bad) to skip these images and boxes; they are counted."
)
_MOST_NAMES = 10  # in one line
_LEAST_MASKS = 0.5  # of the boxes; with fewer, masks are not learned


def load_images(part: Part, names: Sequence[str], skip_bad: bool = False, required: Sequence[str] = ()) -> ImageSet:
    """Load the annotations of one part of the data and check its images.

    The result does not depend on boxes of categories outside ``names``, and problems of such boxes are ignored. For
    training, ``names`` are the base names.

    Args:
        part: The locations of images and annotations, and the maximum number of images.
        names: The categories to keep. Label 1 is the first name.
        skip_bad: Skip invalid images and boxes and list them in ``skipped`` instead of raising an error. Images are
            then decoded completely; otherwise only their headers are read.
        required: Names that the annotation file must contain, with at least one box in all.

    Returns:
        The images, sorted by id, with their boxes (xyxy, absolute pixels).

    Raises:
        DataError: The annotations cannot be used, or images or boxes are invalid. All problems are reported together;
            the first ten of each kind are listed.
    """
    return read_part(part, names, required, decode=skip_bad).images_or_error(skip_bad)


def load_parts(
    data: DataConfig, split: CategorySplit, wanted: Collection[Literal["train", "val"]] = ("train", "val")
) -> dict[str, ImageSet]:
    """Load the wanted parts of the data: train with boxes of base and few-shot names only, val with boxes of all names.

    If both are loaded, val images that are also train images are noted.

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
    if {"train", "val"} <= images.keys():
        notes = (*images["val"].notes, *shared_notes(images["train"], images["val"]))
        images["val"] = replace(images["val"], notes=notes)
    return images


@dataclass(frozen=True)
class PartReading:
    """One part of the data, with its problems.

    Attributes:
        images: The usable images with their valid boxes.
        of_file: Problems that make the whole file unusable.
        of_items: Problems of single images and boxes.
        where: The annotation file, or what it will be made from.
    """

    images: ImageSet
    of_file: Problems
    of_items: Problems
    where: str

    def problems(self, skip_bad: bool = False) -> list[str]:
        """Return the problems that prevent a run, as lines of text."""
        shown = [] if skip_bad else self.of_items.shown(self.where)
        if shown or self.of_file:
            advice = [] if skip_bad or self.of_file else [_SKIP_BAD]
            return [*self.of_file.shown(self.where), *shown, *advice]
        if not self.images:
            return [f"{self.where}: no image is left, all are invalid.", *self.of_items.shown(self.where)]
        return []

    def images_or_error(self, skip_bad: bool) -> ImageSet:
        """Return the images; see :func:`load_images`.

        Raises:
            DataError: There are problems.
        """
        if problems := self.problems(skip_bad):
            raise DataError(problems)
        return self.images


def read_part(
    part: Part, names: Sequence[str] | None = None, required: Sequence[str] = (), decode: bool = False
) -> PartReading:
    """Load one part of the data and collect its problems.

    Args:
        part: The locations of images and annotations, and the maximum number of images.
        names: The categories to keep; None keeps all.
        required: Names that the annotation file must contain, with at least one box in all.
        decode: Decode all images; otherwise only their headers are read.

    Raises:
        DataError: The annotation file cannot be read.
    """
    return select_boxes(open_part(part, decode=decode), names, required)


@dataclass(frozen=True, eq=False)
class OpenedPart:
    """The annotations of one part of the data, and the state of its image files; see :func:`select_boxes`.

    Attributes:
        part: The locations of images and annotations.
        content: The annotations.
        found: The images.
        checks: The state of each image file.
        where: What messages name: the annotation file, or what it will be made from.
    """

    part: Part
    content: Annotations
    found: Records
    checks: list[ImageCheck]
    where: str

    def with_content(self, part: Part, content: Annotations) -> OpenedPart:
        """Return other annotations of the same image files, or of some of them; their checks are kept."""
        known = {record.path: check for record, check in zip(self.found.records, self.checks, strict=True)}
        found = find_records(content.images, part)
        new = [record for record in found.records if record.path not in known]  # of fewer names, more can be found
        checks = check_images([(record.path, record.width, record.height) for record in new], decode=False)
        known |= {record.path: check for record, check in zip(new, checks, strict=True)}
        return OpenedPart(part, content, found, [known[record.path] for record in found.records], self.where)


def open_part(part: Part, content: Annotations | None = None, decode: bool = False, where: str = "") -> OpenedPart:
    """Read the annotations of one part of the data, and check its images.

    Args:
        part: The locations of images and annotations, and the maximum number of images.
        content: The content of the annotation file, if it is not read from the file.
        decode: Decode all images; otherwise only their headers are read.
        where: What messages name; by default the annotation file.

    Raises:
        DataError: The annotation file cannot be read.
    """
    content = read_annotations(part.annotations) if content is None else content
    found = find_records(content.images, part)
    checks = check_images([(record.path, record.width, record.height) for record in found.records], decode)
    return OpenedPart(part, content, found, checks, where or str(part.annotations))


def select_boxes(opened: OpenedPart, names: Sequence[str] | None = None, required: Sequence[str] = ()) -> PartReading:
    """Return the images with their boxes of some categories, and all problems; see :func:`read_part`."""
    part, content, found, checks = opened.part, opened.content, opened.found, opened.checks
    of_file, of_items = Problems(), Problems()
    labels = find_labels(content, names, required)
    of_file.extend(labels.problems)
    of_file.extend(found.twice)
    of_items.extend(found.problems)
    _add_image_problems(of_file, of_items, part, found, checks)
    sizes = [None if check.problem else (check.width, check.height) for check in checks]
    boxes = find_boxes(content, labels, found.places, sizes, [record.label_file for record in found.records])
    of_file.extend(boxes.of_file)
    of_items.extend(boxes.of_items)
    images, notes = _assemble(content, found.records, sizes, boxes, labels.names)
    notes = [*name_notes(labels.names), *found.notes, *size_notes(found.records, checks), *notes]
    if required and not of_file and images and not count_boxes(images)[0].total():
        of_file.add("boxes", f"no box is left to learn from. {' '.join(notes)}")
    skipped = Problems()
    skipped.extend(of_items)
    skipped.extend(boxes.left_out)
    images = replace(
        images,
        skipped=tuple(skipped.lines(opened.where)),
        left_out=skipped.counts(),
        notes=tuple(notes),
    )
    return PartReading(images, of_file, of_items, opened.where)


def describe_part(part: str, images: ImageSet) -> str:
    """Return one line: how many images and boxes a part has, by name, and what is left out, by kind."""
    boxes, crowds = count_boxes(images)
    listed = sorted(((count, name) for name, count in boxes.items() if count), key=lambda pair: (-pair[0], pair[1]))
    shown = ", ".join(f"{name} {count:,}" for count, name in listed[:_MOST_NAMES])
    more = f", and {len(listed) - _MOST_NAMES:,} more names" if len(listed) > _MOST_NAMES else ""
    why = ", ".join(f"{kind} {count:,}" for kind, count in images.left_out.items())
    kept = counted(len(images), "image") + ", " + counted(boxes.total(), "box", "boxes")
    named = f" ({shown}{more})" if shown else ""
    left_out = counted(len(images.skipped), "image or box", "images or boxes") + " left out"
    reasons = f" ({why})" if why else ""
    crowd = counted(crowds, "crowd box", "crowd boxes")
    return f"found {part}: {kept}{named}, {crowd}, {left_out}{reasons}"


def count_boxes(images: ImageSet) -> tuple[Counter[str], int]:
    """Return the number of boxes by name, crowd boxes excluded, and the number of crowd boxes."""
    labels = torch.cat([torch.zeros(0, dtype=torch.int64), *(image.labels for image in images)])
    crowd = torch.cat([torch.zeros(0, dtype=torch.bool), *(image.crowd for image in images)])
    counts = torch.bincount(labels[~crowd], minlength=len(images.names) + 1)[1:].tolist()
    return Counter(dict(zip(images.names, counts, strict=True))), int(crowd.sum())


def coco_ground_truth(images: ImageSet) -> dict[str, Any]:
    """Convert images to a COCO dictionary for the evaluator. Category ids are labels; annotation ids start at 1.

    Boxes without a mask have no segmentation.
    """
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
                | ({"segmentation": drawn[index]} if drawn is not None and drawn[index] else {})
            )
    return {
        "images": [{"id": image.image_id, "width": image.width, "height": image.height} for image in images],
        "annotations": annotations,
        "categories": [{"id": label, "name": name} for label, name in enumerate(images.names, start=1)],
    }


def _add_image_problems(
    of_file: Problems, of_items: Problems, part: Part, found: Records, checks: Sequence[ImageCheck]
) -> None:
    """Add one problem for each unusable image, or one in all if the folder has none of the images."""
    records = found.records
    if not found.places:
        of_file.add("images", "no image in images; expected at least one.")
    elif records and not any(os.path.exists(record.path) for record in records):
        first = next(iter(found.other_suffix), records[0].path)
        advice = _suffix_hint(found, first) or (
            "Give the folder that file_name is relative to: --images of ezsd init, or images in the recipe."
        )
        of_file.add("images", f"{part.images} contains none of the {counted(len(records), 'image')}. The first one is "
                    f"expected at {first}. {advice}")  # fmt: skip
    else:
        for record, check in zip(records, checks, strict=True):
            if check.problem:
                where = record.label_file if record.width is not None else ""  # it has the size
                hint = _suffix_hint(found, record.path)
                text = f"image {record.image_id}: {check.problem}{'. ' if hint else ''}{hint}"
                of_items.add("image files", text, where)


def _suffix_hint(found: Records, path: Path) -> str:
    """Return that a missing image is there with another suffix, as how many are; an empty text if it is not."""
    if path not in found.other_suffix:
        return ""
    count = counted(len(found.other_suffix), "missing image has", "missing images have")
    return f"{count} another suffix in the folder, such as {found.other_suffix[path]}: write it in file_name."


def _assemble(
    content: Annotations,
    records: Sequence[Record],
    sizes: Sequence[tuple[int, int] | None],
    boxes: Boxes,
    names: tuple[str, ...],
) -> tuple[ImageSet, list[str]]:
    """Assign the boxes to the usable images, in file order, and return notes on them."""
    counts = np.bincount(boxes.image, minlength=len(records)).tolist()
    crowd = content.crowd[boxes.rows] == 1
    segmentations = [content.segmentations[row] for row in boxes.rows.tolist()]
    valid = np.fromiter(
        (
            entry is not None and is_segmentation(entry, *(sizes[image] or (0, 0)))
            for entry, image in zip(segmentations, boxes.image.tolist(), strict=True)
        ),
        np.bool_,
        len(segmentations),
    )
    missing = ~(valid | crowd)
    has_masks = bool(valid.any() and missing.sum() <= (1 - _LEAST_MASKS) * (~crowd).sum())
    columns = zip(
        records,
        sizes,
        _split(boxes.boxes, counts),
        _split(boxes.labels, counts),
        _split(crowd, counts),
        _split(_areas(content.areas[boxes.rows], boxes.boxes), counts),
        np.cumsum(counts).tolist(),
        strict=True,
    )
    images = [
        AnnotatedImage(
            record.image_id, record.path, size[0], size[1], box, label, is_crowd,
            [segmentations[row] if valid[row] else [] for row in range(end - len(box), end)] if has_masks else None,
            area,
        )
        for record, size, box, label, is_crowd, area, end in columns
        if size is not None
    ]  # fmt: skip
    notes = [
        *box_notes(crowd, boxes.left_out),
        *drawn_notes(content, boxes.rows),
        *copy_notes(content, records, boxes, crowd),
        *mask_notes(content, boxes.rows, segmentations, missing, has_masks),
    ]
    return ImageSet(images, names, has_masks), notes


def _areas(given: NDArray[np.float64], corners: NDArray[np.float32]) -> NDArray[np.float32]:
    own = (corners[:, 2:] - corners[:, :2]).prod(1)
    areas: NDArray[np.float32] = given.astype(np.float32)
    usable: NDArray[np.bool_] = np.isfinite(areas) & (areas > 0)
    return np.where(usable, areas, own)


def _split(values: NDArray[Any], counts: list[int]) -> tuple[Tensor, ...]:
    # Unsafe only for gradients, which boxes have not: without tracking views, tensors of COCO take half of the memory.
    return torch.unsafe_split_with_sizes(torch.from_numpy(values), counts)

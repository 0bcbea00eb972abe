"""Annotated images, independent of the annotation format."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from faster_coco_eval.core import mask as rle
from torch import Tensor

from ezsd.data.images import decode_image
from ezsd.errors import DataError
from ezsd.utils.format import counted, plural

Segmentation = Sequence[Sequence[float]] | dict[str, Any]


@dataclass(frozen=True, eq=False, slots=True)
class AnnotatedImage:
    """One image file and its boxes.

    Attributes:
        image_id: The id in the annotations.
        path: The image file.
        width: The width in pixels, after the EXIF orientation is applied.
        height: The height in pixels, after the EXIF orientation is applied.
        boxes: [N, 4] float32 xyxy, absolute pixels, clipped to the image. N can be 0.
        labels: [N] int64, 1-based indices into the names of :class:`ImageSet`.
        crowd: [N] bool, True if the box covers a group of objects.
        segmentations: COCO polygons (lists or arrays of numbers) or RLE of each box, as in the file (empty for boxes
            without a mask); None if the data has no masks. :func:`segmentations_of` returns plain lists.
        areas: [N] float32 in square pixels, as in the file (for COCO, the mask area), or the box area if missing.
    """

    image_id: int
    path: Path
    width: int
    height: int
    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    segmentations: list[Segmentation] | None
    areas: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The images of one part of the data.

    Attributes:
        images: The images, sorted by id, including images without boxes.
        names: The category names. Label 1 is ``names[0]``.
        has_masks: Whether masks can be learned: at least half of the boxes that are no crowds have a segmentation.
        skipped: One message for each image or box that is left out.
        left_out: How many of these there are of each kind.
        notes: What the user should know about the data, such as crowd boxes and images turned by EXIF.
    """

    images: list[AnnotatedImage]
    names: tuple[str, ...]
    has_masks: bool
    skipped: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[AnnotatedImage]:
        return iter(self.images)

    @overload
    def __getitem__(self, index: int) -> AnnotatedImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[AnnotatedImage]: ...
    def __getitem__(self, index: int | slice) -> AnnotatedImage | list[AnnotatedImage]:
        return self.images[index]


def shared_notes(train: ImageSet, other: ImageSet) -> list[str]:
    """Return a note if images of another part are also train images: the same files, also by links."""
    known = set(_real_paths(train))
    shared = [image.path for image, path in zip(other, _real_paths(other), strict=True) if path in known]
    if not shared:
        return []
    return [f"{len(shared):,} of {counted(len(other), 'image')} "
            f"{plural(len(shared), 'is also a train image', 'are also train images')} (the first is {shared[0]}), so "
            "the figures will be too good."]  # fmt: skip


def _real_paths(images: ImageSet) -> Iterator[str]:
    """Yield the path of each image without links; each folder is looked up once."""
    folders: dict[Path, str] = {}
    for image in images:
        folder = image.path.parent
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        path = os.path.join(folders[folder], image.path.name)
        yield os.path.realpath(path) if os.path.islink(path) else path


def read_image(image: AnnotatedImage | Path) -> Tensor:
    """Decode an image to a uint8 RGB tensor [3, H, W], with its EXIF orientation applied.

    Raises:
        DataError: The file is missing or damaged, or its size has changed since the annotations were loaded.
    """
    if isinstance(image, Path):
        return decode_image(image)
    pixels = decode_image(image.path)
    if pixels.shape[1:] != (image.height, image.width):
        raise DataError(
            f"{image.path}: {pixels.shape[2]} x {pixels.shape[1]} pixels, expected {image.width} x {image.height}. "
            "The file has changed; restore it, or fix the annotations, and run again."
        )
    return pixels


def masks_of(image: AnnotatedImage) -> Tensor:
    """Return the masks of an image's boxes: [N, H, W] uint8 of 0 and 1; a box without segmentation is filled.

    Raises:
        ValueError: the image has no segmentations.
    """
    if not len(image.boxes):
        return torch.zeros(0, image.height, image.width, dtype=torch.uint8)
    drawn = zip(segmentations_of(image), image.boxes.tolist(), strict=True)
    masks = rle.decode([rle.segmToRle(entry or _outline(box), image.width, image.height) for entry, box in drawn])
    return torch.from_numpy(np.ascontiguousarray(masks.transpose(2, 0, 1)))


def have_mask(image: AnnotatedImage) -> Tensor:
    """Return [N] bool: which boxes have a segmentation.

    Raises:
        ValueError: the image has no segmentations.
    """
    return torch.tensor([bool(entry) for entry in _segmentations(image)], dtype=torch.bool)


def segmentations_of(image: AnnotatedImage) -> list[Segmentation]:
    """Return the segmentation of each box, or an empty list; a crowd without one gets the outline of its box."""
    rows = zip(_segmentations(image), image.boxes.tolist(), image.crowd.tolist(), strict=True)
    return [_plain(entry) or (_outline(box) if crowd else []) for entry, box, crowd in rows]


def _segmentations(image: AnnotatedImage) -> list[Segmentation]:
    if image.segmentations is None:
        raise ValueError(f"image {image.image_id} has no segmentations")
    return image.segmentations


def _plain(segmentation: Segmentation) -> Segmentation:
    return segmentation if isinstance(segmentation, dict) else [list(polygon) for polygon in segmentation]


def _outline(box: Sequence[float]) -> Segmentation:
    x1, y1, x2, y2 = box
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def labels_among(image: AnnotatedImage, names: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """Return the label of each box among ``wanted``: ``[N]`` int64, 1-based, 0 = the name is not wanted.

    Args:
        image: Its labels are 1-based indices into ``names``.
        names: The names of the image's labels.
        wanted: Names; label 1 is the first.
    """
    place = {name: label for label, name in enumerate(wanted, start=1)}
    return torch.tensor([0, *(place.get(name, 0) for name in names)])[image.labels]


def without_masks(image: AnnotatedImage) -> AnnotatedImage:
    """Return the image without segmentations and areas, which are most of what would be sent to another machine."""
    return replace(image, segmentations=None, areas=None)


def with_names(image: AnnotatedImage, names: Sequence[str], wanted: Sequence[str]) -> AnnotatedImage:
    """Return the image with only the boxes of wanted names, crowd boxes excluded. The order of the boxes is kept.

    Code that must not see novel boxes selects boxes with this function.

    Args:
        image: Its labels are 1-based indices into ``names``.
        names: The names of the image's labels.
        wanted: Names to keep; the labels of the result are 1-based indices into them.
    """
    labels = labels_among(image, names, wanted)
    kept = (labels > 0) & ~image.crowd
    segmentations = image.segmentations
    return replace(
        image,
        boxes=image.boxes[kept],
        labels=labels[kept],
        crowd=image.crowd[kept],
        segmentations=None if segmentations is None else [segmentations[row] for row in kept.nonzero()[:, 0].tolist()],
        areas=None if image.areas is None else image.areas[kept],
    )


def boxes_as_text(image: AnnotatedImage) -> str:
    """Return a text that identifies an image and its boxes, for keys of cached results."""
    return f"{image.image_id} {image.boxes.tolist()} {image.labels.tolist()}"


def images_with(images: ImageSet, names: Sequence[str]) -> list[AnnotatedImage]:
    """Return the images that have a box of one of the names; crowd boxes do not count."""
    return [image for image in images if len(with_names(image, images.names, names).boxes)]

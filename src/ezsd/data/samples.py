"""Images with their boxes, whatever format they were read from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from faster_coco_eval.core import mask as rle
from torch import Tensor

from ezsd.data.images import decode_image
from ezsd.errors import DataError

Segmentation = list[list[float]] | dict[str, Any]


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """One picture file and its boxes.

    Attributes:
        image_id: as in the annotations.
        path: the picture file.
        width: pixels, after the EXIF orientation is applied.
        height: pixels, likewise.
        boxes: [N, 4] xyxy absolute pixels float32, inside the picture; N may be 0.
        labels: [N] int64, 1-based index into the names of :class:`ImageSet`.
        crowd: [N] bool, True where one box covers a group of objects.
        segmentations: for each box its COCO polygons or RLE as in the file (a crowd box may have an empty one);
            None where the data has no masks.
        areas: [N] float32 square pixels as in the file (COCO: of the mask), or of the box where the file gives none.
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
    """One part of the data.

    Attributes:
        images: sorted by image_id; photos without a box of ``names`` are there too.
        names: what the labels mean; label 1 is ``names[0]``.
        has_masks: every box that is no crowd has a segmentation.
        skipped: what ``skip_bad`` left out, one message each.
    """

    images: list[AnnotatedImage]
    names: tuple[str, ...]
    has_masks: bool
    skipped: tuple[str, ...] = ()

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


def read_image(image: AnnotatedImage | Path) -> Tensor:
    """Decode a picture: uint8 [3, H, W], RGB, turned as its EXIF orientation says.

    Raises:
        DataError: the file is missing or damaged, or its size is not what it was when the photo was loaded.
    """
    if isinstance(image, Path):
        return decode_image(image)
    pixels = decode_image(image.path)
    if pixels.shape[1:] != (image.height, image.width):
        raise DataError(
            f"{image.path}: {pixels.shape[2]} x {pixels.shape[1]} pixels, expected {image.width} x {image.height}. "
            "The file has changed; bring the old one back, or mend the annotations and run again."
        )
    return pixels


def masks_of(image: AnnotatedImage) -> Tensor:
    """Return the masks of a photo's boxes: [N, H, W] uint8 of 0 and 1; a crowd without segmentation fills its box.

    Raises:
        ValueError: the photo has no segmentations.
    """
    if not len(image.boxes):
        return torch.zeros(0, image.height, image.width, dtype=torch.uint8)
    masks = rle.decode([rle.segmToRle(entry, image.width, image.height) for entry in segmentations_of(image)])
    return torch.from_numpy(np.ascontiguousarray(masks.transpose(2, 0, 1)))


def segmentations_of(image: AnnotatedImage) -> list[Segmentation]:
    """Return the segmentation of each box; a crowd without one gets the outline of its box."""
    if image.segmentations is None:
        raise ValueError(f"photo {image.image_id} has no segmentations")
    return [
        entry or [[x1, y1, x2, y1, x2, y2, x1, y2]]
        for entry, (x1, y1, x2, y2) in zip(image.segmentations, image.boxes.tolist(), strict=True)
    ]


def base_boxes_of(
    images: Sequence[AnnotatedImage], names: Sequence[str], base: Sequence[str]
) -> list[tuple[Tensor, Tensor]]:
    """Boxes ``[N, 4]`` of base names in each photo, without crowds, and their 1-based labels among ``base``."""
    place = {name: index for index, name in enumerate(base, start=1)}
    boxes = []
    for image in images:
        labels = torch.tensor([place.get(names[label - 1], 0) for label in image.labels.tolist()]).long()
        wanted = (labels > 0) & ~image.crowd
        boxes.append((image.boxes[wanted], labels[wanted]))
    return boxes


def images_with(images: ImageSet, names: Sequence[str]) -> list[AnnotatedImage]:
    """Return the photos that have a box (no crowd) of one of the names."""
    wanted = {label for label, name in enumerate(images.names, start=1) if name in names}
    return [image for image in images if wanted.intersection(image.labels[~image.crowd].tolist())]

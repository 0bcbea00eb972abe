"""Build the content of a COCO file from annotations in other formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ezsd.data.formats.box_formats import pixels_of_one, to_xywh
from ezsd.data.formats.coco_json import IN_PIXELS, LABEL_FILE, LABEL_PLACE
from ezsd.data.images import check_images


@dataclass(frozen=True)
class _Box:
    image_id: int
    category_id: int
    corners: tuple[float, ...]
    crowd: bool
    polygons: Sequence[Sequence[float]]
    place: str


class CocoContent:
    """Images, boxes and categories that become a COCO file; ids count from 1.

    Args:
        names: Category names whose order is given; further names are added when they are used.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._images: list[dict[str, Any]] = []
        self._boxes: list[_Box] = []
        self._categories: dict[str, int] = {}
        for name in names:
            self._categories.setdefault(name, len(self._categories) + 1)

    @property
    def file_names(self) -> list[str]:
        """The images, with forward slashes."""
        return [image["file_name"] for image in self._images]

    def add_image(self, file_name: str, width: int | None, height: int | None, label_file: str = "") -> int:
        """Add an image and return its id.

        Args:
            file_name: The image, with forward slashes.
            width: None is read from the file.
            height: None is read from the file.
            label_file: The file with the boxes of the image, relative to the folder of the images.
        """
        image_id = len(self._images) + 1
        entry = {"id": image_id, "file_name": file_name, "width": width, "height": height}
        self._images.append(entry | ({LABEL_FILE: label_file} if label_file else {}))
        return image_id

    def add_box(
        self,
        image_id: int,
        name: str,
        corners: Sequence[float],
        crowd: bool = False,
        polygons: Sequence[Sequence[float]] = (),
        place: str = "",
        around: bool = False,
    ) -> None:
        """Add a box.

        Args:
            image_id: The image.
            name: The category.
            corners: x1, y1, x2, y2; what they are is said in :meth:`as_dict`.
            crowd: Whether the box is ignored in training and evaluation.
            polygons: x, y, x, y, ... like the corners.
            place: Where the box is in the label file, such as "line 3".
            around: Whether the corners are those around a round or rotated shape: they are cut off at the image.
        """
        entry = self._images[image_id - 1]
        if around and entry["width"] and entry["height"]:
            corners = _inside(corners, entry["width"], entry["height"])
        category_id = self._categories.setdefault(name, len(self._categories) + 1)
        self._boxes.append(_Box(image_id, category_id, tuple(map(float, corners)), crowd, polygons, place))

    def file_name(self, box: int) -> str:
        """Return the file name of the image of a box."""
        name: str = self._images[self._boxes[box].image_id - 1]["file_name"]
        return name

    def corners(self) -> NDArray[np.float64]:
        """Return [N, 4]: the corners of all boxes as they were added."""
        return np.array([box.corners for box in self._boxes], dtype=np.float64).reshape(-1, 4)

    def sizes(self, folder: Path) -> NDArray[np.float64]:
        """Return [N, 2]: width and height of the image of each box; 1 if the image cannot be read.

        Args:
            folder: The folder that file names are relative to.
        """
        known = [(image["width"], image["height"]) for image in self._images]
        missing = [place for place, size in enumerate(known) if None in size]
        checks = check_images([(folder / self._images[place]["file_name"], None, None) for place in missing], False)
        for place, check in zip(missing, checks, strict=True):
            known[place] = (1, 1) if check.problem else (check.width, check.height)
        return np.array([known[box.image_id - 1] for box in self._boxes], dtype=np.float64).reshape(-1, 2)

    def as_dict(
        self, box_format: str = "xyxy", sizes: NDArray[np.float64] | None = None, first_pixel: float = 0
    ) -> dict[str, Any]:
        """Return the content of the COCO file.

        Args:
            box_format: What the corners are, one of ``BOX_FORMATS``. Polygons have their unit.
            sizes: [N, 2] width and height of the image of each box; None if all corners are pixels.
            first_pixel: The number of the first pixel in corners whose last pixel is included.
        """
        annotations = []
        sizes = np.ones((len(self._boxes), 2)) if sizes is None else sizes
        scales = pixels_of_one(sizes, box_format.partition("-")[2]).tolist()
        boxes = to_xywh(self.corners(), sizes, box_format)
        boxes[:, 2:] += boxes[:, :2]
        for place, (box, corners) in enumerate(zip(self._boxes, boxes.tolist(), strict=True)):
            x1, y1, x2, y2 = (round(value, 4) for value in corners)
            x1, y1 = x1 - first_pixel, y1 - first_pixel
            width, height = round(x2 - x1, 4), round(y2 - y1, 4)
            entry: dict[str, Any] = {
                "id": place + 1,
                "image_id": box.image_id,
                "category_id": box.category_id,
                "bbox": [x1, y1, width, height],
                "area": round(width * height, 4),
                "iscrowd": int(box.crowd),
            }
            if box.place:
                entry[LABEL_PLACE] = box.place
            if box.polygons:
                entry["segmentation"] = [
                    [round(value, 4) for value in _scaled(polygon, scales[place])] for polygon in box.polygons
                ]
            annotations.append(entry)
        return {
            "info": IN_PIXELS,
            "images": self._images,
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for name, number in self._categories.items()],
        }


def _inside(corners: Sequence[float], width: int, height: int) -> Sequence[float]:
    """Return corners cut off at the image; those of a box that is not in it as they are."""
    x1, y1, x2, y2 = corners
    if min(x2, width) <= max(x1, 0) or min(y2, height) <= max(y1, 0):
        return corners
    return max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)


def _scaled(numbers: Sequence[float], scale: Sequence[float]) -> list[float]:
    return [float(value) * scale[place % 2] for place, value in enumerate(numbers)]

"""Build the content of a COCO file from annotations in other formats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class CocoContent:
    """Images, boxes and categories that become a COCO file; ids count from 1.

    Args:
        names: Category names whose order is given; further names are added when they are used.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._categories: dict[str, int] = {}
        for name in names:
            self._categories.setdefault(name, len(self._categories) + 1)

    def add_image(self, file_name: str, width: int | None, height: int | None) -> int:
        """Add an image and return its id. ``file_name`` has forward slashes; a size of None is read from the file."""
        image_id = len(self._images) + 1
        self._images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        return image_id

    def add_box(
        self,
        image_id: int,
        name: str,
        corners: Sequence[float],
        crowd: bool = False,
        polygons: Sequence[Sequence[float]] = (),
    ) -> None:
        """Add a box.

        Args:
            image_id: The image.
            name: The category.
            corners: x1, y1, x2, y2 in pixels.
            crowd: Whether the box is ignored in training and evaluation.
            polygons: x, y, x, y, ... in pixels.
        """
        x1, y1, x2, y2 = (round(float(value), 4) for value in corners)
        width, height = round(x2 - x1, 4), round(y2 - y1, 4)
        entry: dict[str, Any] = {
            "id": len(self._annotations) + 1,
            "image_id": image_id,
            "category_id": self._categories.setdefault(name, len(self._categories) + 1),
            "bbox": [x1, y1, width, height],
            "area": round(width * height, 4),
            "iscrowd": int(crowd),
        }
        if polygons:
            entry["segmentation"] = [[round(float(value), 4) for value in polygon] for polygon in polygons]
        self._annotations.append(entry)

    def as_dict(self) -> dict[str, Any]:
        """Return the content of the COCO file."""
        return {
            "images": self._images,
            "annotations": self._annotations,
            "categories": [{"id": number, "name": name} for name, number in self._categories.items()],
        }

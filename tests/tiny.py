"""A COCO data set of eight small images with colored shapes, with the irregularities of real COCO files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ezsd.data.categories import CategorySplit
from ezsd.recipe import Part

CATEGORIES = {3: "circle", 7: "square", 12: "bar", 20: "triangle", 44: "ring"}
SPLIT = CategorySplit("tiny", base=("circle", "square"), novel=("triangle", "bar"))  # ring: neither
SIZES = {11: (96, 64), 4: (64, 96), 25: (80, 80), 8: (96, 64), 19: (64, 64), 42: (96, 72), 30: (72, 96), 57: (64, 64)}
EMPTY_IMAGE = 19
CROWD_IMAGE = 25
COMPRESSED_RLE_IMAGE = 8
_COLORS = {3: (220, 40, 40), 7: (40, 90, 220), 12: (240, 200, 40), 20: (40, 180, 80), 44: (200, 80, 200)}


@dataclass(frozen=True)
class TinyCoco:
    """The data set on disk. ``content`` is the content of ``annotations``; after a change, call :meth:`save`."""

    images: Path
    annotations: Path
    content: dict[str, Any]

    def part(self, **changes: Any) -> Part:
        return Part(images=self.images, annotations=self.annotations, **changes)

    def save(self) -> None:
        self.annotations.write_text(json.dumps(self.content))


def make_tiny_coco(folder: Path, seed: int = 0) -> TinyCoco:
    """Draw the images and write their annotations.

    Ids are neither sorted nor contiguous. Every image except the empty one has a base box, most have a novel box, and
    some have a box of another category. Segmentations are polygons, two uncompressed RLEs (one of them a crowd) and one
    compressed RLE.
    """
    numbers = np.random.default_rng(seed)
    images = folder / "images"
    images.mkdir(parents=True)
    annotations: list[dict[str, Any]] = []
    for place, (image_id, (width, height)) in enumerate(SIZES.items()):
        noise = numbers.integers(90, 150, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(noise)
        pencil = ImageDraw.Draw(image)
        for category_id in [] if image_id == EMPTY_IMAGE else _categories(place):
            side = int(numbers.integers(16, 33))
            x, y = int(numbers.integers(0, width - side + 1)), int(numbers.integers(0, height - side + 1))
            polygon = _polygon(category_id, x, y, side)
            pencil.polygon(polygon, fill=_COLORS[category_id])
            annotations.append(_annotation(1000 - 7 * len(annotations), image_id, category_id, polygon))
        image.save(images / f"{image_id:06d}.jpg", quality=90)
    _as_rle(next(entry for entry in annotations if entry["image_id"] == 11), SIZES[11])
    _as_rle(next(entry for entry in annotations if entry["image_id"] == COMPRESSED_RLE_IMAGE), SIZES[8], True)
    annotations.append(_crowd(2000, CROWD_IMAGE, 7, (8, 40, 48, 24)))
    content = {
        "images": [
            {"id": image_id, "file_name": f"{image_id:06d}.jpg", "width": width, "height": height}
            for image_id, (width, height) in SIZES.items()
        ],
        "annotations": annotations,
        "categories": [{"id": key, "name": name, "supercategory": "shape"} for key, name in CATEGORIES.items()],
    }
    made = TinyCoco(images, folder / "instances.json", content)
    made.save()
    return made


def _categories(place: int) -> list[int]:
    order = list(CATEGORIES)
    return [order[place % 2], order[2 + place % 3], order[(place + 1) % 2]][: 2 + place % 2]


def _polygon(category_id: int, x: int, y: int, side: int) -> list[tuple[float, float]]:
    if category_id == 20:
        return [(x + side / 2, y), (x + side, y + side), (x, y + side)]
    if category_id == 12:
        return [(x, y + side / 4), (x + side, y + side / 4), (x + side, y + 3 * side / 4), (x, y + 3 * side / 4)]
    if category_id == 7:
        return [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    radius = side / 2
    return [(x + radius + radius * float(np.cos(a)), y + radius + radius * float(np.sin(a))) for a in angles]


def _annotation(key: int, image_id: int, category_id: int, polygon: list[tuple[float, float]]) -> dict[str, Any]:
    points = np.array(polygon)
    (x1, y1), (x2, y2) = points.min(0), points.max(0)
    x, y = points.T
    area = abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2
    bbox = [round(float(value), 2) for value in (x1, y1, x2 - x1, y2 - y1)]
    return {
        "id": key,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "area": round(area, 2),
        "iscrowd": 0,
        "segmentation": [[round(float(value), 2) for value in points.ravel()]],
    }


def _as_rle(annotation: dict[str, Any], size: tuple[int, int], compressed: bool = False) -> None:
    """Replace the polygon of an annotation with the same shape as an RLE."""
    canvas = Image.new("L", size)
    points = annotation["segmentation"][0]
    ImageDraw.Draw(canvas).polygon(list(zip(points[::2], points[1::2], strict=True)), fill=1)
    counts = run_lengths(np.array(canvas))
    packed: Any = counts
    if compressed:
        from faster_coco_eval.core import mask as rle

        packed = rle.frPyObjects({"size": [size[1], size[0]], "counts": counts}, size[1], size[0])["counts"].decode()
    annotation["segmentation"] = {"size": [size[1], size[0]], "counts": packed}


def _crowd(key: int, image_id: int, category_id: int, bbox: tuple[int, int, int, int]) -> dict[str, Any]:
    x, y, width, height = bbox
    mask = np.zeros(SIZES[image_id][::-1], dtype=np.uint8)
    mask[y : y + height, x : x + width] = 1
    return {
        "id": key,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(bbox),
        "area": width * height,
        "iscrowd": 1,
        "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
    }


def run_lengths(mask: np.ndarray) -> list[int]:
    """Return COCO's uncompressed run lengths of a mask [H, W]: column by column, zeros first."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    return np.diff(np.concatenate([[0], changes])).tolist()

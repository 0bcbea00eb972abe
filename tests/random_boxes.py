"""Random ground truth and detections as COCO dictionaries, for tests of metrics and errors."""

from __future__ import annotations

from typing import Any

import numpy as np

SIDE = 200


def _box(rng: np.random.Generator) -> list[float]:
    x, y = rng.uniform(0, SIDE - 12, 2)
    width, height = rng.uniform(4, [SIDE - x, SIDE - y])
    return [float(x), float(y), float(width), float(height)]


def random_truth(
    rng: np.random.Generator, images: int = 12, categories: int = 5, crowds: bool = True
) -> dict[str, Any]:
    """Return a random ground truth: image 1 and the last category have no boxes, one box in six is a crowd."""
    annotations: list[dict[str, Any]] = []
    for image in range(2, images + 1):
        for _ in range(rng.integers(0, 7)):
            box = _box(rng)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(rng.integers(1, categories)),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(crowds and rng.random() < 1 / 6),
                }
            )
    ids = range(1, images + 1)
    return {
        "images": [{"id": image, "width": SIDE, "height": SIDE, "file_name": f"{image}.png"} for image in ids],
        "annotations": annotations,
        "categories": [{"id": category, "name": f"name {category}"} for category in range(1, categories + 1)],
    }


def random_detections(rng: np.random.Generator, truth: dict[str, Any], many: int = 1) -> list[dict[str, Any]]:
    """Return boxes near the true ones and random boxes, with scores in steps of 0.1, so many are equal."""
    found = []
    for annotation in truth["annotations"]:
        for _ in range(rng.integers(0, 3)):
            x, y, width, height = annotation["bbox"]
            moved = [x + rng.normal(0, 0.05) * width, y, width * rng.uniform(0.8, 1.2), height]
            found.append({"image_id": annotation["image_id"], "category_id": annotation["category_id"], "bbox": moved})
    for image in truth["images"]:
        for _ in range(rng.integers(0, 4) * many):
            category = int(rng.integers(1, len(truth["categories"]) + 1))
            found.append({"image_id": image["id"], "category_id": category, "bbox": _box(rng)})
    rng.shuffle(found)  # type: ignore[arg-type]
    return [{**entry, "score": float(rng.integers(1, 11)) / 10} for entry in found]


def random_federated_truth(rng: np.random.Generator) -> dict[str, Any]:
    truth = random_truth(rng, images=15, categories=7, crowds=False)
    for image in truth["images"]:
        present = {entry["category_id"] for entry in truth["annotations"] if entry["image_id"] == image["id"]}
        absent = [category for category in range(1, 8) if category not in present]
        image["neg_category_ids"] = [category for category in absent if rng.random() < 0.4]
        image["not_exhaustive_category_ids"] = [category for category in present if rng.random() < 0.4]
    for category in truth["categories"]:
        category["frequency"] = "rcf"[category["id"] % 3]
    return truth

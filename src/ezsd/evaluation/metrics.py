"""COCO and LVIS metrics of detections, as pure functions around the evaluator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from ezsd.utils.memory import paused_garbage_collection

COCO_DETECTIONS = 100  # per image and category, as in the COCO evaluator
LVIS_DETECTIONS = 300  # per image


@dataclass(frozen=True)
class Figures:
    """AP (mean over IoU 0.50:0.95), AP at IoU 0.50 and average recall, in 0..100; None = no ground-truth boxes."""

    ap: float | None
    ap50: float | None
    ar: float | None


@paused_garbage_collection()
def coco_metrics(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    categories: Iterable[int] | None = None,
    kind: str = "bbox",
) -> dict[int, Figures]:
    """Evaluate detections by category with the COCO evaluator; the mean over categories is the AP of COCO.

    The federated rules of LVIS apply if the images of the ground truth have ``neg_category_ids``: a category is
    evaluated only on images where it is known to be present or absent, false positives of
    ``not_exhaustive_category_ids`` are ignored, and only the 300 best detections of an image count (Gupta et al. 2019,
    section 3).

    Args:
        ground_truth: COCO dictionary (images, annotations with area and iscrowd, categories).
        detections: COCO results: image_id, category_id, bbox (x, y, width, height), score; segmentation (RLE) for segm.
            Those in other images are excluded.
        categories: Evaluated category ids; boxes and detections of other categories are excluded. None = all.
        kind: "bbox" or "segm". Objects without segmentation are then neither found nor missed, like crowds.

    Returns:
        Figures by category id.
    """
    federated = any("neg_category_ids" in image for image in ground_truth["images"])
    known = {category["id"] for category in ground_truth["categories"]}
    chosen = known if categories is None else set(categories)
    wanted = sorted(chosen)
    images = {image["id"] for image in ground_truth["images"]}
    # The evaluator would make a polygon of every box, and not use it.
    more = {"segmentation": None} if kind == "bbox" else {}
    kept = [{**entry, **more} for entry in detections if entry["category_id"] in chosen and entry["image_id"] in images]
    if not wanted or not images:
        return {category: Figures(None, None, None) for category in wanted}
    truth = COCO(
        {
            **ground_truth,
            "annotations": [  # copies, because the evaluator modifies them
                _ignored_mask(entry) if kind == "segm" and "segmentation" not in entry else dict(entry)
                for entry in ground_truth["annotations"]
            ],
            "categories": [
                {"frequency": "f", **entry} for entry in ground_truth["categories"]
            ],  # the evaluator requires the key
        }
    )
    found = truth.loadRes(_best_of_each_image(kept, LVIS_DETECTIONS) if federated else kept)
    evaluator = COCOeval_faster(truth, found, kind, lvis_style=federated)
    evaluator.params.catIds = wanted
    evaluator.params.maxDets = [LVIS_DETECTIONS if federated else COCO_DETECTIONS]
    evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0.0, 1e10]], ["all"]
    evaluator.evaluate()
    evaluator.accumulate()
    precision = evaluator.eval["precision"][:, :, :, 0, 0]  # [IoU, recall, category]
    recall = evaluator.eval["recall"][:, :, 0, 0]  # [IoU, category]
    return {
        category: Figures(_percent(precision[:, :, k]), _percent(precision[0, :, k]), _percent(recall[:, k]))
        for k, category in enumerate(wanted)
    }


def only_images_with(ground_truth: Mapping[str, Any], categories: Iterable[int]) -> dict[str, Any]:
    """Return the ground truth with only the images that hold a box of the categories, and all boxes in them.

    Crowd boxes count, as in the annotation files of the literature (Bansal et al. 2018; Zareian et al. 2021).
    """
    chosen = set(categories)
    kept = {entry["image_id"] for entry in ground_truth["annotations"] if entry["category_id"] in chosen}
    return {
        **ground_truth,
        "images": [image for image in ground_truth["images"] if image["id"] in kept],
        "annotations": [entry for entry in ground_truth["annotations"] if entry["image_id"] in kept],
    }


def mean_figures(figures: Iterable[Figures]) -> Figures:
    """Return the mean over the categories with ground-truth boxes."""
    columns = zip(*((entry.ap, entry.ap50, entry.ar) for entry in figures if entry.ap is not None), strict=True)
    means = [float(np.mean(np.array(column, dtype=np.float64))) for column in columns]
    return Figures(*means) if means else Figures(None, None, None)


def harmonic_mean(first: float | None, second: float | None) -> float | None:
    """Return the harmonic mean of two values; None if one is None, 0 if both are 0."""
    if first is None or second is None:
        return None
    return 2 * first * second / (first + second) if first + second else 0.0


def _ignored_mask(entry: Mapping[str, Any]) -> dict[str, Any]:
    x, y, width, height = entry["bbox"]
    outline = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    return {**entry, "iscrowd": 1, "segmentation": outline}


def _percent(values: np.ndarray) -> float | None:
    return 100 * float(values.mean()) if (values > -1).all() else None


def _best_of_each_image(detections: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    by_image = defaultdict(list)
    for entry in detections:
        by_image[entry["image_id"]].append(entry)
    return [entry for entries in by_image.values() for entry in sorted(entries, key=lambda e: -e["score"])[:most]]

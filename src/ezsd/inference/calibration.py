"""Calibrate the thresholds of a model on val images, and measure what people see with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import supervision as sv

from ezsd.evaluation.confusion import absent_name_alarms, confusion_counts
from ezsd.evaluation.errors import match_detections, threshold_counts
from ezsd.evaluation.thresholds import calibrate
from ezsd.inference.view import Thresholds, shown
from ezsd.run_metrics import ShownMetrics, ShownSide

Results = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ShownObjects:
    """What people see of the detections in val images.

    Attributes:
        thresholds: Chosen on all val images.
        metrics: Measured with thresholds that were chosen on the other half of the images.
        confusion: Triples of true label, predicted label and count, with the same detections; 0 is the background.
    """

    thresholds: Thresholds
    metrics: ShownMetrics
    confusion: list[tuple[int, int, int]]


def measure_shown(
    truth: Mapping[str, Any], found: Results, names: Sequence[str], base: int, with_novel: bool = False
) -> ShownObjects:
    """Calibrate thresholds, and measure precision, recall, F1, confusions, and alarms for absent names.

    Args:
        truth: COCO dictionary of the val images with category_id = label.
        found: All detections, as COCO results with category_id = label.
        names: The base names, then the novel names.
        base: The number of base names.
        with_novel: Use the boxes of novel names for their thresholds, too.
    """
    kept = shown_of_halves(truth, found, names, base, with_novel)
    matching = match_detections(truth, kept)
    sides = {"base": range(1, base + 1), "novel": range(base + 1, len(names) + 1)}
    measured = {}
    for side, labels in sides.items():
        counts = threshold_counts(matching, labels, 0.0)
        alarms = absent_name_alarms(truth, kept, labels)
        measured[side] = ShownSide(
            precision=counts.precision, recall=counts.recall, f1=counts.f1, absent_names_seen=alarms
        )
    final = calibrated(truth, found, names, base, with_novel)
    metrics = ShownMetrics(**measured, novel_boxes_used=with_novel)
    return ShownObjects(final, metrics, confusion_counts(truth, kept))


def shown_of_halves(
    truth: Mapping[str, Any],
    found: Results,
    names: Sequence[str],
    base: int,
    with_novel: bool,
    multi_label: bool = False,
) -> list[Mapping[str, Any]]:
    """Return what is shown of each half of the images, every other one, with thresholds chosen on the other half."""
    images = [image["id"] for image in truth["images"]]
    halves = [set(images[0::2]), set(images[1::2])]
    kept: list[Mapping[str, Any]] = []
    for own, other in (halves, halves[::-1]):
        thresholds = calibrated(_part(truth, other), _of_images(found, other), names, base, with_novel)
        kept += shown_results(_of_images(found, own), names, thresholds, multi_label)
    return kept


def calibrated(
    truth: Mapping[str, Any], found: Results, names: Sequence[str], base: int, with_novel: bool
) -> Thresholds:
    """Return the thresholds by :func:`ezsd.evaluation.thresholds.calibrate`, with one name for each object.

    Args:
        truth: As in :func:`measure_shown`.
        found: As in :func:`measure_shown`.
        names: The base names, then the novel names.
        base: The number of base names.
        with_novel: Use the boxes of novel names for their thresholds, too.
    """
    seen = len(names) if with_novel else base
    visible = {**truth, "annotations": [e for e in truth["annotations"] if e["category_id"] <= seen]}
    single = shown_results(found, names, Thresholds(0.0))
    result = calibrate(match_detections(visible, single), names, base, with_novel)
    return Thresholds(result.other, result.names)


def shown_results(
    found: Results, names: Sequence[str], thresholds: Thresholds, multi_label: bool = False
) -> list[Mapping[str, Any]]:
    """Return the COCO results (category_id = label) that :func:`ezsd.inference.view.shown` keeps, image by image."""
    limits = thresholds.of(names)
    by_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in found:
        by_image[entry["image_id"]].append(entry)
    kept: list[Mapping[str, Any]] = []
    for entries in by_image.values():
        rows = np.array(shown(_detections(entries, names), limits, multi_label).data["row"], dtype=int)
        kept += [entries[row] for row in rows]
    return kept


def thresholds_json(shown: ShownObjects, images: int, second_opinion: str) -> dict[str, Any]:
    """Return the content of thresholds.json in a model folder.

    Args:
        shown: The result of :func:`measure_shown`.
        images: The number of val images.
        second_opinion: How the teacher scored the detections again; the thresholds are for these scores.
    """
    thresholds = shown.thresholds
    return {
        "other": round(thresholds.other, 4),
        "names": {name: round(value, 4) for name, value in thresholds.names.items()},
        "val_images": images,
        "novel_boxes_used": bool(shown.metrics.novel_boxes_used),
        "second_opinion": second_opinion,
    }


def _detections(entries: Results, names: Sequence[str]) -> sv.Detections:
    boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = np.array([entry["category_id"] for entry in entries], dtype=int) - 1
    return sv.Detections(
        xyxy=boxes,
        confidence=np.array([entry["score"] for entry in entries], dtype=np.float64),
        class_id=labels,
        data={"class_name": np.array(names, dtype=str)[labels], "row": np.arange(len(entries))},
    )


def _of_images(found: Results, images: set[int]) -> list[Mapping[str, Any]]:
    return [entry for entry in found if entry["image_id"] in images]


def _part(truth: Mapping[str, Any], images: set[int]) -> dict[str, Any]:
    return {
        **truth,
        "images": [image for image in truth["images"] if image["id"] in images],
        "annotations": [entry for entry in truth["annotations"] if entry["image_id"] in images],
    }

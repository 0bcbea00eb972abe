"""Which names a detector gives to objects, and how often it sees names that are absent."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import supervision as sv

_IOU = 0.5


def confusion_counts(ground_truth: Mapping[str, Any], shown: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, int]]:
    """Count pairs of a true and a predicted label; 0 is the background: a missed object, or a box on no object.

    Detections are matched by descending score, IoU of at least 0.5: first to objects of their own name, then the rest
    to any object that is left. Crowds are no objects; detections on them are not counted.

    Args:
        ground_truth: COCO dictionary with category_id = label (1-based).
        shown: COCO results, above their threshold.

    Returns:
        Triples (true label, predicted label, count), sorted.
    """
    objects, found = _by_image(ground_truth["annotations"]), _by_image(shown)
    counts: Counter[tuple[int, int]] = Counter()
    for image in ground_truth["images"]:
        counts.update(_pairs(objects[image["id"]], found[image["id"]]))
    return sorted((true, predicted, count) for (true, predicted), count in counts.items())


def _pairs(entries: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    objects = [entry for entry in entries if not entry.get("iscrowd")]
    crowds = [entry for entry in entries if entry.get("iscrowd")]
    ordered = sorted(found, key=lambda entry: -entry["score"])
    overlaps = (
        sv.box_iou_batch(_boxes(ordered), _boxes(objects)) if ordered and objects else np.zeros((len(ordered), 0))
    )
    labels = np.array([entry["category_id"] for entry in objects], dtype=int)
    free = np.ones(len(objects), dtype=bool)
    matched = np.full(len(ordered), -1)
    for same_name in (True, False):
        for row, entry in enumerate(ordered):
            fits = free & (overlaps[row] >= _IOU) & ((labels == entry["category_id"]) | (not same_name))
            if matched[row] < 0 and fits.any():
                matched[row] = int(np.argmax(np.where(fits, overlaps[row], 0)))
                free[matched[row]] = False
    pairs = [(int(label), 0) for label in labels[free]]
    for row, entry in enumerate(ordered):
        if matched[row] >= 0:
            pairs.append((int(labels[matched[row]]), entry["category_id"]))
        elif not _on_crowd(entry, crowds):
            pairs.append((0, entry["category_id"]))
    return pairs


def absent_name_alarms(
    ground_truth: Mapping[str, Any], shown: Sequence[Mapping[str, Any]], labels: Sequence[int]
) -> float | None:
    """Return the share of pairs of an image and a name that is absent in it, for which the name is detected.

    With the lists of LVIS, only names that are known to be absent count.

    Args:
        ground_truth: COCO dictionary with category_id = label (1-based).
        shown: COCO results, above their threshold.
        labels: The names that are counted.

    Returns:
        In 0..1; None if no name is absent anywhere.
    """
    objects, found = _by_image(ground_truth["annotations"]), _by_image(shown)
    pairs = alarms = 0
    for image in ground_truth["images"]:
        present = {entry["category_id"] for entry in objects[image["id"]]}
        absent = set(labels) & set(image.get("neg_category_ids", labels)) - present
        pairs += len(absent)
        alarms += len(absent & {entry["category_id"] for entry in found[image["id"]]})
    return alarms / pairs if pairs else None


def _on_crowd(entry: Mapping[str, Any], crowds: Sequence[Mapping[str, Any]]) -> bool:
    x, y, width, height = entry["bbox"]
    for crowd in crowds:
        cx, cy, cwidth, cheight = crowd["bbox"]
        common = max(0.0, min(x + width, cx + cwidth) - max(x, cx)) * max(
            0.0, min(y + height, cy + cheight) - max(y, cy)
        )
        if common >= _IOU * width * height:
            return True
    return False


def _by_image(entries: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    groups = defaultdict(list)
    for entry in entries:
        groups[entry["image_id"]].append(entry)
    return groups


def _boxes(entries: Sequence[Mapping[str, Any]]) -> np.ndarray[Any, Any]:
    boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes

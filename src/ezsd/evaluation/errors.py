"""Split what AP50 is lost to by the type of error, by the rules of TIDE (Bolya et al. 2020).

Every false detection has one type, the first that fits: ``place`` (IoU 0.1 to 0.5 with an object of its name), ``name``
(at least 0.5 with an object of another name), ``duplicate`` (at least 0.5 with an object of its name that a better
detection has found), ``background`` (less than 0.1 with every object), ``name_and_place`` (the others). An object is
``missed`` if no detection of its name has an IoU of at least 0.5 with it. The cost of a type is the AP50 that its
correction gains. Crowds and LVIS's lists of negative and not exhaustively annotated names count as in the evaluator.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ezsd.evaluation.metrics import COCO_DETECTIONS, LVIS_DETECTIONS, harmonic_mean

ERRORS = ("name", "place", "name_and_place", "duplicate", "background")
FIXES = {
    "name": "box on an object of another name (IoU of at least 0.5)",
    "place": "box beside an object of its name (IoU 0.1 to 0.5)",
    "second_box": "part of place: boxes beside an object that is found",
    "name_and_place": "box beside an object of another name",
    "duplicate": "box on an object of its name that a better one has found",
    "background": "box away from all objects (IoU below 0.1)",
    "missed": "objects that no detection finds",
}
AS_IS, ALL = "as_is", "all"
NAME, PLACE, NAME_AND_PLACE, DUPLICATE, BACKGROUND = range(len(ERRORS))
FOUND = -1  # the detection finds an object
_NOT_COUNTED = -2
_FAR, _NEAR = 0.1, 0.5
_RECALLS = np.linspace(0, 1, 101)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
ByLabel = dict[int, float | None]


@dataclass(frozen=True, eq=False)
class Matching:
    """The counted detections of a data set, matched to its objects at IoU 0.5. Objects are boxes that are not crowds.

    Attributes:
        labels: [N], the label of each detection.
        scores: [N], in 0..1.
        types: [N], FOUND, or the index of the error in ERRORS.
        objects: [N], the index of the object that is found, or that a ``name`` or ``place`` error is on; otherwise -1.
        object_labels: [K], the label of each object.
        object_found: [K], whether a detection finds the object.
    """

    labels: Ints
    scores: Floats
    types: Ints
    objects: Ints
    object_labels: Ints
    object_found: Bools


@dataclass(frozen=True)
class ThresholdCounts:
    """Counts of the detections with a score of at least a threshold.

    Attributes:
        found: The number of objects that are found.
        missed: The number of objects that are not found.
        errors: The number of false detections by error type.
    """

    found: int
    missed: int
    errors: dict[str, int]

    @property
    def false(self) -> int:
        """The number of false detections."""
        return sum(self.errors.values())

    @property
    def precision(self) -> float | None:
        """The share of detections that find an object, in 0..1; None without detections."""
        return self.found / (self.found + self.false) if self.found + self.false else None

    @property
    def recall(self) -> float | None:
        """The share of objects that are found, in 0..1; None without objects."""
        return self.found / (self.found + self.missed) if self.found + self.missed else None

    @property
    def f1(self) -> float | None:
        """The harmonic mean of precision and recall."""
        return harmonic_mean(self.precision, self.recall)


def match_detections(ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> Matching:
    """Match detections to objects like the COCO evaluator at IoU 0.5, and give every false detection its error type.

    Args:
        ground_truth: COCO dictionary, as in :func:`ezsd.evaluation.metrics.coco_metrics`.
        detections: COCO results: image_id, category_id, bbox (x, y, width, height), score.
    """
    federated = any("neg_category_ids" in image for image in ground_truth["images"])
    boxes_of, found_in = _by_image(ground_truth["annotations"]), _by_image(detections)
    nothing = _labels([])
    parts = [(nothing, _array([], "score"), nothing, nothing)]
    labels, found, first = [nothing], [np.zeros(0, np.bool_)], 0
    for image in sorted(ground_truth["images"], key=lambda entry: entry["id"]):
        objects, ordered = boxes_of[image["id"]], found_in[image["id"]]
        ordered.sort(key=lambda entry: -entry["score"])
        real = [entry for entry in objects if not entry.get("iscrowd")]
        crowds = [entry for entry in objects if entry.get("iscrowd")]
        kept = ordered[:LVIS_DETECTIONS] if federated else _best_of_each_name(ordered)
        types, places, met = _match(kept, real, crowds)
        if federated:
            types[~_counted(image, _labels(kept), types, _labels(objects))] = _NOT_COUNTED
        parts.append((_labels(kept), _array(kept, "score"), types, np.where(places < 0, -1, places + first)))
        labels.append(_labels(real))
        found.append(met)
        first += len(real)
    own, scores, types, places = (np.concatenate(column) for column in zip(*parts, strict=True))
    counted = types != _NOT_COUNTED
    return Matching(
        own[counted], scores[counted], types[counted], places[counted], np.concatenate(labels), np.concatenate(found)
    )


def ap50_by_fix(matching: Matching) -> dict[str, ByLabel]:
    """Return AP50 (0..100) by label as it is, after the fix of each type alone, and after all fixes.

    A name or place error becomes correct if its object is not found yet and no better such error is on it; the other
    errors are removed. Missed objects are taken out of the count. Labels without objects are None.
    """
    sets = {AS_IS: (), **{fix: (fix,) for fix in FIXES}, ALL: tuple(FIXES)}
    return {name: ap50_after(matching, fixes) for name, fixes in sets.items()}


def ap50_after(matching: Matching, fixes: Collection[str]) -> ByLabel:
    """Return AP50 (0..100) by label after some of FIXES; see :func:`ap50_by_fix`."""
    labels, hits, found = matching.labels.copy(), matching.types == FOUND, matching.object_found.copy()
    dropped = np.isin(matching.types, [place for place, error in enumerate(ERRORS) if error in fixes])
    if "second_box" in fixes:
        dropped |= _second_boxes(matching)
    on_free = dropped & np.isin(matching.types, (NAME, PLACE)) & ~_on_found(matching)
    rows = on_free.nonzero()[0]
    rows = rows[np.argsort(-matching.scores[rows], kind="stable")]
    objects, first = np.unique(matching.objects[rows], return_index=True)
    best = rows[first]
    labels[best], hits[best], dropped[best], found[objects] = matching.object_labels[objects], True, False, True
    counted = found if "missed" in fixes else np.ones_like(found)
    kept = ~dropped
    return _ap50(
        labels[kept], matching.scores[kept], hits[kept], matching.object_labels, matching.object_labels[counted]
    )


def threshold_counts(matching: Matching, labels: Iterable[int], threshold: float) -> ThresholdCounts:
    """Count found and missed objects and false detections of some labels, with scores of at least ``threshold``."""
    wanted = list(labels)
    chosen = np.isin(matching.labels, wanted) & (matching.scores >= threshold)
    found = int((chosen & (matching.types == FOUND)).sum())
    errors = {error: int((chosen & (matching.types == place)).sum()) for place, error in enumerate(ERRORS)}
    return ThresholdCounts(found, int(np.isin(matching.object_labels, wanted).sum()) - found, errors)


def mean_of_labels(values: ByLabel, labels: Iterable[int]) -> float | None:
    """Return the mean over the labels with a value; None without one."""
    known = [value for label in labels if (value := values.get(label)) is not None]
    return float(np.mean(known)) if known else None


def _match(
    detections: Sequence[Mapping[str, Any]], objects: Sequence[Mapping[str, Any]], crowds: Sequence[Mapping[str, Any]]
) -> tuple[Ints, Ints, Bools]:
    """Return the type [N] and the object [N] of each detection (best first), and whether each object [K] is found."""
    labels, object_labels = _labels(detections), _labels(objects)
    overlaps, is_own = _overlaps(_boxes(detections), _boxes(objects)), labels[:, None] == object_labels[None]
    own, other = np.where(is_own, overlaps, 0.0), np.where(is_own, 0.0, overlaps)
    free, matched = np.ones(len(objects), bool), np.full(len(labels), -1)
    for row in (own >= _NEAR).any(axis=1).nonzero()[0]:
        fits = np.where(free, own[row], 0.0)
        last_best = len(fits) - 1 - int(fits[::-1].argmax())  # of equal overlaps, the evaluator takes the last
        if fits[last_best] >= _NEAR:
            matched[row], free[last_best] = last_best, False
    most_own, most_other = own.max(axis=1, initial=0.0), other.max(axis=1, initial=0.0)
    conditions = [
        matched >= 0,
        _on_crowd(detections, crowds),
        (most_own >= _FAR) & (most_own < _NEAR),
        most_other >= _NEAR,
        most_own >= _NEAR,
        most_other < _FAR,
    ]
    types = np.select(conditions, [FOUND, _NOT_COUNTED, PLACE, NAME, DUPLICATE, BACKGROUND], NAME_AND_PLACE)
    if len(objects):
        for error, near in ((PLACE, own), (NAME, other)):
            matched = np.where(types == error, near.argmax(axis=1), matched)
    return types.astype(np.int64), matched.astype(np.int64), ~free


def _counted(image: Mapping[str, Any], labels: Ints, types: Ints, present: Ints) -> Bools:
    """Return which detections count by the rules of LVIS."""
    known = np.isin(labels, [*present, *image.get("neg_category_ids", ())])
    open_ended = np.isin(labels, image.get("not_exhaustive_category_ids", ()))
    return known & ((types == FOUND) | ~open_ended)


def _on_crowd(detections: Sequence[Mapping[str, Any]], crowds: Sequence[Mapping[str, Any]]) -> Bools:
    inside = _overlaps(_boxes(detections), _boxes(crowds), of_first=True) >= _NEAR
    result: Bools = (inside & (_labels(detections)[:, None] == _labels(crowds)[None])).any(axis=1)
    return result


def _on_found(matching: Matching) -> Bools:
    result: Bools = (matching.objects >= 0) & np.append(matching.object_found, False)[matching.objects]
    return result


def _second_boxes(matching: Matching) -> Bools:
    return (matching.types == PLACE) & _on_found(matching)


def _ap50(labels: Ints, scores: Floats, hits: Bools, objects: Ints, counted: Ints) -> ByLabel:
    """Return AP by label. ``objects`` are the labels of all objects, ``counted`` of those that count.

    A label whose objects all do not count has AP 100 without detections, else 0.
    """
    order = np.lexsort((-scores, labels))
    labels, hits = labels[order], hits[order]
    values: ByLabel = {}
    for label in np.unique(objects).tolist():
        own = hits[np.searchsorted(labels, label) : np.searchsorted(labels, label, side="right")]
        count = int((counted == label).sum())
        values[label] = 100 * _average_precision(own, count) if count else 0.0 if len(own) else 100.0
    return values


def _average_precision(hits: Bools, count: int) -> float:
    found = hits.cumsum()
    precision = np.maximum.accumulate((found / np.arange(1, len(hits) + 1))[::-1])[::-1]
    reached = np.searchsorted(found / count, _RECALLS)
    return float(np.append(precision, 0.0)[reached].mean())


def _overlaps(boxes: Floats, others: Floats, of_first: bool = False) -> Floats:
    """Return the IoU [N, K] of boxes (x, y, width, height), or the share of the first box inside the other."""
    ends, other_ends = boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:]
    starts = np.maximum(boxes[:, None, :2], others[None, :, :2])
    shared = (np.minimum(ends[:, None], other_ends[None]) - starts).clip(min=0).prod(axis=2)
    areas = boxes[:, None, 2:].prod(axis=2)
    whole = areas if of_first else areas + others[None, :, 2:].prod(axis=2) - shared
    return shared / whole.clip(min=1e-12)


def _by_image(entries: Iterable[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    groups = defaultdict(list)
    for entry in entries:
        groups[entry["image_id"]].append(entry)
    return groups


def _best_of_each_name(ordered: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    counts: dict[int, int] = defaultdict(int)
    kept = []
    for entry in ordered:
        counts[entry["category_id"]] += 1
        if counts[entry["category_id"]] <= COCO_DETECTIONS:
            kept.append(entry)
    return kept


def _boxes(entries: Sequence[Mapping[str, Any]]) -> Floats:
    return np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)


def _labels(entries: Sequence[Mapping[str, Any]]) -> Ints:
    return np.array([entry["category_id"] for entry in entries], dtype=np.int64)


def _array(entries: Sequence[Mapping[str, Any]], key: str) -> Floats:
    return np.array([entry[key] for entry in entries], dtype=np.float64)

"""What people see of the detections: those above the threshold, and one name for each object. Does not need torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import supervision as sv

from ezsd.detector.model_config import THRESHOLDS
from ezsd.errors import ArtifactError, RecipeError
from ezsd.utils.files import read_json_if_exists

DEFAULT_THRESHOLD = 0.3  # of models without calibrated thresholds
OTHER_NAMES = "other_names"  # key in the data of sv.Detections
_SAME_OBJECT = 0.5  # boxes with this IoU are one object
_PART = 0.8  # a box with this share of its area in a better box of its name is a part of that object

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Thresholds:
    """The least scores of detections that are shown.

    Attributes:
        other: For names that are not in ``names``.
        names: By name.
    """

    other: float = DEFAULT_THRESHOLD
    names: Mapping[str, float] = field(default_factory=dict)

    def of(self, vocabulary: Sequence[str]) -> Array:
        """Return the threshold of each name of a vocabulary, [C]."""
        return np.array([self.names.get(name, self.other) for name in vocabulary], dtype=np.float64)

    def of_call(self, threshold: float | None) -> Thresholds:
        """Return the thresholds of a call: ``threshold`` for all names, or these if it is None.

        Raises:
            RecipeError: It is not a score in 0..1.
        """
        if threshold is None:
            return self
        if not 0 <= threshold <= 1:
            raise RecipeError(f"threshold {threshold}: expected a score between 0 and 1, such as 0.3.")
        return Thresholds(threshold)


def read_thresholds(folder: Path, second_opinion: str = "none") -> Thresholds | None:
    """Return the calibrated thresholds of a model folder; None if it has none for this kind of second opinion.

    Raises:
        ArtifactError: The file is damaged.
    """
    path = folder / THRESHOLDS
    content = read_json_if_exists(path)
    if not content or content.get("second_opinion", "none") != second_opinion:
        return None
    try:
        return parse_thresholds(content)
    except ValueError:
        raise ArtifactError(f"{path} is not a file of thresholds. Remove it, or evaluate the run again.") from None


def parse_thresholds(content: Any) -> Thresholds:
    """Return the thresholds in the content of a JSON file, ``{"other": 0.3, "names": {"cat": 0.4}}``.

    Raises:
        ValueError: The content is something else.
    """
    try:
        names = {str(name): float(value) for name, value in content["names"].items()}
        thresholds = Thresholds(float(content["other"]), names)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no thresholds: {error}") from None
    if not all(0 <= value <= 1 for value in (thresholds.other, *names.values())):
        raise ValueError("a threshold is not between 0 and 1")
    return thresholds


def best_score_below(found: sv.Detections, thresholds: Array) -> float | None:
    """Return the best score of the detections below their threshold; None if there are none."""
    scores = scores_of(found)
    below = scores[scores < thresholds[found.class_id]] if len(found) else scores
    return float(below.max()) if len(below) else None


def shown(found: sv.Detections, thresholds: Array, multi_label: bool = False) -> sv.Detections:
    """Return the detections for people, in descending order of score.

    Args:
        found: All detections of an image; ``class_id`` is the index in the vocabulary.
        thresholds: [C], the least score of each name of the vocabulary.
        multi_label: Keep all names of an object; otherwise see :func:`one_name`.
    """
    if not len(found):
        return found if multi_label else one_name(found)
    kept = select(found, scores_of(found) >= thresholds[found.class_id])
    kept = select(kept, np.argsort(-scores_of(kept), kind="stable"))
    return kept if multi_label else one_name(kept)


def one_name(found: sv.Detections) -> sv.Detections:
    """Keep one detection for each object.

    Of boxes with an IoU of at least 0.5, whatever their names, the best is kept. So are boxes with at least 80 % of
    their area in a better box of the same name: they show a part of the object.

    Args:
        found: Detections in descending order of score.

    Returns:
        The kept detections. ``data["other_names"]`` has, for each, a list of (name, score) of the other names of its
        object, best first.
    """
    boxes, names, scores = found.xyxy.astype(np.float64), names_of(found), scores_of(found)
    kept: list[int] = []
    others: list[list[tuple[str, float]]] = []
    for row in range(len(found)):
        overlaps, inside = iou_and_share(boxes[row], boxes[kept])
        if (overlaps >= _SAME_OBJECT).any():
            place = int(np.argmax(overlaps))
            known = {names[kept[place]], *(name for name, _ in others[place])}
            if names[row] not in known:
                others[place].append((str(names[row]), float(scores[row])))
        elif not ((inside >= _PART) & (names[row] == names[kept])).any():
            kept.append(row)
            others.append([])
    result = select(found, np.array(kept, dtype=int))
    column = np.empty(len(kept), dtype=object)
    column[:] = others
    result.data = {**result.data, OTHER_NAMES: column}
    return result


def select(found: sv.Detections, rows: Array) -> sv.Detections:
    """Return some of the detections, by index [M] or mask [N]."""
    return cast(sv.Detections, found[rows])


def names_of(detections: sv.Detections) -> Array:
    """Return the class name of each detection."""
    return np.asarray(detections.data.get("class_name", np.zeros(0, dtype=str)))


def scores_of(detections: sv.Detections) -> Array:
    """Return the score of each detection, or 1 if detections have no scores."""
    return np.ones(len(detections)) if detections.confidence is None else detections.confidence


def other_names_of(detections: sv.Detections) -> Sequence[Sequence[tuple[str, float]]]:
    """Return the other names of each object, with their scores."""
    return list(detections.data.get(OTHER_NAMES, [()] * len(detections)))


def iou_and_share(box: Array, boxes: Array) -> tuple[Array, Array]:
    """Return the IoU of a box [4] with each of ``boxes`` [N, 4], and the share of it that is inside of each, [N]."""
    starts, ends = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = (ends - starts).clip(min=0).prod(axis=1)
    area, areas = (box[2:] - box[:2]).prod(), (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return common / (area + areas - common).clip(min=1e-9), common / max(area, 1e-9)

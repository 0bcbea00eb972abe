"""Choose the score above which detections are shown, from boxes of val images; precision and recall at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ezsd.evaluation.errors import FOUND, Floats, Matching

ENOUGH_BOXES = 20  # a name with fewer val boxes gets the threshold of its side
_DEFAULT = 0.3
_STEPS = 10_000  # thresholds are multiples of 1 / _STEPS


@dataclass(frozen=True)
class Calibration:
    """Thresholds chosen on val images.

    Attributes:
        other: For all names that the model does not know.
        names: By name.
    """

    other: float
    names: Mapping[str, float] = field(default_factory=dict)


def calibrate(matching: Matching, names: Sequence[str], base: int, with_novel: bool) -> Calibration:
    """Choose thresholds by the F1 of base names.

    A base name with enough boxes gets the threshold with its best F1; the others get the threshold with the best mean
    F1 of all base names. Novel names have no boxes that may be looked at; they, and names that the model does not know,
    get the mean of the thresholds of base names.

    Args:
        matching: The detections of the val images, matched to their objects, with one name for each object. With
            ``with_novel`` false, novel objects play no role.
        names: The names by label - 1.
        base: The number of base names; larger labels are novel.
        with_novel: Choose the thresholds of novel names by their F1, too.
    """
    of_base = _of_side(matching, range(1, base + 1), names)
    of_novel = _of_side(matching, range(base + 1, len(names) + 1), names) if with_novel else {}
    if not of_base and not of_novel:
        return Calibration(_DEFAULT)
    other = float(np.mean(list(of_base.values() or of_novel.values())))
    return Calibration(other, dict.fromkeys(names, other) | of_base | of_novel)


def _of_side(matching: Matching, labels: Sequence[int], names: Sequence[str]) -> dict[str, float]:
    """Return the thresholds of labels by name; none if they have no objects."""
    together = _best(matching, labels)
    if together is None:
        return {}
    own = {names[label - 1]: _best(matching, [label], ENOUGH_BOXES) for label in labels}
    return {name: together if value is None else value for name, value in own.items()}


def _best(matching: Matching, labels: Sequence[int], enough: int = 1) -> float | None:
    """Return the threshold with the best mean F1 of labels; None if none of them has ``enough`` objects."""
    curves = []
    grid = _grid(matching.scores[np.isin(matching.labels, labels)])
    for label in labels:
        objects = int((matching.object_labels == label).sum())
        if objects >= enough:
            own = matching.labels == label
            found = _count_above(matching.scores[own & (matching.types == FOUND)], grid)
            curves.append(2 * found / (_count_above(matching.scores[own], grid) + objects))
    if not curves or not len(grid):
        return None
    mean = np.mean(curves, axis=0)
    return float(grid[len(mean) - 1 - int(mean[::-1].argmax())])  # of equal values, the highest threshold


def _grid(scores: Floats) -> Floats:
    """Return the candidates for a threshold, ascending."""
    return np.unique(np.floor(scores * _STEPS) / _STEPS)


def _count_above(scores: Floats, grid: Floats) -> Floats:
    return (len(scores) - np.searchsorted(np.sort(scores), grid)).astype(np.float64)

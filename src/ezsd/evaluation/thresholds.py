"""Choose the score above which detections are shown, from boxes of val images; precision and recall at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ezsd.evaluation.errors import FOUND, NAME, Floats, Matching

ENOUGH_BOXES = 20  # a name with fewer val boxes gets the threshold of its side
_DEFAULT = 0.3
_GRID = 200


@dataclass(frozen=True)
class Calibration:
    """Thresholds chosen on val images.

    Attributes:
        base: For base names with few boxes; None if no base name has boxes.
        novel: For novel names and all names that the model does not know.
        names: For names with enough boxes.
    """

    base: float | None
    novel: float
    names: Mapping[str, float] = field(default_factory=dict)


def calibrate(matching: Matching, names: Sequence[str], base: int, with_novel: bool) -> Calibration:
    """Choose thresholds by the F1 of base names.

    A base name with enough boxes gets the threshold with its best F1; the others get the threshold with the best mean
    F1 of all base names. Novel names have no boxes that may be looked at. What is known of them is how often they are
    put on objects of base names, which is always wrong; they get the threshold at which this is as frequent as it is
    between base names at their own thresholds.

    Args:
        matching: The detections of the val images, matched to their objects, with one name for each object. With
            ``with_novel`` false, novel objects play no role.
        names: The names by label - 1.
        base: The number of base names; larger labels are novel.
        with_novel: Choose the thresholds of novel names by their F1, too.
    """
    on_base, on_novel = list(range(1, base + 1)), list(range(base + 1, len(names) + 1))
    by_name = {names[label - 1]: best for label in on_base if (best := _best(matching, [label], ENOUGH_BOXES))}
    of_base = _best(matching, on_base)
    novel = of_base if of_base is not None else _DEFAULT
    if with_novel:
        by_name |= {names[label - 1]: best for label in on_novel if (best := _best(matching, [label], ENOUGH_BOXES))}
        novel = _best(matching, on_novel) or novel
    elif on_novel and of_base is not None:
        own = {label: by_name.get(names[label - 1], of_base) for label in on_base}
        novel = _as_often_wrong(matching, own, on_novel)
    if of_base is not None:
        by_name = {names[label - 1]: of_base for label in on_base} | by_name
    return Calibration(of_base, novel, by_name)


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


def _as_often_wrong(matching: Matching, own: Mapping[int, float], novel: Sequence[int]) -> float:
    """Return the threshold at which novel names are put on base objects as often as base names are."""
    on_base = np.isin(matching.object_labels, list(own))
    wrong = (matching.types == NAME) & np.append(on_base, False)[matching.objects]
    rates = []
    for label, threshold in own.items():
        others = int((on_base & (matching.object_labels != label)).sum())
        if others:
            rates.append(float((wrong & (matching.labels == label) & (matching.scores >= threshold)).sum()) / others)
    grid = _grid(matching.scores[np.isin(matching.labels, novel)])
    if not rates or not len(grid):
        return float(np.mean(list(own.values())))
    wrong_scores = matching.scores[wrong & np.isin(matching.labels, novel)]
    novel_rate = _count_above(wrong_scores, grid) / (len(novel) * max(int(on_base.sum()), 1))
    allowed = grid[novel_rate <= np.mean(rates)]
    return float(allowed[0]) if len(allowed) else float(grid[-1])


def _grid(scores: Floats) -> Floats:
    """Return candidates for a threshold, ascending: scores at equal steps of rank."""
    if not len(scores):
        return np.zeros(0)
    ordered = np.sort(scores)
    places = np.linspace(0, len(ordered) - 1, min(_GRID, len(ordered))).astype(int)
    return np.unique(np.floor(ordered[places] * 1e4) / 1e4)


def _count_above(scores: Floats, grid: Floats) -> Floats:
    return (len(scores) - np.searchsorted(np.sort(scores), grid)).astype(np.float64)

"""Choose the score above which detections are shown, from boxes of val images; precision and recall at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ezsd.evaluation.errors import FOUND, NAME, Floats, Matching

ENOUGH_BOXES = 20  # a name with fewer val boxes gets the threshold of its side
_DEFAULT = 0.3
_STEPS = 10_000  # thresholds are multiples of 1 / _STEPS


@dataclass(frozen=True)
class Calibration:
    """Thresholds chosen on val images.

    Attributes:
        base: For base names with few boxes; None if no base name has boxes.
        other: For all names that the model does not know.
        names: By name.
    """

    base: float | None
    other: float
    names: Mapping[str, float] = field(default_factory=dict)


def calibrate(matching: Matching, names: Sequence[str], base: int, with_novel: bool) -> Calibration:
    """Choose thresholds by the F1 of base names.

    A base name with enough boxes gets the threshold with its best F1; the others get the threshold with the best mean
    F1 of all base names. Novel names have no boxes that may be looked at. Two things are known of them without these,
    and base names say how much of both is usual, each looked at as if it were left out:

    - Detections on base objects are certainly wrong. All novel names together get the threshold at which this is as
      rare as it is between base names at their own thresholds.
    - Detections away from base objects can be right, but at most all of them are wrong. Each novel name gets a
      threshold at which it is shown there at most as often as the median base name is away from the objects of the
      other base names, at its own threshold.

    The higher one of both is used. Names that the model does not know get the mean of the novel names, or the threshold
    of base names if it is lower: their texts were not distilled, so they are shown less often than novel names.

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
        novel = _best(matching, on_novel) or novel
        by_name |= {names[label - 1]: _best(matching, [label], ENOUGH_BOXES) or novel for label in on_novel}
    elif on_novel and of_base is not None:
        own = {label: by_name.get(names[label - 1], of_base) for label in on_base}
        blind = _without_boxes(matching, own, on_novel)
        by_name |= {names[label - 1]: value for label, value in blind.items()}
        novel = float(np.mean(list(blind.values())))
    if of_base is None:
        return Calibration(None, novel, by_name)
    by_side = {**dict.fromkeys(names[:base], of_base), **dict.fromkeys(names[base:], novel)}
    return Calibration(of_base, min(novel, of_base), by_side | by_name)


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


def _without_boxes(matching: Matching, own: Mapping[int, float], novel: Sequence[int]) -> dict[int, float]:
    """Return thresholds of novel labels by what base labels do at their ``own`` thresholds; see :func:`calibrate`."""
    on_base = np.isin(matching.object_labels, list(own))
    wrong = (matching.types == NAME) & np.append(on_base, False)[matching.objects]
    rates, shown_elsewhere = [], []
    for label, threshold in own.items():
        objects = int((matching.object_labels == label).sum())
        above = (matching.labels == label) & (matching.scores >= threshold)
        if others := int(on_base.sum()) - objects:
            rates.append(int((above & wrong).sum()) / others)
        if objects:  # an absent name says nothing about how often a name is shown
            shown_elsewhere.append(int((above & ~wrong).sum()))
    if not rates:
        return dict.fromkeys(novel, float(np.mean(list(own.values()))))
    allowed = float(np.mean(rates)) * len(novel) * int(on_base.sum())
    together = _at_most(matching.scores[wrong & np.isin(matching.labels, novel)], allowed)
    usual = max(1.0, float(np.median(shown_elsewhere)))
    return {
        label: max(together, _at_most(matching.scores[~wrong & (matching.labels == label)], usual)) for label in novel
    }


def _at_most(scores: Floats, count: float) -> float:
    """Return the least threshold that at most ``count`` scores reach."""
    ordered = np.sort(scores)[::-1]
    return 0.0 if len(ordered) <= count else float((np.floor(ordered[int(count)] * _STEPS) + 1) / _STEPS)


def _grid(scores: Floats) -> Floats:
    """Return the candidates for a threshold, ascending."""
    return np.unique(np.floor(scores * _STEPS) / _STEPS)


def _count_above(scores: Floats, grid: Floats) -> Floats:
    return (len(scores) - np.searchsorted(np.sort(scores), grid)).astype(np.float64)

"""The report's section about what AP50 is lost to."""

from __future__ import annotations

from dataclasses import dataclass

from ezsd.evaluation.errors import (
    AS_IS,
    FIXES,
    ByLabel,
    ThresholdCounts,
    ap50_by_fix,
    match_detections,
    mean_of_labels,
    threshold_counts,
)
from ezsd.report.charts import ceiling
from ezsd.report.matching import SHOWN_SCORE
from ezsd.report.results import Results


@dataclass(frozen=True)
class Gain:
    """What the fix of one type of error gains for base or novel names.

    Attributes:
        ap50: AP50 after the fix, in 0..100; None without boxes.
        gain: The difference to AP50 as it is; None without boxes.
        length: The length of the bar, in percent of the axis.
        count: The number of such errors with a score of at least SHOWN_SCORE; None if they are part of another type.
    """

    ap50: float | None
    gain: float | None
    length: float
    count: int | None


@dataclass(frozen=True)
class ErrorSplit:
    """What AP50 is lost to.

    Attributes:
        as_is: AP50 of "novel" and "base" names; None without boxes.
        counts: Counts at SHOWN_SCORE of "novel" and "base" names.
        rows: Type of error, its description, and its gains by "novel" and "base".
    """

    as_is: dict[str, float | None]
    counts: dict[str, ThresholdCounts]
    rows: tuple[tuple[str, str, dict[str, Gain]], ...]


def split_errors(results: Results, base: int) -> ErrorSplit:
    """Split the errors of a run's detections.

    Args:
        results: The detections and the ground truth.
        base: The number of base names; larger labels are novel.
    """
    matching = match_detections(results.truth, results.detections)
    labels = {"novel": range(base + 1, len(results.images.names) + 1), "base": range(1, base + 1)}
    counts = {side: threshold_counts(matching, labels[side], SHOWN_SCORE) for side in labels}
    values = ap50_by_fix(matching)
    as_is = _means(values[AS_IS], labels)
    after = {fix: _means(values[fix], labels) for fix in FIXES}
    gains = {fix: {side: _difference(means[side], as_is[side]) for side in labels} for fix, means in after.items()}
    top = ceiling(gain for sides in gains.values() for gain in sides.values() if gain is not None)
    rows = [
        (fix.replace("_", " "), text, {
            side: Gain(after[fix][side], gains[fix][side], 100 * max(gains[fix][side] or 0.0, 0.0) / top,
                       counts[side].missed if fix == "missed" else counts[side].errors.get(fix))
            for side in labels
        })
        for fix, text in FIXES.items()
    ]  # fmt: skip
    return ErrorSplit(as_is, counts, tuple(rows))


def _means(values: ByLabel, labels: dict[str, range]) -> dict[str, float | None]:
    return {side: mean_of_labels(values, own) for side, own in labels.items()}


def _difference(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other

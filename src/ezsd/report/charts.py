"""Charts as paths for inline SVG. They contain no text, which the page draws at a readable size instead."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Curve = Sequence[tuple[float, float]]

_POINTS = 100  # maximum points of a curve; more are not visible
_SHADES = 10
_ROUND = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
WIDTH, HEIGHT = 300, 100  # size of the plot area


@dataclass(frozen=True)
class Plot:
    """A plot of one quantity over training steps.

    Attributes:
        title: The title of the plot.
        top: The value at the upper edge. The lower edge is 0.
        first: The first value of this run's curve.
        last: The last value of this run's curve.
        steps: The step at the right edge. The left edge is 0.
        path: The SVG path of this run's curve, in an area of WIDTH x HEIGHT.
        baseline: The SVG path of the baseline's curve; empty without a baseline.
    """

    title: str
    top: float
    first: float
    last: float
    steps: float
    path: str
    baseline: str


@dataclass(frozen=True)
class HeatMap:
    """A square matrix of shares, drawn as squares of side 1.

    Attributes:
        size: The number of rows and columns.
        shades: Pairs (opacity in 0..1, SVG path of the squares), by increasing opacity.
    """

    size: int
    shades: tuple[tuple[float, str], ...]


def plot(title: str, curve: Curve, baseline: Curve = ()) -> Plot:
    """Draw the curves of a run and of its baseline on the same axes.

    Args:
        title: The title of the plot.
        curve: Pairs (step, value), at least one. Adjacent points of a long curve are averaged.
        baseline: The curve of the baseline; empty without a baseline.
    """
    own, other = _thinned(curve), _thinned(baseline)
    top = ceiling(value for _, value in (*own, *other))
    steps = max(step for step, _ in (*curve, *baseline))
    return Plot(title, top, own[0][1], own[-1][1], steps, _path(own, steps, top), _path(other, steps, top))


def heat_map(counts: Iterable[tuple[int, int, int]], size: int) -> HeatMap:
    """Draw a confusion matrix as shares of its rows: true names are rows, predicted names are columns.

    Args:
        counts: Triples (row, column, count). Cells that are not given are empty.
        size: The number of names.
    """
    cells = list(counts)
    totals: dict[int, int] = {}
    for row, _, count in cells:
        totals[row] = totals.get(row, 0) + count
    paths: dict[int, list[str]] = {}
    for row, column, count in cells:
        shade = max(1, round(_SHADES * count / totals[row]))
        paths.setdefault(shade, []).append(f"M{column} {row}h1v1h-1z")
    return HeatMap(size, tuple((shade / _SHADES, "".join(paths[shade])) for shade in sorted(paths)))


def ceiling(values: Iterable[float]) -> float:
    """Return the upper end of an axis: the smallest round number that is not below any value, or 1 if all are 0."""
    most = max([*values, 0.0])
    if most <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(most))
    return power * next((factor for factor in _ROUND if power * factor >= most), 10.0)


def _thinned(curve: Curve) -> list[tuple[float, float]]:
    parts = min(len(curve), _POINTS)
    edges = [place * len(curve) // parts for place in range(parts + 1)] if parts else []
    bins = [curve[start:stop] for start, stop in itertools.pairwise(edges)]
    return [(sum(step for step, _ in each) / len(each), sum(value for _, value in each) / len(each)) for each in bins]


def _path(curve: Curve, steps: float, top: float) -> str:
    points = [f"{WIDTH * step / steps:.1f} {HEIGHT * (1 - value / top):.1f}" for step, value in curve]
    return f"M{'L'.join(points)}" if points else ""

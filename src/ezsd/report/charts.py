"""Numbers as drawings: paths for inline SVG. Text stays out of them, so that it is legible on any screen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Curve = Sequence[tuple[float, float]]

_POINTS = 100  # of a curve; more would not be seen
_SHADES = 10
_ROUND = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
WIDTH, HEIGHT = 300, 100  # the field that curves are drawn in


@dataclass(frozen=True)
class Plot:
    """Curves over training steps, one field.

    Attributes:
        title: what is drawn.
        top: value at the upper edge; the lower edge is 0.
        first: value at the beginning of this run's curve.
        last: value at the end of this run's curve.
        steps: at the right edge; the left edge is 0.
        path: SVG path of this run in a field of WIDTH x HEIGHT.
        baseline: path of the baseline; empty without one.
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
    """A table of shares as squares of one unit each.

    Attributes:
        size: names in a row and column.
        shades: (opacity 0..1, SVG path of the squares), light ones first.
    """

    size: int
    shades: tuple[tuple[float, str], ...]


def plot(title: str, curve: Curve, baseline: Curve = ()) -> Plot:
    """Draw a curve, and that of the baseline, over the same steps.

    Args:
        title: what is drawn.
        curve: (step, value), at least one; long ones become means of neighbours.
        baseline: the same of another run; may be empty.
    """
    own, other = _thinned(curve), _thinned(baseline)
    top = ceiling(value for _, value in (*own, *other))
    steps = max(step for step, _ in (*curve, *baseline))
    return Plot(title, top, own[0][1], own[-1][1], steps, _path(own, steps, top), _path(other, steps, top))


def heat_map(counts: Iterable[tuple[int, int, int]], size: int) -> HeatMap:
    """Draw how often each name (row) was told as each name (column), as shares of its row.

    Args:
        counts: (row, column, count); cells that are not given are empty.
        size: number of names.
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
    """Return the end of an axis from 0: the next round number that is not below any value; 1 where all are 0."""
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

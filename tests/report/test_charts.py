from __future__ import annotations

import pytest

from ezsd.report.charts import HEIGHT, WIDTH, ceiling, heat_map, plot


def _points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (point.split() for point in path.removeprefix("M").split("L"))]


def test_curve_starts_at_its_first_step_and_ends_at_the_right_edge() -> None:
    drawn = plot("loss", [(10, 4.0), (20, 1.0)])
    assert _points(drawn.path) == [(WIDTH / 2, 0.0), (WIDTH, 0.75 * HEIGHT)]
    assert (drawn.top, drawn.first, drawn.last, drawn.steps, drawn.baseline) == (4.0, 4.0, 1.0, 20, "")


def test_longer_baseline_shares_both_axes() -> None:
    drawn = plot("loss", [(10, 1.0)], [(10, 2.0), (40, 2.0)])
    assert _points(drawn.path) == [(WIDTH / 4, HEIGHT / 2)]
    assert _points(drawn.baseline)[-1] == (WIDTH, 0.0)


def test_long_curves_are_averaged() -> None:
    drawn = plot("loss", [(step, step % 2) for step in range(1, 4001)])
    points = _points(drawn.path)
    assert 50 < len(points) < 200
    assert (drawn.top, drawn.last) == (0.5, 0.5)
    assert {y for _, y in points} == {0.0}


@pytest.mark.parametrize(("most", "top"), [(0, 1), (0.11, 0.15), (27.7, 30), (30, 30), (99, 100), (1.01, 1.5)])
def test_ceiling_is_the_next_round_number(most: float, top: float) -> None:
    assert ceiling([most, 0.0]) == pytest.approx(top)


def test_heat_map_shades_are_shares_of_the_row() -> None:
    drawn = heat_map([(0, 0, 50), (0, 2, 50), (1, 1, 3)], 3)
    assert drawn.shades == ((0.5, "M0 0h1v1h-1zM2 0h1v1h-1z"), (1.0, "M1 1h1v1h-1z"))

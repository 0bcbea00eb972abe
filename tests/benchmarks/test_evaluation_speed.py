"""The benchmark of the evaluation: ezsd and pycocotools find the same figures in generated detections."""

from __future__ import annotations

import evaluation_speed


def test_both_evaluations_find_the_same_figures() -> None:
    rows = evaluation_speed.benchmark(images=60, detections=20, rounds=1)
    assert len(rows) == 3
    assert len({(row["AP"], row["AP50"], row["recall"]) for row in rows}) == 1
    assert 0 < float(rows[0]["AP"]) < float(rows[0]["AP50"]) < 100

"""What the benchmark of exported models calls the same detections."""

from __future__ import annotations

import numpy as np
import supervision as sv

from onnx_speed import difference, parity


def _found(scores: list[float], labels: list[int], shift: float = 0.0) -> sv.Detections:
    corner = np.arange(len(scores), dtype=np.float32)[:, None] * 20 + shift
    boxes = np.hstack([corner, corner, corner + 10, corner + 10])
    return sv.Detections(boxes, confidence=np.array(scores), class_id=np.array(labels))


def test_small_differences_are_reported() -> None:
    found = difference(_found([0.9005, 0.5], [1, 2], shift=0.25), _found([0.9, 0.5], [1, 2]))
    assert found is not None and np.allclose(found, (0.25, 0.0005))
    assert parity([_found([0.9], [1])] * 2, [_found([0.9], [1]), _found([0.9], [2])]) == "1 of 2 | 0.000 | 0.000000"


def test_the_order_counts_except_of_equal_scores() -> None:
    for scores, same in ([0.5, 0.5 - 1e-7], True), ([0.5, 0.4999], False):
        expected = _found(scores, [1, 2])
        assert (difference(expected[[1, 0]], expected) is not None) == same


def test_other_names_boxes_scores_and_numbers_are_not_the_same() -> None:
    expected = _found([0.9, 0.5], [1, 2])
    for other in (
        _found([0.9, 0.5], [1, 3]),
        _found([0.9, 0.5], [1, 2], shift=0.6),
        _found([0.9, 0.502], [1, 2]),
        _found([0.9], [1]),
        expected[[0, 0]],
    ):
        assert difference(other, expected) is None

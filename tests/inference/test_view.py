"""What people see: thresholds, one name for each object, no parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import supervision as sv
from hypothesis import given
from hypothesis import strategies as st

from ezsd.errors import RecipeError
from ezsd.inference.view import Thresholds, best_score_below, one_name, other_names_of, shown

NAMES = ("fish", "shark", "ray")


def _found(*rows: tuple[str, float, list[float]]) -> sv.Detections:
    return sv.Detections(
        xyxy=np.array([box for _, _, box in rows], np.float32).reshape(-1, 4),
        confidence=np.array([score for _, score, _ in rows], np.float32),
        class_id=np.array([NAMES.index(name) for name, _, _ in rows], int),
        data={"class_name": np.array([name for name, _, _ in rows], dtype=str)},
    )


def test_an_object_keeps_its_best_name_and_the_others_are_kept_in_the_data() -> None:
    found = _found(
        ("shark", 0.9, [0, 0, 100, 100]), ("fish", 0.6, [5, 0, 100, 100]), ("ray", 0.5, [0, 5, 100, 100]),
        ("fish", 0.4, [0, 0, 95, 100]), ("ray", 0.3, [200, 0, 300, 100]),
    )  # fmt: skip
    kept = one_name(found)
    assert list(kept["class_name"]) == ["shark", "ray"]
    assert [[name for name, _ in others] for others in other_names_of(kept)] == [["fish", "ray"], []]


def test_parts_of_an_object_are_dropped_but_objects_inside_others_are_kept() -> None:
    found = _found(
        ("shark", 0.9, [0, 0, 100, 100]),
        ("shark", 0.8, [10, 10, 40, 40]),  # its head
        ("fish", 0.7, [50, 50, 70, 70]),  # swims in front of it
    )
    assert list(one_name(found)["class_name"]) == ["shark", "fish"]


def test_a_worse_box_around_several_objects_does_not_remove_them() -> None:
    found = _found(("fish", 0.9, [0, 0, 20, 20]), ("fish", 0.8, [50, 0, 70, 20]), ("fish", 0.4, [0, 0, 70, 20]))
    assert len(one_name(found)) == 3


def test_each_name_has_its_threshold() -> None:
    found = _found(("fish", 0.5, [0, 0, 10, 10]), ("shark", 0.5, [50, 0, 60, 10]), ("ray", 0.05, [80, 0, 90, 10]))
    limits = Thresholds(0.1, {"fish": 0.6, "shark": 0.4}).of(NAMES)
    kept = shown(found, limits)
    assert list(kept["class_name"]) == ["shark"]
    assert best_score_below(found, limits) == pytest.approx(0.5)
    assert best_score_below(kept, limits) is None
    assert len(shown(found, Thresholds(0.0).of(NAMES), multi_label=True)) == 3


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_wrong_thresholds_are_errors(wrong: float) -> None:
    with pytest.raises(RecipeError, match="between 0 and 1"):
        Thresholds().of_call(wrong)


_BOX = st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(1, 40)] * 2).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)
_ROW = st.tuples(st.sampled_from(NAMES), st.floats(0.01, 1), _BOX)


@given(st.lists(_ROW, max_size=12))
def test_kept_detections_are_the_best_and_kept_again(rows: list[Any]) -> None:
    found = shown(_found(*rows), np.zeros(3), multi_label=True)
    kept = one_name(found)
    assert len(one_name(kept)) == len(kept)
    if len(found):
        assert kept.confidence is not None and found.confidence is not None
        assert kept.confidence[0] == found.confidence[0]
        overlaps = sv.box_iou_batch(kept.xyxy, kept.xyxy)
        assert (overlaps[~np.eye(len(kept), dtype=bool)] < 0.5 + 1e-6).all()

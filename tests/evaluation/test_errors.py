"""The split of errors: one type for each false detection, hand-made cases of each type, and what the fixes gain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ezsd.evaluation.errors import (
    ALL,
    AS_IS,
    ERRORS,
    FIXES,
    FOUND,
    Matching,
    ThresholdCounts,
    ap50_after,
    ap50_by_fix,
    match_detections,
    mean_of_labels,
    threshold_counts,
)
from ezsd.evaluation.metrics import coco_metrics
from random_boxes import random_detections, random_federated_truth, random_truth

CAT, DOG = 1, 2
BOX, FAR_BOX = [10, 10, 40, 40], [120, 120, 40, 40]
LOOSE = [10, 10, 40, 100]  # IoU 0.4 with BOX
CLOSE = [10, 10, 40, 50]  # IoU 0.8 with BOX


def _truth(*objects: tuple[int, list[int]], crowds: tuple[tuple[int, list[int]], ...] = ()) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "width": 200, "height": 200}],
        "annotations": [
            {"id": place, "image_id": 1, "category_id": label, "bbox": box, "area": box[2] * box[3],
             "iscrowd": int(place > len(objects))}
            for place, (label, box) in enumerate((*objects, *crowds), start=1)
        ],
        "categories": [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}],
    }  # fmt: skip


def _found(*entries: tuple[int, list[int], float]) -> list[dict[str, Any]]:
    return [{"image_id": 1, "category_id": label, "bbox": box, "score": score} for label, box, score in entries]


def _types(matching: Matching) -> list[str]:
    return ["found" if kind == FOUND else ERRORS[kind] for kind in matching.types.tolist()]


@pytest.mark.parametrize(
    ("objects", "detection", "expected"),
    [
        ([(CAT, BOX)], (CAT, CLOSE), "found"),
        ([(DOG, BOX)], (CAT, CLOSE), "name"),
        ([(CAT, BOX)], (CAT, LOOSE), "place"),
        ([(CAT, BOX), (DOG, LOOSE)], (CAT, LOOSE), "place"),  # a badly placed cat, although it is exactly on a dog
        ([(DOG, BOX)], (CAT, LOOSE), "name_and_place"),
        ([(CAT, BOX)], (CAT, FAR_BOX), "background"),
        ([(CAT, BOX)], (CAT, [10, 10, 200, 120]), "background"),  # IoU 0.07
        ([], (CAT, BOX), "background"),
    ],
)
def test_type_of_a_detection(
    objects: list[tuple[int, list[int]]], detection: tuple[int, list[int]], expected: str
) -> None:
    assert _types(match_detections(_truth(*objects), _found((*detection, 0.5)))) == [expected]


def test_second_detection_of_an_object_is_a_duplicate() -> None:
    matching = match_detections(_truth((CAT, BOX)), _found((CAT, BOX, 0.5), (CAT, CLOSE, 0.9)))
    assert (_types(matching), matching.scores.tolist()) == (["found", "duplicate"], [0.9, 0.5])


def test_of_equally_near_objects_the_last_is_found_as_in_the_evaluator() -> None:
    truth = _truth((CAT, [10, 10, 40, 40]), (CAT, [20, 10, 40, 40]))
    matching = match_detections(truth, _found((CAT, [15, 10, 40, 40], 0.9), (CAT, [0, 10, 40, 40], 0.8)))
    assert _types(matching) == ["found", "found"]


def test_detections_on_a_crowd_of_their_name_do_not_count() -> None:
    truth = _truth((CAT, FAR_BOX), crowds=((CAT, BOX),))
    inside = [12, 12, 10, 10]
    matching = match_detections(truth, _found((CAT, inside, 0.9), (DOG, inside, 0.8)))
    assert (_types(matching), matching.labels.tolist()) == (["background"], [DOG])
    assert matching.object_labels.tolist() == [CAT]  # the crowd is no object


def test_fix_of_a_name_gives_the_object_its_name_once() -> None:
    truth = _truth((CAT, BOX), (DOG, FAR_BOX))
    wrong = [(DOG, BOX, 0.9), (DOG, CLOSE, 0.8)]
    found = [(DOG, FAR_BOX, 0.7), (CAT, [160, 10, 30, 30], 0.85)]
    fixes = ap50_by_fix(match_detections(truth, _found(*wrong, *found)))
    assert fixes[AS_IS] == pytest.approx({CAT: 0.0, DOG: 100 / 3})
    assert fixes["name"] == pytest.approx({CAT: 100.0, DOG: 100.0})
    already = ap50_by_fix(match_detections(truth, _found(*wrong, *found, (CAT, BOX, 0.1))))
    assert already["name"] == pytest.approx({CAT: 50.0, DOG: 100.0})  # the object is found, so both are removed


def test_place_errors_on_found_objects_are_second_boxes() -> None:
    objects = _truth((CAT, BOX), (CAT, FAR_BOX))
    beside_found = [(CAT, LOOSE, 0.9), (CAT, BOX, 0.8), (CAT, FAR_BOX, 0.7)]
    fixes = ap50_by_fix(match_detections(objects, _found(*beside_found)))
    assert fixes[AS_IS][CAT] == pytest.approx(200 / 3)
    assert fixes["place"][CAT] == fixes["second_box"][CAT] == pytest.approx(100.0)
    only_loose = ap50_by_fix(match_detections(objects, _found((CAT, LOOSE, 0.9), (CAT, FAR_BOX, 0.7))))
    assert only_loose["second_box"] == only_loose[AS_IS]
    assert only_loose["place"][CAT] == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("fix", "extra"),
    [("duplicate", (CAT, CLOSE)), ("background", (CAT, [60, 140, 20, 20])), ("name_and_place", (DOG, LOOSE))],
)
def test_other_errors_are_removed(fix: str, extra: tuple[int, list[int]]) -> None:
    truth = _truth((CAT, BOX), (CAT, FAR_BOX), (DOG, [160, 10, 30, 30]))
    good = [(CAT, BOX, 0.9), (CAT, FAR_BOX, 0.3), (DOG, [160, 10, 30, 30], 0.3)]
    fixes = ap50_by_fix(match_detections(truth, _found(*good, (*extra, 0.6))))
    label = extra[0]
    assert fixes[AS_IS][label] is not None and fixes[AS_IS][label] < 99
    assert fixes[fix][label] == pytest.approx(100.0)
    others = [other for other in FIXES if other != fix]
    assert all(fixes[other] == fixes[AS_IS] for other in others)


def test_missed_objects_are_taken_out_of_the_count() -> None:
    fixes = ap50_by_fix(match_detections(_truth((CAT, BOX), (CAT, FAR_BOX), (DOG, BOX)), _found((CAT, BOX, 0.9))))
    assert fixes[AS_IS] == pytest.approx({CAT: 100 * 51 / 101, DOG: 0.0})
    assert fixes["missed"] == pytest.approx({CAT: 100.0, DOG: 100.0})


def test_label_whose_objects_are_all_missed_gains_nothing_from_missed_if_it_has_false_detections() -> None:
    matching = match_detections(_truth((CAT, BOX)), _found((CAT, FAR_BOX, 0.9)))
    assert ap50_after(matching, ["missed"]) == {CAT: 0.0}
    assert ap50_after(matching, ["missed", "background"]) == {CAT: 100.0}
    corrected = match_detections(_truth((CAT, BOX)), _found((CAT, LOOSE, 0.9)))
    assert ap50_after(corrected, ["missed", "place"]) == pytest.approx({CAT: 100.0})  # no longer missed


@given(st.integers(0, 10_000))
def test_as_is_equals_the_evaluator_and_every_false_detection_has_one_type(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = random_federated_truth(rng) if seed % 3 == 0 else random_truth(rng)
    detections = random_detections(rng, truth)
    matching = match_detections(truth, detections)
    expected = {label: figures.ap50 for label, figures in coco_metrics(truth, detections).items()}
    ours = ap50_after(matching, ())
    assert {label: ours.get(label) for label in expected} == pytest.approx(expected)
    counts = threshold_counts(matching, expected, 0.0)
    assert counts.found + counts.false == len(matching.types)
    assert (counts.found, counts.missed) == (int(matching.object_found.sum()), int((~matching.object_found).sum()))
    if seed % 3:  # every detection counts, except those on crowds
        crowds = {(entry["image_id"], entry["category_id"]) for entry in truth["annotations"] if entry["iscrowd"]}
        free = [entry for entry in detections if (entry["image_id"], entry["category_id"]) not in crowds]
        assert len(free) <= len(matching.types) <= len(detections)


@given(st.integers(0, 10_000))
def test_all_fixes_give_100_and_no_fix_harms(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = random_federated_truth(rng) if seed % 3 == 0 else random_truth(rng)
    fixes = ap50_by_fix(match_detections(truth, random_detections(rng, truth)))
    assert list(fixes[ALL].values()) == pytest.approx([100.0] * len(fixes[ALL]))
    for fix in ("second_box", "name_and_place", "duplicate", "background"):
        for label, value in fixes[fix].items():
            assert value is not None and value >= (fixes[AS_IS][label] or 0) - 1e-9


@pytest.mark.parametrize("federated", [False, True])
def test_only_the_best_detections_count(federated: bool) -> None:
    rng = np.random.default_rng(0)
    truth = random_federated_truth(rng) if federated else random_truth(rng, images=4, categories=2)
    detections = random_detections(rng, truth, many=250)
    expected = {label: figures.ap50 for label, figures in coco_metrics(truth, detections).items()}
    ours = ap50_after(match_detections(truth, detections), ())
    assert {label: ours.get(label) for label in expected} == pytest.approx(expected)


def test_empty_data_set_has_no_values() -> None:
    for truth in ({"images": [], "annotations": [], "categories": []}, _truth()):
        matching = match_detections(truth, [])
        assert ap50_by_fix(matching)[ALL] == {}
        counts = threshold_counts(matching, [CAT, DOG], 0.3)
        assert (counts.precision, counts.recall, counts.f1) == (None, None, None)
    assert mean_of_labels({CAT: None}, [CAT, DOG]) is None
    assert mean_of_labels({CAT: 10.0, DOG: 30.0, 3: None, 4: 90.0}, [CAT, DOG, 3]) == 20


def test_precision_and_recall_at_a_threshold() -> None:
    truth = _truth((CAT, BOX), (CAT, FAR_BOX), (DOG, [160, 10, 30, 30]))
    found = _found((CAT, BOX, 0.9), (CAT, CLOSE, 0.3), (CAT, FAR_BOX, 0.2), (DOG, BOX, 0.8))
    matching = match_detections(truth, found)
    counts = threshold_counts(matching, [CAT], 0.3)
    assert counts == ThresholdCounts(1, 1, {**dict.fromkeys(ERRORS, 0), "duplicate": 1})
    assert (counts.precision, counts.recall, counts.f1) == (0.5, 0.5, 0.5)
    assert threshold_counts(matching, [CAT], 0.31).precision == 1.0
    assert threshold_counts(matching, [DOG], 0.0).errors["name"] == 1

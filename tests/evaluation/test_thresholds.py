"""Thresholds are chosen by F1 of base names; novel boxes are looked at only on request."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ezsd.evaluation.confusion import absent_name_alarms, confusion_counts
from ezsd.evaluation.errors import match_detections
from ezsd.evaluation.thresholds import calibrate
from ezsd.inference.calibration import measure_shown, shown_results
from ezsd.inference.view import Thresholds

NAMES = ("fish", "shark", "ray")  # ray is novel
IMAGES = 40


def _truth(boxes: list[tuple[int, int, list[float]]], crowd: tuple[int, ...] = ()) -> dict[str, Any]:
    return {
        "images": [{"id": image} for image in range(IMAGES)],
        "annotations": [
            {"id": place, "image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3],
             "iscrowd": int(place in crowd)}
            for place, (image, label, box) in enumerate(boxes)
        ],
        "categories": [{"id": label, "name": name} for label, name in enumerate(NAMES, start=1)],
    }  # fmt: skip


def _result(image: int, label: int, score: float, box: list[float]) -> dict[str, Any]:
    return {"image_id": image, "category_id": label, "bbox": box, "score": score}


HERE, THERE, FAR = [0.0, 0, 20, 20], [50.0, 0, 20, 20], [0.0, 60, 20, 20]


def _data() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Every image has a fish and a ray. Fish score above 0.6 and noise below 0.5; rays score 0.2, noise 0.1."""
    numbers = np.random.default_rng(0)
    boxes, found = [], []
    for image in range(IMAGES):
        boxes += [(image, 1, HERE), (image, 3, THERE)]
        found += [
            _result(image, 1, 0.6 + 0.3 * numbers.random(), HERE), _result(image, 1, 0.5 * numbers.random(), FAR),
            _result(image, 3, 0.2, THERE), _result(image, 3, 0.05 + 0.05 * numbers.random(), HERE),
        ]  # fmt: skip
    return _truth(boxes), found


def test_the_threshold_of_a_name_separates_its_objects_from_the_rest() -> None:
    truth, found = _data()
    chosen = calibrate(match_detections(truth, found), NAMES, 2, with_novel=False)
    assert 0.5 < chosen.names["fish"] <= 0.62
    assert chosen.names["shark"] == chosen.names["fish"]  # without boxes, it takes that of the base names together


def test_novel_boxes_change_nothing_unless_they_are_asked_for() -> None:
    truth, found = _data()
    blind = {**truth, "annotations": [entry for entry in truth["annotations"] if entry["category_id"] < 3]}
    one, other = (measure_shown(each, found, NAMES, 2).thresholds for each in (truth, blind))
    assert one == other
    asked = measure_shown(truth, found, NAMES, 2, with_novel=True)
    assert 0.1 < asked.thresholds.names["ray"] <= 0.2
    assert asked.metrics.novel_boxes_used and asked.metrics.novel.f1 == pytest.approx(1.0)


def test_names_without_boxes_get_the_mean_of_base_names() -> None:
    truth, found = _data()
    truth["annotations"] += [
        {"id": 1000 + image, "image_id": image, "category_id": 2, "bbox": FAR, "area": 400, "iscrowd": 0}
        for image in range(IMAGES)
    ]
    found += [_result(image, 2, 0.9, FAR) for image in range(IMAGES)]
    chosen = calibrate(match_detections(truth, found), NAMES, 2, with_novel=False)
    assert chosen.names["shark"] == pytest.approx(0.9) and chosen.names["fish"] < 0.7
    assert chosen.names["ray"] == chosen.other == pytest.approx((chosen.names["fish"] + chosen.names["shark"]) / 2)


def test_figures_and_confusions_are_those_of_shown_detections() -> None:
    truth, found = _data()
    measured = measure_shown(truth, found, NAMES, 2, with_novel=True)
    assert measured.metrics.base.precision == pytest.approx(1.0) and measured.metrics.base.recall == pytest.approx(
        1.0, abs=0.1
    )
    assert dict(((true, name), count) for true, name, count in measured.confusion)[3, 3] == IMAGES
    assert measured.metrics.base.absent_names_seen == 0.0


def test_confusions_count_missed_objects_false_boxes_and_wrong_names() -> None:
    truth = _truth([(0, 1, HERE), (0, 2, THERE), (1, 1, HERE), (2, 2, [0, 0, 60, 60])], crowd=(3,))
    found = [
        _result(0, 1, 0.5, HERE), _result(0, 2, 0.9, HERE),  # the fish keeps its own name, although shark is better
        _result(1, 2, 0.9, HERE), _result(1, 1, 0.8, FAR), _result(2, 2, 0.9, HERE),
    ]  # fmt: skip
    assert confusion_counts(truth, found) == [(0, 1, 1), (0, 2, 1), (1, 1, 1), (1, 2, 1), (2, 0, 1)]


def test_alarms_are_counted_where_a_name_is_absent() -> None:
    truth = _truth([(image, 1, HERE) for image in range(IMAGES)])
    found = [_result(0, 2, 0.9, HERE), _result(0, 2, 0.8, FAR), _result(1, 1, 0.9, HERE)]
    assert absent_name_alarms(truth, found, [1, 2]) == pytest.approx(1 / IMAGES)
    assert absent_name_alarms(truth, found, [1]) is None
    federated = {
        **truth,
        "images": [{**image, "neg_category_ids": [2] if image["id"] < 2 else []} for image in truth["images"]],
    }
    assert absent_name_alarms(federated, found, [1, 2]) == pytest.approx(1 / 2)


def test_shown_results_keep_their_values_and_one_name() -> None:
    found = [_result(0, 1, 0.5, HERE), _result(0, 2, 0.9, HERE), _result(1, 1, 0.1, HERE)]
    assert shown_results(found, NAMES, Thresholds(0.3)) == [found[1]]


def test_nothing_to_learn_from_gives_the_default() -> None:
    measured = measure_shown(_truth([]), [], NAMES, 2)
    assert measured.thresholds == Thresholds(0.3, {}) and measured.metrics.base.f1 is None

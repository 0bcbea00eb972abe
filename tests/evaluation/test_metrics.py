"""Metrics compared with the reference evaluators, and their edge cases."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ezsd.evaluation.metrics import Figures, coco_metrics, harmonic_mean, mean_figures
from random_boxes import SIDE, random_detections, random_federated_truth, random_truth


def _pycocotools(truth: dict[str, Any], detections: list[dict[str, Any]], kind: str = "bbox") -> dict[int, Figures]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = json.loads(json.dumps(truth))
        reference.createIndex()
        evaluator = COCOeval(reference, reference.loadRes(json.loads(json.dumps(detections))), kind)
        evaluator.evaluate()
        evaluator.accumulate()
    precision, recall = evaluator.eval["precision"][:, :, :, 0, -1], evaluator.eval["recall"][:, :, 0, -1]

    def percent(values: np.ndarray) -> float | None:
        return 100 * float(values[values > -1].mean()) if (values > -1).any() else None

    return {
        category: Figures(percent(precision[:, :, k]), percent(precision[0, :, k]), percent(recall[:, k]))
        for k, category in enumerate(evaluator.params.catIds)
    }


def _assert_same(ours: dict[int, Figures], reference: dict[int, Figures]) -> None:
    assert ours.keys() == reference.keys()
    for category, figures in reference.items():
        for name in ("ap", "ap50", "ar"):
            assert getattr(ours[category], name) == pytest.approx(getattr(figures, name), abs=1e-6), (category, name)


@settings(max_examples=15)
@given(st.integers(0, 2**31))
def test_figures_equal_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = random_truth(rng)
    detections = random_detections(rng, truth)
    if detections:
        _assert_same(coco_metrics(truth, detections), _pycocotools(truth, detections))


def test_only_the_100_best_detections_per_image_and_category_count() -> None:
    rng = np.random.default_rng(0)
    truth = random_truth(rng, images=4, categories=2)
    detections = random_detections(rng, truth, many=150)
    _assert_same(coco_metrics(truth, detections), _pycocotools(truth, detections))


def test_mask_figures_equal_pycocotools() -> None:
    from faster_coco_eval.core import mask as mask_api

    rng = np.random.default_rng(1)
    truth = random_truth(rng)
    detections = random_detections(rng, truth)
    for annotation in truth["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + width, y, x + width / 2, y + height]]
    for entry in detections:
        x, y, width, height = entry["bbox"]
        rle = mask_api.frPyObjects([[x, y, x + width, y, x + width / 2, y + height]], SIDE, SIDE)[0]
        entry["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
    ours = coco_metrics(truth, detections, kind="segm")
    _assert_same(ours, _pycocotools(truth, detections, "segm"))
    assert ours != coco_metrics(truth, detections)
    for annotation in truth["annotations"][::3]:
        annotation["iscrowd"] = 1
        x, y, width, height = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    crowds = _pycocotools(truth, detections, "segm")
    for annotation in truth["annotations"][::3]:
        annotation["iscrowd"] = 0
        del annotation["segmentation"]
    _assert_same(coco_metrics(truth, detections, kind="segm"), crowds)  # no mask: neither found nor missed


def _perfect(truth: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {key: annotation[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for annotation in truth["annotations"]
        if not annotation["iscrowd"]
    ]


def test_perfect_detections_give_100_and_no_detections_give_0() -> None:
    truth = random_truth(np.random.default_rng(2))
    perfect, nothing = coco_metrics(truth, _perfect(truth)), coco_metrics(truth, [])
    for category in range(1, 5):
        for name in ("ap", "ap50", "ar"):
            assert getattr(perfect[category], name) == pytest.approx(100)
            assert getattr(nothing[category], name) == 0


def test_category_without_boxes_is_not_measured_even_if_detected() -> None:
    truth = random_truth(np.random.default_rng(3))
    detections = [*_perfect(truth), {"image_id": 2, "category_id": 5, "bbox": [1, 1, 9, 9], "score": 0.5}]
    figures = coco_metrics(truth, detections)
    assert figures[5] == Figures(None, None, None)
    assert mean_figures(figures.values()).ap50 == pytest.approx(100)
    assert mean_figures([figures[5]]) == Figures(None, None, None)
    assert mean_figures([figures[5], Figures(0, 0, 0), Figures(30, 40, 50)]) == Figures(15, 20, 25)


def test_ground_truth_without_boxes_or_images_is_not_measured() -> None:
    empty = {**random_truth(np.random.default_rng(4)), "annotations": []}
    assert set(coco_metrics(empty, []).values()) == {Figures(None, None, None)}
    assert set(coco_metrics({**empty, "images": []}, []).values()) == {Figures(None, None, None)}
    assert coco_metrics(random_truth(np.random.default_rng(4)), [], categories=[]) == {}


def test_excluded_categories_do_not_change_figures() -> None:
    rng = np.random.default_rng(5)
    truth = random_truth(rng)
    detections = random_detections(rng, truth)
    only = {
        **truth,
        "annotations": [entry for entry in truth["annotations"] if entry["category_id"] in (3, 4)],
        "categories": [entry for entry in truth["categories"] if entry["id"] in (3, 4)],
    }
    expected = _pycocotools(only, [entry for entry in detections if entry["category_id"] in (3, 4)])
    _assert_same(coco_metrics(truth, detections, categories=[4, 3]), expected)


def test_inputs_are_not_modified() -> None:
    rng = np.random.default_rng(6)
    truth = random_truth(rng)
    detections = random_detections(rng, truth)
    before = json.dumps([truth, detections])
    coco_metrics(truth, detections)
    assert json.dumps([truth, detections]) == before


@pytest.mark.parametrize("seed", range(4))
def test_federated_figures_equal_the_lvis_package(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lvis import LVIS, LVISEval

    monkeypatch.setattr(np, "float", float, raising=False)  # lvis 0.5.3 uses np.float, which numpy removed
    rng = np.random.default_rng(seed)
    truth = random_federated_truth(rng)
    detections = random_detections(rng, truth, many=1 if seed else 250)  # seed 0: more than 300 detections per image
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps({**truth, "annotations": [{**a, "segmentation": []} for a in truth["annotations"]]}))
    reference = LVISEval(LVIS(str(path)), json.loads(json.dumps(detections)), "bbox")
    reference.run()
    figures = coco_metrics(truth, detections)
    for key, group in (("AP", "rcf"), ("APr", "r"), ("APc", "c"), ("APf", "f")):
        members = [figures[entry["id"]] for entry in truth["categories"] if entry["frequency"] in group]
        assert mean_figures(members).ap == pytest.approx(100 * reference.results[key], abs=1e-6), key
    assert mean_figures(figures.values()).ap50 == pytest.approx(100 * reference.results["AP50"], abs=1e-6)
    assert mean_figures(figures.values()).ar == pytest.approx(100 * reference.results["AR@300"], abs=1e-6)


def test_limit_of_100_detections_applies_per_category() -> None:
    rng = np.random.default_rng(7)
    truth = random_truth(rng, images=2, categories=6)
    detections = random_detections(rng, truth, many=300)
    assert len(detections) > 400
    _assert_same(coco_metrics(truth, detections), _pycocotools(truth, detections))


def test_federated_limit_of_300_detections_applies_per_image() -> None:
    truth = random_truth(np.random.default_rng(8), images=1, categories=2)
    truth["images"][0] |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    truth["annotations"] = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}]
    wrong = [{"image_id": 1, "category_id": 1, "bbox": [50, 50, 9, 9], "score": 0.9}] * 150
    right = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.1}
    assert coco_metrics(truth, [*wrong, right])[1].ar == pytest.approx(100)
    assert coco_metrics(truth, [*wrong, *wrong, right])[1].ar == 0


def test_federated_figures_do_not_require_frequencies() -> None:
    rng = np.random.default_rng(9)
    truth = random_federated_truth(rng)
    detections = random_detections(rng, truth)
    without = {**truth, "categories": [{"id": each["id"], "name": each["name"]} for each in truth["categories"]]}
    _assert_same(coco_metrics(without, detections), coco_metrics(truth, detections))


def test_boxes_smaller_than_a_pixel_count() -> None:
    truth = random_truth(np.random.default_rng(10), images=1, categories=1)
    truth["annotations"] = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [3, 3, 0.5, 0.5], "area": 0.25, "iscrowd": 0}
    ]
    assert coco_metrics(truth, _perfect(truth))[1].ap == pytest.approx(100)


def test_harmonic_mean() -> None:
    assert harmonic_mean(60.0, 20.0) == pytest.approx(30.0)
    assert harmonic_mean(40.0, 40.0) == pytest.approx(40.0)
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(0.0, 50.0) == 0.0
    assert harmonic_mean(None, 50.0) is None
    assert harmonic_mean(50.0, None) is None

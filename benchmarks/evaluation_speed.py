"""Evaluation of generated detections, against pycocotools: the same figures, and the time of each.

    python benchmarks/evaluation_speed.py [--images 5000] [--detections 100]

The images have as many objects as those of COCO val2017 (7.4 of 80 categories). A detection is an object with its box
moved, some with another name, or a random box. pycocotools evaluates twice: only what ezsd computes (AP and recall of
all areas with 100 detections), and all its twelve figures. Each starts from the same dictionary and list in memory.
Times are CPU times. pycocotools is installed with `pip install pycocotools`.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ezsd.evaluation.metrics import coco_metrics, mean_figures
from tables import Row, add_json_option, show

CATEGORIES, OBJECTS = 80, 7.4
Results = list[dict[str, Any]]


@dataclass(frozen=True)
class Measured:
    ap: float
    ap50: float
    recall: float
    seconds: float


def generated(images: int, detections: int) -> tuple[dict[str, Any], Results]:
    """Return the ground truth and detections of random images."""
    numbers = np.random.default_rng(0)
    truth: Results = []
    found: Results = []
    for image in range(1, images + 1):
        count = numbers.poisson(OBJECTS)
        boxes, labels = random_boxes(numbers, count), numbers.integers(1, CATEGORIES + 1, count)
        truth += [
            {"id": len(truth) + place + 1, "image_id": image, "category_id": int(label), "bbox": box.tolist(),
             "area": float(box[2] * box[3]), "iscrowd": int(numbers.random() < 0.01)}
            for place, (box, label) in enumerate(zip(boxes, labels, strict=True))
        ]  # fmt: skip
        found += random_detections(numbers, image, boxes, labels, detections)
    content = {
        "info": {},
        "images": [{"id": image, "width": 640, "height": 480} for image in range(1, images + 1)],
        "annotations": truth,
        "categories": [{"id": key, "name": str(key)} for key in range(1, CATEGORIES + 1)],
    }
    return content, found


def random_boxes(numbers: np.random.Generator, count: int) -> np.ndarray[Any, Any]:
    sides = numbers.uniform(8, 300, (count, 2))
    return np.round(np.hstack([numbers.uniform(0, 1, (count, 2)) * ([640, 480] - sides.clip(max=400)), sides]), 2)


def random_detections(
    numbers: np.random.Generator, image: int, boxes: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], count: int
) -> Results:
    """Return moved objects, some with another name, and random boxes."""
    near = boxes * numbers.uniform(0.85, 1.15, boxes.shape)
    named = np.where(numbers.random(len(labels)) < 0.7, labels, numbers.integers(1, CATEGORIES + 1, len(labels)))
    false = max(0, count - len(near))
    every = np.vstack([near, random_boxes(numbers, false)])
    names = np.concatenate([named, numbers.integers(1, CATEGORIES + 1, false)])
    scores = np.concatenate([numbers.beta(3, 2, len(near)), numbers.beta(1, 4, false)])
    return [
        {"image_id": image, "category_id": int(name), "bbox": box.tolist(), "score": float(score)}
        for box, name, score in zip(every, names, scores, strict=True)
    ]


def ezsd(truth: dict[str, Any], found: Results) -> Measured:
    began = time.process_time()
    mean = mean_figures(coco_metrics(truth, found).values())
    seconds = time.process_time() - began
    return Measured(mean.ap or 0.0, mean.ap50 or 0.0, mean.ar or 0.0, seconds)


def pycocotools(truth: dict[str, Any], found: Results, every_figure: bool) -> Measured:
    """Evaluate with pycocotools; without ``every_figure``, only with the area and limit that ezsd evaluates with."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = copy.deepcopy(truth), copy.deepcopy(found)  # it changes both; not timed
    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = truth
        known.createIndex()
        evaluator = COCOeval(known, known.loadRes(found), "bbox")
        if not every_figure:
            evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
            evaluator.params.maxDets = [100]
        evaluator.evaluate()
        evaluator.accumulate()
    seconds = time.process_time() - began
    precision, recall = evaluator.eval["precision"][..., 0, -1], evaluator.eval["recall"][..., 0, -1]
    return Measured(*(100 * float(part[part > -1].mean()) for part in (precision, precision[0], recall)), seconds)


def benchmark(images: int, detections: int, rounds: int) -> list[Row]:
    """Evaluate the same detections in turn; return one row for each way."""
    content = generated(images, detections)
    ways: dict[str, Callable[[], Measured]] = {
        "ezsd": lambda: ezsd(*content),
        "pycocotools, the same figures": lambda: pycocotools(*content, every_figure=False),
        "pycocotools, all figures": lambda: pycocotools(*content, every_figure=True),
    }
    runs = [{name: way() for name, way in ways.items()} for _ in range(rounds)]
    best = {name: min((run[name] for run in runs), key=lambda one: one.seconds) for name in ways}
    return [
        {"way": name, "AP": f"{one.ap:.6f}", "AP50": f"{one.ap50:.6f}", "recall": f"{one.recall:.6f}",
         "CPU seconds": one.seconds, "ratio": one.seconds / best["ezsd"].seconds}
        for name, one in best.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="of each image")
    parser.add_argument("--rounds", type=int, default=2)
    add_json_option(parser)
    given = parser.parse_args()
    print(f"{given.images:,} images, {given.detections} detections each, {CATEGORIES} categories\n")
    show(benchmark(given.images, given.detections, given.rounds), given.json)


if __name__ == "__main__":
    main()

"""Compare bf16 and exported models with PyTorch in fp32 on the val images of a run: parity, AP, speed, size.

    python benchmarks/onnx_speed.py RUN --images 50

Exports the model of the run as fp32, fp16 and int8 (calibrated on its train images) to a temporary folder, detects base
and novel names in single images with one CPU thread, alternately, and prints a table in Markdown. Parity is that of the
detections with a score of at least 0.05: the same names in the same order (of scores that differ by more than 1e-5),
boxes within 0.5 pixels and scores within 0.001.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import supervision as sv
import torch

from ezsd.data.formats.coco import load_images
from ezsd.data.formats.lvis import read_rules
from ezsd.data.samples import AnnotatedImage
from ezsd.deploy.onnx_export import OnnxOptions, Precision, export_onnx
from ezsd.evaluation.metrics import coco_metrics, mean_figures
from ezsd.inference.detector import Detector
from ezsd.inference.inputs import read_pixels
from ezsd.inference.onnx_detector import OnnxDetector
from ezsd.pipeline.evaluate import ground_truth_of
from ezsd.recipe import load_run_recipe
from ezsd.run_folder import RunFolder
from ezsd.utils.progress import track

SCORE = 0.05
TIE = 1e-5  # the order of additions changes scores in float32 by nearly as much


@dataclass
class Column:
    """One way to run the model, and what was measured of it."""

    detect: Any
    megabytes: float
    seconds: list[float] = field(default_factory=list)
    found: list[sv.Detections] = field(default_factory=list)

    def add(self, pixels: np.ndarray[Any, Any], names: tuple[str, ...]) -> None:
        began = time.perf_counter()
        self.found.append(self.detect(pixels, names, threshold=0.0, multi_label=True))
        self.seconds.append(time.perf_counter() - began)


def difference(found: sv.Detections, expected: sv.Detections) -> tuple[float, float] | None:
    """Return the largest difference of boxes (pixels) and scores, or None if names, order or boxes are not the same.

    Each detection belongs to the nearest one of its name. Scores that differ by less than TIE have no order.
    """
    if len(found) != len(expected):
        return None
    if not len(found):
        return 0.0, 0.0
    other_name = np.asarray(found.class_id)[:, None] != np.asarray(expected.class_id)
    boxes = np.abs(found.xyxy[:, None] - expected.xyxy).max(axis=2) + np.where(other_name, np.inf, 0.0)
    scores = np.abs(found.confidence[:, None] - expected.confidence)
    partner = (boxes + scores).argmin(axis=1)
    row = np.arange(len(found))
    in_order = (np.diff(expected.confidence[partner]) <= TIE).all()
    largest = float(boxes[row, partner].max()), float(scores[row, partner].max())
    same = len(set(partner)) == len(found) and in_order and largest[0] < 0.5 and largest[1] < 1e-3
    return largest if same else None


def parity(found: list[sv.Detections], expected: list[sv.Detections]) -> str:
    """Return in how many images names and order are the same, and the largest differences there."""
    pairs = zip(found, expected, strict=True)
    compared = [difference(one[one.confidence >= SCORE], other[other.confidence >= SCORE]) for one, other in pairs]
    same = [each for each in compared if each is not None]
    largest = [max(values) for values in zip(*same, strict=True)]
    return f"{len(same)} of {len(found)} | " + (
        f"{largest[0]:.3f} | {largest[1]:.6f}" if same else "not measured | not measured"
    )


def results(images: list[AnnotatedImage], found: list[sv.Detections]) -> list[dict[str, Any]]:
    """Return detections as COCO results; category_id is the label."""
    return [
        {"image_id": image.image_id, "category_id": int(label) + 1, "score": float(score),
         "bbox": [float(side) for side in (box[0], box[1], box[2] - box[0], box[3] - box[1])]}
        for image, detections in zip(images, found, strict=True)
        for box, label, score in zip(detections.xyxy, detections.class_id, detections.confidence, strict=True)
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = RunFolder(options.run)
    recipe = load_run_recipe(folder.recipe)
    model = folder.model
    detector = Detector.load(model, "cpu")
    names = detector.config.names
    loaded = load_images(recipe.data.val.model_copy(update={"limit": options.images}), names)
    pixels = [read_pixels(image.path) for image in loaded.images]
    with tempfile.TemporaryDirectory() as place:
        calibration = Path(place) / "train"
        calibration.mkdir()
        for image in load_images(recipe.data.train.model_copy(update={"limit": 100}), names).images:
            (calibration / image.path.name).symlink_to(image.path.resolve())
        size = (model / "model.safetensors").stat().st_size / 1e6
        half = Detector.load(model, "cpu", precision="bf16")
        columns = {"PyTorch": Column(detector, size), "PyTorch bf16": Column(half, size)}
        for precision in get_args(Precision):
            path = Path(place) / f"{precision}.onnx"
            export_onnx(model, path, None, OnnxOptions(False, precision, calibration))
            exported = OnnxDetector.load(path, "cpu", options.threads)
            columns[f"ONNX {precision}"] = Column(exported, path.stat().st_size / 1e6)
        with track(len(pixels), "detect") as advance:
            for image in pixels:
                for column in columns.values():
                    column.add(image, names)
                advance(1, "")
    rules = read_rules(recipe.data.val.annotations, names)
    truth, labels, base = ground_truth_of(loaded, rules), range(1, len(names) + 1), len(detector.config.base)
    first = statistics.median(columns["PyTorch"].seconds[1:])
    print("| | ms per image | x PyTorch | MB | AP50 base | AP50 novel | same names and order | box, px | score |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, column in columns.items():
        figures = coco_metrics(truth, results(loaded.images, column.found), labels, "bbox")
        sides = [mean_figures(figures[label] for label in part).ap50 for part in (labels[:base], labels[base:])]
        ap = " | ".join("not measured" if side is None else f"{side:.1f}" for side in sides)
        seconds = statistics.median(column.seconds[1:])
        same = parity(column.found, columns["PyTorch"].found)
        print(f"| {name} | {1000 * seconds:.0f} | {seconds / first:.2f} | {column.megabytes:.1f} | {ap} | {same} |")


if __name__ == "__main__":
    main()

"""Measure what people see of a run's detections: thresholds, one name an object, search by example, tiles.

    python benchmarks/shown.py thresholds runs/aquarium
    python benchmarks/shown.py examples runs/aquarium --images 60
    python benchmarks/shown.py tiles runs/aquarium --tile 512

`thresholds` reads the detections of a finished stage evaluate: precision, recall and F1 (IoU 0.5) with one threshold
of 0.3 and with the calibrated ones, each half of the val images with thresholds of the other half, with all names of
an object and with one. `examples` asks for every name by 1 and by 5 boxes of train images in place of the name, and
gives AP50 beside that of the names. `tiles` puts 4 x 4 val images into one large image, and gives AP50 with and without
tiles.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from ezsd import Detector
from ezsd.data.formats.coco import load_images
from ezsd.evaluation.confusion import absent_name_alarms
from ezsd.evaluation.errors import match_detections, threshold_counts
from ezsd.evaluation.metrics import coco_metrics, mean_figures
from ezsd.inference.calibration import shown_of_halves, shown_results
from ezsd.inference.tiling import Tiling
from ezsd.inference.view import DEFAULT_THRESHOLD, Thresholds
from ezsd.recipe import load_run_recipe
from ezsd.report.compare import read_run
from ezsd.report.results import read_results
from ezsd.run_folder import RunFolder

CELLS = 4  # images along a side of the mosaic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["thresholds", "examples", "tiles"])
    parser.add_argument("run", type=Path, help="a run folder with a finished stage evaluate")
    parser.add_argument("--images", type=int, default=128, help="val images for examples and tiles")
    parser.add_argument("--examples", type=int, nargs="+", default=[1, 5], help="numbers of example boxes of a name")
    parser.add_argument("--tile", type=int, default=512, help="side of the cells of the mosaic, and of the tiles")
    arguments = parser.parse_args()
    measure = {"thresholds": thresholds_table, "examples": examples_table, "tiles": tiles_table}[arguments.what]
    Console(width=120).print(measure(arguments))


def thresholds_table(arguments: argparse.Namespace) -> Table:
    """Return precision, recall and F1 by threshold and view."""
    run, names, base = _names(arguments.run)
    results = read_results(run, load_run_recipe(run.recipe), names)
    table = Table(title=f"{arguments.run.name}: {len(results.images)} val images, IoU 0.5")
    for column in ("threshold", "names of an object", "side", "precision", "recall", "F1", "absent names shown"):
        table.add_column(column)
    plain = Thresholds(DEFAULT_THRESHOLD)
    for title, multi in (("all", True), ("one", False)):
        for threshold, kept in (
            ("0.3", shown_results(results.detections, names, plain, multi)),
            ("calibrated", shown_of_halves(results.truth, results.detections, names, base, False, multi)),
            ("novel boxes, too", shown_of_halves(results.truth, results.detections, names, base, True, multi)),
        ):
            matching = match_detections(results.truth, kept)
            for side, labels in (("base", range(1, base + 1)), ("novel", range(base + 1, len(names) + 1))):
                counts = threshold_counts(matching, labels, 0.0)
                absent = absent_name_alarms(results.truth, kept, labels)
                figures = (counts.precision, counts.recall, counts.f1, absent)
                table.add_row(threshold, title, side, *("-" if each is None else f"{each:.3f}" for each in figures))
    return table


def examples_table(arguments: argparse.Namespace) -> Table:
    """Return AP50 of all names when they are asked for by name, and by several numbers of examples."""
    run, names, base = _names(arguments.run)
    recipe = load_run_recipe(run.recipe)
    detector = Detector.load(arguments.run)
    train = load_images(recipe.data.train, names, recipe.data.skip_bad)
    examples = example_boxes(train, max(arguments.examples))
    asked = {"name": detector.vocabulary(list(names))}
    for count in arguments.examples:
        asked[f"{count} of their boxes"] = detector.vocabulary_from_crops(
            {name: pairs[:count] for name, pairs in examples.items()}
        )
    results = read_results(run, recipe, names)
    truth = _first_images(results.truth, arguments.images)
    paths = {image.image_id: image.path for image in results.images}
    missing = ", ".join(name for name in names if name not in examples) or "none"
    table = Table(title=f"{arguments.run.name}: {len(truth['images'])} val images; names without examples: {missing}")
    for column in ("names asked for by", "AP50 novel", "AP50 base", *names[base:]):
        table.add_column(column)
    for title, vocabulary in asked.items():
        found = []
        for image in truth["images"]:
            detections = detector(paths[image["id"]], vocabulary, 0.0, multi_label=True)
            found += _results(detections, image["id"], names)
        table.add_row(title, *_ap50(truth, found, names, base))
    return table


def example_boxes(train: Any, most: int) -> dict[str, list[Any]]:
    """Return up to ``most`` pairs of an image and a box for each name, no two from one image, large boxes first."""
    by_name: dict[str, list[tuple[float, int, Any]]] = {}
    for place, image in enumerate(train):
        columns = (image.boxes.tolist(), image.labels.tolist(), image.crowd.tolist())
        for box, label, crowd in zip(*columns, strict=True):
            if not crowd:
                side = min(min(box[2] - box[0], box[3] - box[1]), 32)  # from 32 pixels on, any box is as good
                by_name.setdefault(train.names[label - 1], []).append((-side, place, [str(image.path), box]))
    chosen: dict[str, list[Any]] = {}
    for name, rows in by_name.items():
        rows.sort(key=lambda row: row[:2])
        one_an_image = {place: pair for _, place, pair in reversed(rows)}
        order = dict.fromkeys(place for _, place, _ in rows)
        chosen[name] = [one_an_image[place] for place in list(order)[:most]]
    return chosen


def tiles_table(arguments: argparse.Namespace) -> Table:
    """Return AP50 in mosaics of val images, with and without tiles."""
    run, names, base = _names(arguments.run)
    results = read_results(run, load_run_recipe(run.recipe), names)
    detector = Detector.load(arguments.run)
    mosaics, truth = make_mosaics(results.images.images[: arguments.images], arguments.tile, names)
    title = (
        f"{arguments.run.name}: {len(mosaics)} mosaics of {CELLS} x {CELLS} val images, {mosaics[0].shape[1]} pixels"
    )
    table = Table(title=title)
    for column in ("tiles", "AP50 novel", "AP50 base", *names[base:], "s per mosaic"):
        table.add_column(column)
    for name, tiling in (
        ("none", None), (f"{arguments.tile}, nms", Tiling(arguments.tile)),
        (f"{arguments.tile}, nmm", Tiling(arguments.tile, merge="nmm")),
    ):  # fmt: skip
        began, found = time.monotonic(), []
        for image_id, pixels in enumerate(mosaics):
            found += _results(detector(pixels, threshold=0.05, multi_label=True, tiling=tiling), image_id, names)
        seconds = (time.monotonic() - began) / len(mosaics)
        table.add_row(name, *_ap50(truth, found, names, base), f"{seconds:.1f}")
    return table


def make_mosaics(images: Sequence[Any], side: int, names: Sequence[str]) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Return mosaics of CELLS x CELLS images, each fitted into a cell of ``side`` pixels, and their ground truth."""
    mosaics, annotations = [], []
    for start in range(0, len(images) - CELLS * CELLS + 1, CELLS * CELLS):
        canvas = np.full((CELLS * side, CELLS * side, 3), 114, np.uint8)
        for place, image in enumerate(images[start : start + CELLS * CELLS]):
            top, left = side * (place // CELLS), side * (place % CELLS)
            scale = side / max(image.width, image.height)
            size = round(image.width * scale), round(image.height * scale)
            pixels = np.asarray(Image.open(image.path).convert("RGB").resize(size))
            canvas[top : top + size[1], left : left + size[0]] = pixels
            for box, label, crowd in zip(
                image.boxes.tolist(), image.labels.tolist(), image.crowd.tolist(), strict=True
            ):
                x1, y1, x2, y2 = (scale * value for value in box)
                bbox = [left + x1, top + y1, x2 - x1, y2 - y1]
                annotations.append({
                    "id": len(annotations) + 1, "image_id": len(mosaics), "category_id": label, "bbox": bbox,
                    "area": bbox[2] * bbox[3], "iscrowd": int(crowd),
                })  # fmt: skip
        mosaics.append(canvas)
    truth = {
        "images": [{"id": index, "width": CELLS * side, "height": CELLS * side} for index in range(len(mosaics))],
        "annotations": annotations,
        "categories": [{"id": label, "name": name} for label, name in enumerate(names, start=1)],
    }
    return mosaics, truth


def _names(folder: Path) -> tuple[RunFolder, tuple[str, ...], int]:
    inputs = read_run(folder).inputs
    return RunFolder(folder), (*inputs["split.base"], *inputs["split.novel"]), len(inputs["split.base"])


def _first_images(truth: Mapping[str, Any], count: int) -> dict[str, Any]:
    step = max(1, len(truth["images"]) // count)
    images = truth["images"][::step][:count]
    kept = {image["id"] for image in images}
    return {**truth, "images": images, "annotations": [e for e in truth["annotations"] if e["image_id"] in kept]}


def _results(detections: Any, image_id: int, names: Sequence[str]) -> list[dict[str, Any]]:
    labels = {name: label for label, name in enumerate(names, start=1)}
    return [
        {"image_id": image_id, "category_id": labels[str(name)], "score": float(score),
         "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]}
        for (x1, y1, x2, y2), score, name in zip(
            detections.xyxy, detections.confidence, detections["class_name"], strict=True)
    ]  # fmt: skip


def _ap50(truth: Mapping[str, Any], found: Sequence[Mapping[str, Any]], names: Sequence[str], base: int) -> list[str]:
    figures = coco_metrics(truth, found)
    novel = mean_figures(figures[label] for label in range(base + 1, len(names) + 1)).ap50
    of_base = mean_figures(figures[label] for label in range(1, base + 1)).ap50
    each = [figures[label].ap50 for label in range(base + 1, len(names) + 1)]
    return ["-" if value is None else f"{value:.1f}" for value in (novel, of_base, *each)]


if __name__ == "__main__":
    main()

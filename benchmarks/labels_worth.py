"""Worth in labels: how many labelled boxes per novel name an ordinary detector needs to equal ezsd, which has none.

    python benchmarks/labels_worth.py aquarium.yaml --out runs/labels_worth

For 2, 5, 10, 20 and 50 boxes per novel name, three draws each, it trains

- an ordinary detector (benchmarks/closed_set.py): the same parts, trained on the base boxes and these novel boxes, for
  as long as ezsd takes with adaptation and mining;
- ezsd with the same boxes (split.few_shot, setting few_shot).

The train annotations must have boxes of the novel names. A draw takes images in random order, and the boxes of a name
in them until the number is reached, as someone would who labels image after image. The others are removed from a copy
of the annotations. Prints a table of means and standard deviations over the draws, and the fewest boxes with which the
ordinary detector equals ezsd without boxes. Every training is a folder in OUT: running it again resumes.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from closed_set import closed_set
from ezsd.data.categories import CategorySplit, load_split
from ezsd.data.formats.coco_json import read_json_file
from ezsd.errors import DataError, EzsdError
from ezsd.pipeline.run import run_recipe
from ezsd.recipe import Recipe, load_recipe
from ezsd.run_folder import RunFolder
from ezsd.run_metrics import EvaluateMetrics, read_metrics
from ezsd.utils.files import read_json_if_exists, write_json, write_text
from ezsd.utils.log import show_log

BOXES, DRAWS = (2, 5, 10, 20, 50), 3
CALIBRATION_STEPS = 30  # to measure how long a step of the ordinary detector takes
COLUMNS = ("novel", "base", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--boxes", type=int, nargs="+", default=list(BOXES), help="boxes per novel name")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    show_log()
    try:
        results = labels_worth(load_recipe(given.recipe, given.changes), given.out, given.boxes, given.draws)
    except EzsdError as error:
        parser.exit(2, f"{error}\n")
    print(table(results), verdict(results), sep="\n")


def labels_worth(recipe: Recipe, out: Path, boxes: Sequence[int], draws: int) -> list[dict[str, Any]]:
    """Run all trainings; return one row for each, and write them to labels_worth.json.

    Raises:
        DataError: A novel name has fewer boxes than asked for.
    """
    split = load_split(recipe.split, recipe.data.train.annotations)
    rows, epochs = [], recipe.train.epochs
    for draw in range(draws):
        run = out / f"ezsd_0_draw{draw}"
        rows.append({"detector": "ezsd", "boxes": 0, "draw": draw, **_ezsd(recipe, run, draw)})
    ours = statistics.fmean(row["seconds"] for row in rows)
    for count in boxes:
        for draw in range(draws):
            path = out / f"boxes_{count}_draw{draw}.json"
            write_text(path, json.dumps(few_boxes(read_json_file(recipe.data.train.annotations), split, count, draw)))
            own = with_few_boxes(recipe, split, path)
            if len(rows) == draws:
                epochs *= ours / _seconds_of(own, out / "calibration")
            rows.append({
                "detector": "ordinary", "boxes": count, "draw": draw,
                **_ordinary(own, out / f"ordinary_{count}_draw{draw}", draw, epochs),
            })  # fmt: skip
            run = out / f"ezsd_{count}_draw{draw}"
            rows.append({"detector": "ezsd", "boxes": count, "draw": draw, **_ezsd(own, run, draw)})
            write_json(out / "labels_worth.json", rows)
    return rows


def few_boxes(content: Mapping[str, list[Any]], split: CategorySplit, count: int, draw: int) -> dict[str, list[Any]]:
    """Return annotations with ``count`` boxes of each novel name; boxes of other names are kept.

    Raises:
        DataError: A novel name has fewer boxes.
    """
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    chance = random.Random(draw)
    order = {entry["id"]: chance.random() for entry in content["images"]}
    taken: Counter[str] = Counter()
    kept = []
    for entry in sorted(content["annotations"], key=lambda entry: order[entry["image_id"]]):
        name = names[entry["category_id"]]
        if name in split.novel:
            if taken[name] == count or entry.get("iscrowd"):
                continue
            taken[name] += 1
        kept.append(entry)
    lacking = [f'"{name}" has {taken[name]} boxes, {count} are needed.' for name in split.novel if taken[name] < count]
    if lacking:
        raise DataError([*lacking, "Use fewer --boxes, or a recipe whose train annotations have novel boxes."])
    return {**content, "annotations": sorted(kept, key=lambda entry: entry["id"])}


def with_few_boxes(recipe: Recipe, split: CategorySplit, annotations: Path) -> Recipe:
    """Return the recipe with the boxes of all novel names in ``annotations``."""
    train = recipe.data.train.model_copy(update={"annotations": annotations})
    names = {"base": split.base, "novel": split.novel, "few_shot": split.novel}
    return recipe.model_copy(update={"split": names, "data": recipe.data.model_copy(update={"train": train})})


def _ezsd(recipe: Recipe, folder: Path, draw: int) -> dict[str, float]:
    run_recipe(recipe.model_copy(update={"seed": draw}), folder, until="evaluate")
    metrics = read_metrics(RunFolder(folder).metrics("evaluate"), EvaluateMetrics)
    seconds = (metrics.cost.adapt_s, metrics.cost.propose_s, metrics.cost.train_s)
    return {
        "novel": metrics.gzsd.ap50_novel or 0.0,
        "base": metrics.gzsd.ap50_base or 0.0,
        "seconds": sum(value or 0.0 for value in seconds),
    }


def _ordinary(recipe: Recipe, folder: Path, draw: int, epochs: float) -> dict[str, float]:
    """Train and measure the ordinary detector; the epochs of the first call are kept when it is resumed."""
    saved = folder / "recipe.yaml"
    if saved.exists():
        epochs = load_recipe(saved).train.epochs
    train = recipe.train.model_copy(update={"epochs": epochs})
    found = _trained(recipe.model_copy(update={"seed": draw, "train": train}), folder)
    return {"novel": found["ap50_novel"] or 0.0, "base": found["ap50"] or 0.0, "seconds": found["seconds"]}


def _trained(recipe: Recipe, folder: Path) -> dict[str, Any]:
    return read_json_if_exists(folder / "metrics.json") or closed_set(recipe, folder)


def _seconds_of(recipe: Recipe, folder: Path) -> float:
    """Return the estimated seconds of the ordinary detector with the recipe's epochs, from a few steps."""
    images = len(read_json_file(recipe.data.train.annotations)["images"])
    per_step = recipe.train.batch_size * recipe.train.accumulate
    short = min(recipe.train.epochs, CALIBRATION_STEPS * per_step / images)
    train = recipe.train.model_copy(update={"epochs": short, "validate_steps": 0})
    found = _trained(recipe.model_copy(update={"train": train}), folder)
    return float(found["seconds"]) / float(found["steps"]) * images * recipe.train.epochs / per_step


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the results as a Markdown table, one line for each number of boxes."""
    lines = [
        "| boxes per novel name | detector | AP50 novel | AP50 base | seconds |",
        "| --- | --- | --- | --- | --- |",
    ]
    for count, detector in sorted({(row["boxes"], row["detector"]) for row in rows}):
        same = [row for row in rows if (row["boxes"], row["detector"]) == (count, detector)]
        cells = [_shown([row[column] for row in same]) for column in COLUMNS]
        lines.append(f"| {count} | {detector} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say with how many boxes the ordinary detector equals ezsd without boxes."""
    mean = {
        key: statistics.fmean(row["novel"] for row in rows if (row["detector"], row["boxes"]) == key)
        for key in {(row["detector"], row["boxes"]) for row in rows}
    }
    ours, counts = mean["ezsd", 0], sorted(count for detector, count in mean if detector == "ordinary")
    enough = next((count for count in counts if mean["ordinary", count] >= ours), None)
    if enough is None:
        return f"The ordinary detector does not equal ezsd without boxes ({ours:.1f}) with {counts[-1]} per novel name."
    return f"The ordinary detector equals ezsd without boxes ({ours:.1f}) with {enough} boxes per novel name."


def _shown(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


if __name__ == "__main__":
    main()

"""Stage 5: what a run was and what came of it, as one HTML file that can be sent to anyone."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ezsd._version import __version__
from ezsd.data.formats.coco import load_images
from ezsd.data.formats.lvis import read_rules
from ezsd.data.target_store import INDEX, TargetStore
from ezsd.errors import ArtifactError, DataError
from ezsd.evaluation.summary import SETTINGS
from ezsd.recipe import Part, Recipe, load_run_recipe
from ezsd.report.charts import Curve, Plot, ceiling, plot
from ezsd.report.compare import Run, mismatches, read_run, tabulate
from ezsd.report.confusion import read_confusion
from ezsd.report.gallery import Card, detection_card, proposal_card
from ezsd.report.matching import SHOWN_SCORE, Outcome, hardest, judge, worst_and_best
from ezsd.report.render import render
from ezsd.run_folder import (
    STAGES,
    AdaptMetrics,
    EvaluateMetrics,
    ProposeMetrics,
    RunFolder,
    Stage,
    TrainMetrics,
    read_metrics,
    read_metrics_if_exist,
)
from ezsd.utils.files import digest, read_json, read_json_if_exists, write_text
from ezsd.utils.format import number

_MARK = '<meta name="ezsd-inputs" content="'
_WORST, _BEST, _TRAIN_CARDS = 8, 4, 6
_TRAIN_IMAGES = 1000  # the cards of proposals are chosen among so many train images
_PROPOSALS = 12  # drawn on an image


_LOSSES = {
    "loss": "all losses",
    "loss_classifier": "classification",
    "loss_box": "box regression",
    "loss_distillation": "distillation",
    "loss_mask": "masks",
    "loss_objectness": "RPN objectness",
    "loss_rpn_box_reg": "RPN box regression",
}


@dataclass(frozen=True)
class Bar:
    """AP50 of one category; lengths in percent of the axis, None where there is nothing to measure on."""

    name: str
    boxes: int
    value: float | None
    length: float
    baseline: float | None
    baseline_length: float


@dataclass(frozen=True)
class CardSection:
    """Cards of one section, or why there are none.

    Attributes:
        cards: first the worst.
        best: of ``cards``, how many at the end are the best.
        totals: how often base and novel objects were found, missed, and told where there are none.
        problem: why there are no cards; empty when there are.
    """

    cards: tuple[Card, ...] = ()
    best: int = 0
    totals: dict[str, dict[str, int]] | None = None
    problem: str = ""


def write_report(folder: Path, baseline: Path | None = None) -> Path:
    """Write ``report.html`` into a run folder whose stage evaluate is finished.

    Args:
        folder: of the run.
        baseline: another run, whose figures and curves stand beside; it has the same split and val images. Another
            setting is told in the report.

    Returns:
        the path of the report.

    Raises:
        ArtifactError: a run is not finished, the baseline cannot be held beside it, the folder has a report.html that
            is not ezsd's, or a file cannot be read or written.
        RecipeError: the recipe in the folder cannot be read.
    """
    files = RunFolder(folder)
    path = files.report
    if path.exists() and _inputs_of(path) is None:
        raise ArtifactError(f"{path} was not written by ezsd and would be replaced. Move it elsewhere.")
    run = read_run(folder)
    other = None if baseline is None else _read_baseline(run, baseline)
    recipe = load_run_recipe(files.recipe)
    names = (*run.inputs["split.base"], *run.inputs["split.novel"])
    base = len(run.inputs["split.base"])
    runs = [run] if other is None else [run, other]
    beside = None if baseline is None else RunFolder(baseline)
    write_text(path, render(
        "report.html.j2",
        title=folder.resolve().name,
        version=__version__,
        inputs=_digest(files),
        run=run,
        recipe=recipe,
        recipe_text=files.recipe.read_text(encoding="utf-8"),
        setting=SETTINGS.get(run.setting, ""),
        metrics=read_metrics(files.metrics("evaluate"), EvaluateMetrics),
        table=tabulate([[each] for each in runs], list(mismatches(runs).values())),
        stages=_stages(files),
        machines=_machines(files),
        plots=_plots(files, beside),
        bars=_bars(files, beside),
        adapt=read_metrics_if_exist(files.metrics("adapt"), AdaptMetrics),
        confusion=read_confusion(files.confusion),
        proposals=_proposal_images(files, recipe, names, base),
        proposals_shown=_PROPOSALS,
        gallery=_gallery(files, recipe, names, base),
        shown_score=SHOWN_SCORE,
    ))  # fmt: skip
    return path


def is_current(run: RunFolder) -> bool:
    """Return whether the report was made from what the run folder holds now."""
    return _inputs_of(run.report) == _digest(run)


def remove_report(run: RunFolder) -> None:
    """Remove the report of results that are about to be replaced; a file of the user is left alone."""
    if _inputs_of(run.report) is not None:
        run.report.unlink()


def _digest(run: RunFolder) -> str:
    """Return a digest of what a report is made from, except images and settings that change only the speed."""
    files = [
        *(run.metrics(stage) for stage in STAGES), *(run.done(stage) for stage in STAGES), run.inputs("evaluate"),
        run.confusion, run.training.log, run.per_category, run.detections,
    ]  # fmt: skip
    return digest(__version__, *(file if file.is_file() else "" for file in files))


def _inputs_of(path: Path) -> str | None:
    """What a report was made from; None where there is no report of ezsd's."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        _, mark, rest = file.read(4096).partition(_MARK)
    return rest.partition('"')[0] if mark else None


def _read_baseline(run: Run, folder: Path) -> Run:
    other = read_run(folder)
    messages = mismatches([run, other])
    if problems := [text for kind, text in messages.items() if kind != "setting"]:
        advice = "Give a run of the same split and val images."
        raise ArtifactError([*problems, f"{folder} cannot be the baseline of {run.folder}. {advice}"])
    return other


def _stages(run: RunFolder) -> list[dict[str, Any]]:
    """Return name, what was done, seconds and end time of each stage."""
    adapt = read_metrics_if_exist(run.metrics("adapt"), AdaptMetrics)
    targets = read_metrics_if_exist(run.metrics("propose"), ProposeMetrics)
    train = read_metrics_if_exist(run.metrics("train"), TrainMetrics)
    counts = read_metrics(run.metrics("evaluate"), EvaluateMetrics).counts
    done: dict[Stage, str] = {
        "adapt": f"{number(adapt.steps)} steps, {number(adapt.crops)} crops of base boxes"
        if adapt.steps else "off; the accuracy of the raw teacher was measured",
        "propose": f"{number(targets.proposals)} proposals and {number(targets.base_boxes)} base boxes on "
        f"{number(targets.images)} images" if targets.images else "not needed by this recipe",
        "train": f"{number(train.steps)} steps, {number(train.images)} images, "
        f"{number(train.images_per_second, 1)} images/s" if train.steps else "",
        "evaluate": f"{number(counts.images)} images, {number(counts.boxes_base)} base and "
        f"{number(counts.boxes_novel)} novel boxes",
    }  # fmt: skip
    finished = {stage: read_json_if_exists(run.done(stage)) for stage in STAGES}
    return [
        {"name": stage, "done": text, "seconds": finished[stage].get("seconds"),
         "finished": finished[stage].get("finished", "")[:16].replace("T", " ")}
        for stage, text in done.items()
    ]  # fmt: skip


def _machines(run: RunFolder) -> list[tuple[str, dict[str, str]]]:
    """Return versions and hardware, with the stages that ran there; one entry if all ran in one place."""
    stages: dict[str, list[str]] = defaultdict(list)
    for stage in STAGES:
        if environment := read_json_if_exists(run.done(stage)).get("environment"):
            stages[json.dumps(environment)].append(stage)
    return [(", ".join(names), json.loads(text)) for text, names in stages.items()]


def _plots(run: RunFolder, baseline: RunFolder | None) -> list[Plot]:
    own, other = _curves(run), {} if baseline is None else _curves(baseline)
    return [
        plot(title, own[name], other.get(name, ()))
        for name, title in {**_LOSSES, **{name: name for name in own if name not in _LOSSES}}.items()
        if any(value for _, value in own.get(name, ()))  # a loss that is switched off is 0 all along
    ]


def _curves(run: RunFolder) -> dict[str, Curve]:
    path = run.training.log
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in lines:
        for name, value in line.items():
            if name.startswith("loss"):
                curves[name].append((line["step"], value))
    return dict(curves)


def _bars(run: RunFolder, baseline: RunFolder | None) -> dict[str, list[Bar]]:
    """Bars of novel and base names, the highest first; those without a box last."""
    own, other = _categories(run), {} if baseline is None else _categories(baseline)
    top = ceiling(float(row["ap50"] or 0) for row in (*own.values(), *other.values()))
    bars: dict[str, list[Bar]] = {"novel": [], "base": []}
    for name, row in own.items():
        value, beside = (float(text) if (text := rows.get(name, {}).get("ap50")) else None for rows in (own, other))
        bars[row["split"]].append(
            Bar(name, int(row["boxes"]), value, 100 * (value or 0) / top, beside, 100 * (beside or 0) / top)
        )
    for side in bars.values():
        side.sort(key=lambda bar: -1.0 if bar.value is None else bar.value, reverse=True)
    return bars


def _categories(run: RunFolder) -> dict[str, dict[str, str]]:
    with run.per_category.open(encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def _gallery(run: RunFolder, recipe: Recipe, names: Sequence[str], base: int) -> CardSection:
    """Cards of val images, the worst first, then the best of the others."""
    try:
        images = load_images(recipe.data.val, names, recipe.data.skip_bad)
        rules = read_rules(recipe.data.val.annotations, names)
        labels = {category: label for label, category in enumerate(rules.category_ids, start=1)}
        found: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for entry in read_json(run.detections):
            if entry["score"] >= SHOWN_SCORE:
                found[entry["image_id"]].append({**entry, "category_id": labels[entry["category_id"]]})
        outcomes = [judge(image, found[image.image_id]) for image in images]
        worst, best = worst_and_best(outcomes, base, _WORST, _BEST)
        cards = [detection_card(outcome, names, base) for outcome in (*worst, *best)]
    except DataError as error:
        return CardSection(problem=str(error))
    return CardSection(tuple(cards), len(best), _totals(outcomes, base))


def _totals(outcomes: Sequence[Outcome], base: int) -> dict[str, dict[str, int]]:
    totals = {side: {"found": 0, "missed": 0, "false": 0} for side in ("novel", "base")}
    for outcome in outcomes:
        for row in outcome.missed:
            totals["base" if int(outcome.image.labels[row]) <= base else "novel"]["missed"] += 1
        for entry, hit in zip(outcome.detections, outcome.found, strict=True):
            totals["base" if entry["category_id"] <= base else "novel"]["found" if hit else "false"] += 1
    return totals


def _proposal_images(run: RunFolder, recipe: Recipe, names: Sequence[str], base: int) -> CardSection:
    """Cards of train images with novel objects, those where the proposals meet the fewest first."""
    if not (run.of("propose") / INDEX).is_file():
        return CardSection(problem="This recipe needs no proposals: nothing was distilled.")
    part = recipe.data.train
    limit = min(part.limit or _TRAIN_IMAGES, _TRAIN_IMAGES)
    try:
        store = TargetStore(run.of("propose"))
        images = load_images(Part(**{**part.model_dump(), "limit": limit}), names, recipe.data.skip_bad)
        regions = {image.image_id: store[image.image_id] for image in images if image.image_id in store}
        chosen = hardest(images, regions, base, _PROPOSALS, _TRAIN_CARDS)
        cards = [proposal_card(image, regions[image.image_id], names, base, _PROPOSALS) for image in chosen]
    except DataError as error:
        return CardSection(problem=str(error))
    return CardSection(tuple(cards), problem="" if cards else "No train image has a novel object.")

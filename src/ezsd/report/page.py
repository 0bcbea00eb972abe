"""Write the report of a run: its recipe, metrics and example images, as one self-contained HTML file."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ezsd._version import __version__
from ezsd.data.formats.coco import load_images
from ezsd.data.target_store import TargetStore
from ezsd.detector.model_config import THRESHOLDS
from ezsd.errors import ArtifactError, DataError
from ezsd.evaluation.summary import SETTINGS
from ezsd.inference.calibration import shown_results
from ezsd.inference.view import Thresholds, read_thresholds
from ezsd.recipe import Part, Recipe, load_run_recipe
from ezsd.report.charts import Curve, Plot, ceiling, plot
from ezsd.report.compare import Run, mismatches, read_run, tabulate
from ezsd.report.confusion import read_confusion, read_detector_confusion
from ezsd.report.error_split import split_errors
from ezsd.report.gallery import Card, detection_card, proposal_card
from ezsd.report.matching import SHOWN_SCORE, hardest, judge, worst_and_best
from ezsd.report.render import render
from ezsd.report.results import Results, read_results
from ezsd.run_folder import STAGES, RunFolder, Stage
from ezsd.run_metrics import (
    AdaptMetrics,
    EvaluateMetrics,
    ProposeMetrics,
    TrainMetrics,
    read_metrics,
    read_metrics_if_exist,
)
from ezsd.utils.files import digest, read_json_if_exists, read_json_lines, write_text
from ezsd.utils.format import counted, number

_MARK = '<meta name="ezsd-inputs" content="'
_WORST, _BEST, _TRAIN_CARDS = 8, 4, 6
_TRAIN_IMAGES = 1000  # maximum train images among which the cards of proposals are chosen
_PROPOSALS = 12  # maximum proposals drawn on an image


_CURVES = {
    "loss": "all losses",
    "loss_classifier": "classification",
    "loss_box": "box regression",
    "loss_distillation": "distillation",
    "loss_mask": "masks",
    "loss_objectness": "RPN objectness",
    "loss_rpn_box_reg": "RPN box regression",
    "ap50_base": "validation: AP50 of base names",
}


@dataclass(frozen=True)
class Bar:
    """AP50 of one category. ``value`` and ``baseline`` are None if not measured; lengths are in percent of the axis."""

    name: str
    boxes: int
    value: float | None
    length: float
    baseline: float | None
    baseline_length: float


@dataclass(frozen=True)
class CardSection:
    """The cards of a section, or the reason why it has no cards.

    Attributes:
        cards: The cards, the worst first.
        best: The number of cards at the end of ``cards`` that show the best images.
        problem: The reason why the section has no cards; empty otherwise.
    """

    cards: tuple[Card, ...] = ()
    best: int = 0
    problem: str = ""


def write_report(folder: Path, baseline: Path | None = None) -> Path:
    """Write ``report.html`` into a run folder whose stage evaluate is finished.

    Args:
        folder: The run folder.
        baseline: The folder of a run to compare with. It must have the same split and val images. If its setting
            differs, the report contains a warning.

    Returns:
        The path of the report.

    Raises:
        ArtifactError: A run is not finished, the baseline is not comparable, the folder has a report.html that ezsd
            did not write, or a file cannot be read or written.
        RecipeError: The recipe in the folder cannot be read.
    """
    files = RunFolder(folder)
    path = files.report
    if path.exists() and _inputs_of(path) is None:
        raise ArtifactError(f"{path} was not written by ezsd and would be overwritten. Move it to another place.")
    run = read_run(folder)
    other = None if baseline is None else _read_baseline(run, baseline)
    recipe = load_run_recipe(files.recipe)
    names = (*run.inputs["split.base"], *run.inputs["split.novel"])
    base = len(run.inputs["split.base"])
    results = _results(files, recipe, names)
    runs = [run] if other is None else [run, other]
    thresholds = _thresholds(files)
    baseline_files = None if baseline is None else RunFolder(baseline)
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
        plots=_plots(files, baseline_files),
        bars=_bars(files, baseline_files),
        adapt=read_metrics_if_exist(files.metrics("adapt"), AdaptMetrics),
        confusion=read_confusion(files.confusion),
        detector_confusion=read_detector_confusion(files.detector_confusion),
        proposals=_proposal_images(files, recipe, names, base),
        proposals_shown=_PROPOSALS,
        errors=results if isinstance(results, str) else split_errors(results, base),
        gallery=CardSection(problem=results) if isinstance(results, str) else _gallery(results, base, thresholds),
        calibrated=thresholds is not None,
        shown_score=SHOWN_SCORE,
    ))  # fmt: skip
    return path


def is_current(run: RunFolder) -> bool:
    """Return whether the report was made from the current contents of the run folder."""
    return _inputs_of(run.report) == _digest(run)


def remove_report(run: RunFolder) -> None:
    """Remove the report. A report.html that ezsd did not write is kept."""
    if _inputs_of(run.report) is not None:
        run.report.unlink()


def _digest(run: RunFolder) -> str:
    """Return a digest of the files that a report is made from, except images."""
    files = [
        *(run.metrics(stage) for stage in STAGES), *(run.done(stage) for stage in STAGES), run.inputs("evaluate"),
        run.confusion, run.training.log, run.training.validation, run.per_category, run.detections,
        run.detector_confusion, run.model / THRESHOLDS,
    ]  # fmt: skip
    return digest(__version__, *(file if file.is_file() else "" for file in files))


def _inputs_of(path: Path) -> str | None:
    """Return the digest stored in a report; None if ``path`` is not a report written by ezsd."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        _, mark, rest = file.read(4096).partition(_MARK)
    return rest.partition('"')[0] if mark else None


def _read_baseline(run: Run, folder: Path) -> Run:
    other = read_run(folder)
    messages = mismatches([run, other])
    if problems := [text for kind, text in messages.items() if kind != "setting"]:
        advice = "Choose a run with the same split and val images."
        raise ArtifactError([*problems, f"{folder} cannot be the baseline of {run.folder}. {advice}"])
    return other


def _stages(run: RunFolder) -> list[dict[str, Any]]:
    """Return the name, work, seconds and end time of each stage."""
    adapt = read_metrics_if_exist(run.metrics("adapt"), AdaptMetrics)
    targets = read_metrics_if_exist(run.metrics("propose"), ProposeMetrics)
    train = read_metrics_if_exist(run.metrics("train"), TrainMetrics)
    counts = read_metrics(run.metrics("evaluate"), EvaluateMetrics).counts
    done: dict[Stage, str] = {
        "adapt": f"{counted(adapt.steps, 'step')}, {counted(adapt.crops, 'crop')} of base boxes"
        if adapt.steps else "disabled; only the accuracy of the raw teacher was measured",
        "propose": f"{counted(targets.proposals, 'proposal')} and "
        f"{counted(targets.base_boxes, 'base box', 'base boxes')} on {counted(targets.images, 'image')}"
        if targets.images else "not needed by this recipe",
        "train": f"{counted(train.steps, 'step')}, {counted(train.images, 'image')}, "
        f"{number(train.images_per_second, 1)} images/s" if train.steps else "",
        "evaluate": f"{counted(counts.images, 'image')}, {number(counts.boxes_base)} base and "
        f"{counted(counts.boxes_novel, 'novel box', 'novel boxes')}",
    }  # fmt: skip
    finished = {stage: read_json_if_exists(run.done(stage)) for stage in STAGES}
    return [
        {"name": stage, "done": text, "seconds": finished[stage].get("seconds"),
         "finished": finished[stage].get("finished", "")[:16].replace("T", " ")}
        for stage, text in done.items()
    ]  # fmt: skip


def _machines(run: RunFolder) -> list[tuple[str, dict[str, str]]]:
    """Return versions and hardware, with the stages that ran on them; one entry for each environment."""
    stages: dict[str, list[str]] = defaultdict(list)
    for stage in STAGES:
        if environment := read_json_if_exists(run.done(stage)).get("environment"):
            stages[json.dumps(environment)].append(stage)
    return [(", ".join(names), json.loads(text)) for text, names in stages.items()]


def _plots(run: RunFolder, baseline: RunFolder | None) -> list[Plot]:
    own, other = _curves(run), {} if baseline is None else _curves(baseline)
    return [
        plot(title, own[name], other.get(name, ()))
        for name, title in {**_CURVES, **{name: name for name in own if name not in _CURVES}}.items()
        if any(value for _, value in own.get(name, ()))  # a disabled loss is always 0
    ]


def _curves(run: RunFolder) -> dict[str, Curve]:
    files = [path for path in (run.training.log, run.training.validation) if path.is_file()]
    lines = [line for path in files for line in read_json_lines(path)]
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in lines:
        for name, value in line.items():
            if name.startswith("loss") or name == "ap50_base":
                curves[name].append((line["step"], value))
    return dict(curves)


def _bars(run: RunFolder, baseline: RunFolder | None) -> dict[str, list[Bar]]:
    """Return the bars of novel and base names, the highest first. Names without boxes are last."""
    own, other = _categories(run), {} if baseline is None else _categories(baseline)
    top = ceiling(float(row["ap50"] or 0) for row in (*own.values(), *other.values()))
    bars: dict[str, list[Bar]] = {"novel": [], "base": []}
    for name, row in own.items():
        value, reference = (float(text) if (text := rows.get(name, {}).get("ap50")) else None for rows in (own, other))
        bars[row["split"]].append(
            Bar(name, int(row["boxes"]), value, 100 * (value or 0) / top, reference, 100 * (reference or 0) / top)
        )
    for side in bars.values():
        side.sort(key=lambda bar: -1.0 if bar.value is None else bar.value, reverse=True)
    return bars


def _categories(run: RunFolder) -> dict[str, dict[str, str]]:
    with run.per_category.open(encoding="utf-8", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    try:
        for row in rows.values():
            int(row["boxes"])
            float(row["ap50"] or 0)
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{run.per_category} cannot be read: {error}. Remove it and run stage evaluate.") from None
    return rows


def _results(run: RunFolder, recipe: Recipe, names: Sequence[str]) -> Results | str:
    """Return the results on the val images, or why they cannot be read."""
    try:
        return read_results(run, recipe, names)
    except DataError as error:
        return str(error)


def _thresholds(run: RunFolder) -> Thresholds | None:
    """Return the calibrated thresholds of the model; None if the run is older than they are."""
    content = read_json_if_exists(run.model / THRESHOLDS)
    return read_thresholds(run.model, content.get("second_opinion", "none")) if content else None


def _gallery(results: Results, base: int, thresholds: Thresholds | None) -> CardSection:
    """Return the cards of val images with what people see in them: the worst first, then the best of the others.

    Args:
        results: All detections, and the val images.
        base: The number of base names.
        thresholds: The calibrated thresholds; None = 0.3 for every name.
    """
    found: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in shown_results(results.detections, results.images.names, thresholds or Thresholds()):
        found[entry["image_id"]].append(entry)
    outcomes = [judge(image, found[image.image_id]) for image in results.images]
    worst, best = worst_and_best(outcomes, base, _WORST, _BEST)
    try:
        cards = [detection_card(outcome, results.images.names, base) for outcome in (*worst, *best)]
    except DataError as error:
        return CardSection(problem=str(error))
    return CardSection(tuple(cards), len(best))


def _proposal_images(run: RunFolder, recipe: Recipe, names: Sequence[str], base: int) -> CardSection:
    """Return the cards of train images with novel objects, by increasing recall of these objects by the proposals."""
    if not run.targets.index.is_file():
        return CardSection(problem="This recipe does not use proposals, because distillation is disabled.")
    part = recipe.data.train
    limit = min(part.limit or _TRAIN_IMAGES, _TRAIN_IMAGES)
    try:
        store = TargetStore(run.targets.path)
        images = load_images(Part(**{**part.model_dump(), "limit": limit}), names, recipe.data.skip_bad)
        regions = {image.image_id: store[image.image_id] for image in images if image.image_id in store}
        chosen = hardest(images, regions, base, _PROPOSALS, _TRAIN_CARDS)
        cards = [proposal_card(image, regions[image.image_id], names, base, _PROPOSALS) for image in chosen]
    except DataError as error:
        return CardSection(problem=str(error))
    return CardSection(tuple(cards), problem="" if cards else "No train image contains a novel object.")

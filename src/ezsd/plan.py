"""What a run will do, counted, and how long it will take here, measured: ``ezsd plan``. Nothing is left behind."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import PartialState
from rich.console import Group
from rich.table import Table

from ezsd.adapt import KEPT_PHOTOS, usable_boxes
from ezsd.candidates import anchor_grid
from ezsd.data.categories import CategorySplit, load_split
from ezsd.data.coco import Photos, load_photos
from ezsd.errors import DataError
from ezsd.measure import Measured, Pace, Work, measure, this_device
from ezsd.progress import say
from ezsd.propose import ranked_without_crops
from ezsd.recall import RECALL_AT, photos_with
from ezsd.recipe import Part, Propose, Recipe
from ezsd.train_data import BatchPlan, needs_targets

_ROW_BYTES = 29  # of a stored box, beside its embedding: corners, weight, score, label, kind
_DETECTION_BYTES = 110  # of a line of detections.json
_UNCERTAIN = 0.3


@dataclass(frozen=True)
class StagePlan:
    """What one stage does.

    Attributes:
        stage: its name.
        work: what it does, for people.
        teacher: passes of the teacher, for people; empty when there are none.
        units: what its time is made of: how often each kind of work is done.
        stored: rows of the target store, or detections at most, that are written.
    """

    stage: str
    work: str
    teacher: str
    units: Mapping[Work, float]
    stored: int = 0

    def time(self, paces: Mapping[Work, Pace]) -> Pace:
        """Seconds of the stage; kinds of work that were not measured count nothing."""
        parts = [paces[kind] * count for kind, count in self.units.items() if kind in paces]
        return _sum_of(parts)


def _sum_of(parts: Sequence[Pace]) -> Pace:
    """Add times up; all may be slow together."""
    return Pace(*(sum(getattr(part, name) for part in parts) for name in ("mean", "low", "high")))


def make_plan(recipe: Recipe, name: str) -> Group:
    """Count and measure what a recipe asks for.

    Args:
        recipe: what would be run.
        name: of the recipe, for people.

    Returns:
        what to print.

    Raises:
        EzsdError: split, data or teacher cannot be used.
    """
    busy = _load()
    split = load_split(recipe.split, recipe.data.train.annotations)
    photos = _photos(recipe, split)
    stages = count_work(recipe, split, photos)
    say(f"{_data_line(split, photos)}\nMeasuring a little of every stage, for about a minute.")
    measured = measure(recipe, split, photos["train"], photos["val"])
    table = _table(f"Plan of {name} on {_machine()}", recipe, stages, measured)
    return Group(_data_line(split, photos), table, *_notes(recipe, photos, measured, busy))


def foretell(recipe: Recipe, split: CategorySplit, photos: Mapping[str, Photos], stages: Sequence[str]) -> str:
    """Tell what stages will do, as far as it is known without measuring.

    Args:
        recipe: that is run.
        split: of the recipe.
        photos: "train" (base boxes) and "val" (boxes of all names); what is not there is not told of.
        stages: that will be run.
    """
    plans = [plan for plan in count_work(recipe, split, photos) if plan.stage in stages]
    lines = [f"  {plan.stage}: {'; '.join(filter(None, (plan.work, plan.teacher)))}" for plan in plans]
    return "\n".join([_data_line(split, photos), *lines, "How long that takes here: ezsd plan RECIPE"])


def count_work(recipe: Recipe, split: CategorySplit, photos: Mapping[str, Photos]) -> list[StagePlan]:
    """Count the work of the stages that ``photos`` has the parts of; see :func:`foretell`."""
    plans = []
    if "train" in photos:
        plans.append(_adapt(recipe, photos["train"], photos.get("val")))
        if needs_targets(recipe.train):
            plans.append(_propose(recipe, photos["train"]))
        plans.append(_train(recipe, photos["train"]))
    if "val" in photos:
        plans.append(_evaluate(recipe, split, photos["val"]))
    return plans


def _adapt(recipe: Recipe, train: Photos, val: Photos | None) -> StagePlan:
    settings = recipe.adapt
    seen = (1 + settings.enabled) * sum(
        len(usable_boxes(photo, settings.min_side)) for photo in (val.photos if val else ())
    )
    if not settings.enabled:
        return StagePlan("adapt", "off: accuracy of val crops alone", f"{seen:,} crops", {"look at a crop": seen})
    boxes = sum(len(usable_boxes(photo, settings.min_side)) for photo in train.photos)
    steps = settings.epochs * math.ceil(boxes / settings.batch_size)
    reads = len(train.photos) * (settings.epochs if len(train.photos) > KEPT_PHOTOS else 1)
    return StagePlan(
        "adapt",
        f"{steps:,} steps of {settings.batch_size} crops: {boxes:,} base boxes {settings.epochs} times",
        f"{settings.epochs * boxes:,} crops forward and backward, {seen:,} forward",
        {"adapt step": steps, "read a photo": reads, "look at a crop": seen},
    )


def _propose(recipe: Recipe, train: Photos) -> StagePlan:
    settings, photos, boxes = recipe.propose, len(train.photos), _boxes(train)
    units: dict[Work, float] = {"propose in a photo": photos}
    grid = _grid(settings, train)
    work = f"{photos:,} photos, about {grid:,} grid boxes each, at most {settings.keep} kept"
    if settings.scoring == "rpn":
        work = f"{photos:,} photos, at most {settings.keep} regions of an RPN each kept"
    if settings.asks_rpn:
        units["rpn step"] = _batches(recipe, train).steps(settings.rpn_epochs)
        work = f"{units['rpn step']:,} steps of an RPN; {work}"
    crops = _crops(settings, grid)
    stored = photos * min(crops, settings.keep) + boxes
    return StagePlan("propose", work, _passes(photos * crops + boxes, photos, settings), units, stored)


def _crops(settings: Propose, grid: int) -> int:
    """Proposals of a photo that are cropped, at most."""
    if settings.scoring == "rpn":
        return settings.wanted
    boxes = grid + (settings.keep if settings.objectness else 0)
    return boxes if settings.scoring == "exhaustive" else min(boxes, settings.keep)


def _train(recipe: Recipe, train: Photos) -> StagePlan:
    settings, photos = recipe.train, len(train.photos)
    plan = _batches(recipe, train)
    steps = plan.steps(settings.epochs)
    work = f"{steps:,} steps of {plan.photos_per_step} photos: {photos:,} photos {settings.epochs:g} times"
    return StagePlan("train", work, "", {"train step": steps})


def _batches(recipe: Recipe, train: Photos) -> BatchPlan:
    settings = recipe.train
    processes = PartialState().num_processes
    return BatchPlan(len(train.photos), recipe.seed, settings.batch_size, settings.accumulate, processes)


def _evaluate(recipe: Recipe, split: CategorySplit, val: Photos) -> StagePlan:
    photos, rounds = len(val.photos), 2 if split.novel else 1
    asked = photos_with(val, split.novel) if recipe.evaluate.proposals else []
    work = f"{photos:,} photos, {'gzsd and zsd' if split.novel else 'gzsd'}"
    teacher = ""
    if asked:
        settings = recipe.propose.model_copy(update={"keep": max(RECALL_AT)})
        known = _boxes(replace(val, photos=asked), split.base)
        crops = 0 if ranked_without_crops(settings) else len(asked) * _crops(settings, _grid(settings, val)) + known
        work += f"; recall of proposals in {len(asked):,}"
        teacher = _passes(crops, len(asked), settings)
    found = rounds * photos * recipe.detector.detections_per_photo
    return StagePlan("evaluate", work, teacher, {"detect in a photo": photos, "recall of a photo": len(asked)}, found)


def _passes(crops: int, photos: int, settings: Propose) -> str:
    dense = photos * len(settings.dense_sides) if settings.scoring == "dense" else 0
    parts = [f"{dense:,} dense passes" if dense else "", f"at most {crops:,} crops" if crops else ""]
    return ", ".join(filter(None, parts))


def _grid(settings: Propose, part: Photos) -> int:
    """Grid boxes of a photo, about."""
    photo = part.photos[len(part.photos) // 2]
    return len(anchor_grid(photo.height, photo.width, settings))


def _boxes(part: Photos, names: Sequence[str] | None = None) -> int:
    """Boxes (crowds apart) of the part, or of some of its names."""
    wanted = torch.tensor([False, *(names is None or name in names for name in part.names)])
    return sum(int((wanted[photo.labels] & ~photo.crowd).sum()) for photo in part.photos)


def _photos(recipe: Recipe, split: CategorySplit) -> dict[str, Photos]:
    """Read both parts; the faults of both are told at once."""
    parts: list[tuple[str, Part, tuple[str, ...], tuple[str, ...]]] = [
        ("train", recipe.data.train, split.base, split.base), ("val", recipe.data.val, split.names, ()),
    ]  # fmt: skip
    photos: dict[str, Photos] = {}
    faults: list[str] = []
    for name, part, names, required in parts:
        try:
            photos[name] = load_photos(part, names, recipe.data.skip_bad, required)
        except DataError as error:
            faults += error.faults
    if faults:
        raise DataError(faults)
    return photos


def _data_line(split: CategorySplit, photos: Mapping[str, Photos]) -> str:
    parts = [f"{len(split.base)} base and {len(split.novel)} novel names"]
    if train := photos.get("train"):
        parts.append(f"train {len(train.photos):,} photos with {_boxes(train):,} base boxes")
    if val := photos.get("val"):
        base, novel = _boxes(val, split.base), _boxes(val, split.novel)
        parts.append(f"val {len(val.photos):,} photos with {base:,} base and {novel:,} novel boxes")
    return "; ".join(parts)


def _table(title: str, recipe: Recipe, stages: Sequence[StagePlan], measured: Measured) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("stage", "work", "teacher"):
        table.add_column(column)
    for column in ("stored", "time", "between"):
        table.add_column(column, justify="right", no_wrap=True)
    times, total = [], 0
    for plan in stages:
        times.append(plan.time(measured.paces))
        stored = _stored(plan, recipe, measured)
        total += stored
        table.add_row(plan.stage, plan.work, plan.teacher, size(stored), *_times(times[-1]))
    table.add_section()
    table.add_row("in all", "", "", size(total), *_times(_sum_of(times)))
    return table


def _stored(plan: StagePlan, recipe: Recipe, measured: Measured) -> int:
    """Bytes that a stage leaves in the run folder."""
    optimizer = 2 if recipe.train.optimizer == "adamw" else 1
    return {
        "adapt": measured.norm_bytes if recipe.adapt.enabled else 0,
        "propose": plan.stored * (2 * measured.embedding_dim + _ROW_BYTES),
        "train": (2 + optimizer) * measured.model_bytes,  # the model, and its last checkpoint with the optimizer
        "evaluate": plan.stored * _DETECTION_BYTES,
    }[plan.stage]


def _times(time: Pace) -> tuple[str, str]:
    low, high = min(time.low, time.mean * (1 - _UNCERTAIN)), max(time.high, time.mean * (1 + _UNCERTAIN))
    return duration(time.mean), f"{duration(low)} - {duration(high)}"


def _notes(recipe: Recipe, photos: Mapping[str, Photos], measured: Measured, busy: float) -> list[str]:
    notes = [
        f"Measured in {measured.seconds:.0f} s on a few photos, in one process. Expect the time within the bounds, not "
        "at its middle; loading models and reading annotations come on top."
    ]
    if busy > 0.5:
        notes.append(f"Other work ran meanwhile (load {busy:.1f} on {os.cpu_count()} processors); alone it is quicker.")
    held = [f"{size(measured.memory_bytes)} of memory" if measured.memory_bytes else "",
            f"{size(measured.device_bytes)} on the GPU" if measured.device_bytes else ""]  # fmt: skip
    if any(held):
        readers = f", and each of its {recipe.data.workers} readers of photos some more" if recipe.data.workers else ""
        notes.append(f"Measuring held {' and '.join(filter(None, held))}; a run holds at least that{readers}.")
    if skipped := sum(len(part.skipped) for part in photos.values()):
        notes.append(f"{skipped} bad photos or boxes are left out; ezsd validate lists them.")
    return notes


def _load() -> float:
    """Processes that wanted to run in the last minute; 0 where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _machine() -> str:
    device = torch.device(this_device())
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} of {os.cpu_count()} processors"


def duration(seconds: float) -> str:
    """A time in two digits or so: 40 s, 12 min, 3.5 h, 4 days."""
    for limit, unit, divisor in ((90, "s", 1), (90 * 60, "min", 60), (48 * 3600, "h", 3600)):
        if seconds < limit:
            value = seconds / divisor
            return f"{value:.0f} {unit}" if value >= 10 or unit == "s" else f"{value:.1f} {unit}"
    return f"{seconds / 86400:.1f} days"


def size(count: float) -> str:
    """A number of bytes: 0.3 MB, 85 MB, 2.1 GB."""
    for limit, unit, divisor in ((1e9, "MB", 1e6), (1e12, "GB", 1e9)):
        if count < limit:
            value = count / divisor
            return f"{value:.0f} {unit}" if value >= 10 or not count else f"{value:.1f} {unit}"
    return f"{count / 1e12:.1f} TB"

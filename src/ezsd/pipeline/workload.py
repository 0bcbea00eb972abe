"""Count the work of each stage without doing it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from accelerate import PartialState

from ezsd.data.categories import CategorySplit
from ezsd.data.samples import Photos, photos_with
from ezsd.proposals.candidates import anchor_grid
from ezsd.proposals.proposer import ranked_without_crops
from ezsd.proposals.recall import RECALL_AT
from ezsd.recipe import Propose, Recipe, needs_targets
from ezsd.teacher.adaptation import KEPT_PHOTOS, usable_boxes
from ezsd.training.sampler import BatchPlan

Work = Literal["read a photo", "look at a crop", "adapt step", "rpn step", "propose in a photo", "train step",
               "detect in a photo", "recall of a photo"]  # fmt: skip


@dataclass(frozen=True)
class Pace:
    """Seconds that one unit of work takes: the mean, and what a tenth of the measured ones stayed below and above."""

    mean: float
    low: float
    high: float

    @staticmethod
    def of(seconds: Sequence[float]) -> Pace:
        """Sum up measured units; a single one tells nothing of the spread, so it counts as half to twice as long."""
        if len(seconds) < 2:
            return Pace(seconds[0], seconds[0] / 2, seconds[0] * 2)
        tenths = statistics.quantiles(seconds, n=10, method="inclusive")
        mean = statistics.fmean(seconds)
        return Pace(mean, min(tenths[0], mean), max(tenths[-1], mean))

    def __mul__(self, factor: float) -> Pace:
        return Pace(self.mean * factor, self.low * factor, self.high * factor)


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
        return total_pace(parts)


def total_pace(parts: Sequence[Pace]) -> Pace:
    """Add times up; all may be slow together."""
    return Pace(*(sum(getattr(part, name) for part in parts) for name in ("mean", "low", "high")))


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
    return "\n".join([describe_data(split, photos), *lines, "How long that takes here: ezsd plan RECIPE"])


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


def describe_data(split: CategorySplit, photos: Mapping[str, Photos]) -> str:
    """Describe both parts of the data in one line."""
    parts = [f"{len(split.base)} base and {len(split.novel)} novel names"]
    if train := photos.get("train"):
        parts.append(f"train {len(train.photos):,} photos with {_boxes(train):,} base boxes")
    if val := photos.get("val"):
        base, novel = _boxes(val, split.base), _boxes(val, split.novel)
        parts.append(f"val {len(val.photos):,} photos with {base:,} base and {novel:,} novel boxes")
    return "; ".join(parts)

"""Count the work of each stage without running it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ezsd.data.categories import CategorySplit
from ezsd.data.formats.coco import count_boxes
from ezsd.data.samples import ImageSet, images_with
from ezsd.proposals.candidates import anchor_grid
from ezsd.proposals.proposer import ranked_without_crops
from ezsd.proposals.recall import recall_config
from ezsd.recipe import ProposeConfig, Recipe, needs_targets
from ezsd.selection.dense_reading import IMAGES as READING_IMAGES
from ezsd.selection.share import BATCH_DIVISOR, FOLDS
from ezsd.selection.size_power import IMAGES as POWER_IMAGES
from ezsd.teacher.adaptation import KEPT_IMAGES, usable_boxes
from ezsd.training.sampler import BatchPlan
from ezsd.utils.device import process_state
from ezsd.utils.format import counted

Work = Literal["read an image", "look at a crop", "adapt step", "rpn step", "propose in an image", "train step",
               "detect in an image", "recall of an image"]  # fmt: skip


@dataclass(frozen=True)
class Pace:
    """Seconds per unit of work.

    Attributes:
        mean: The mean of the measured units.
        low: The 10th percentile.
        high: The 90th percentile.
    """

    mean: float
    low: float
    high: float

    @staticmethod
    def of(seconds: Sequence[float]) -> Pace:
        """Summarize measured units. The range of a single unit is set to half and twice its time."""
        if len(seconds) < 2:
            return Pace(seconds[0], seconds[0] / 2, seconds[0] * 2)
        tenths = statistics.quantiles(seconds, n=10, method="inclusive")
        mean = statistics.fmean(seconds)
        return Pace(mean, min(tenths[0], mean), max(tenths[-1], mean))

    def __mul__(self, factor: float) -> Pace:
        return Pace(self.mean * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class StagePlan:
    """The work of one stage.

    Attributes:
        stage: The name of the stage.
        work: A description of the work.
        teacher: A description of the teacher passes; empty without passes.
        units: The number of units of each kind of work.
        stored: The maximum number of rows in the target store, or of detections, that are written.
    """

    stage: str
    work: str
    teacher: str
    units: Mapping[Work, float]
    stored: int = 0

    def __str__(self) -> str:
        return f"{self.stage}: {'; '.join(filter(None, (self.work, self.teacher)))}"

    def time(self, paces: Mapping[Work, Pace]) -> Pace:
        """Return the seconds of the stage. Kinds of work without a pace are not counted."""
        parts = [paces[kind] * count for kind, count in self.units.items() if kind in paces]
        return total_pace(parts)


def total_pace(parts: Sequence[Pace]) -> Pace:
    """Add times. The bounds are added too, because all parts can be slow at once."""
    return Pace(*(sum(getattr(part, name) for part in parts) for name in ("mean", "low", "high")))


def describe_work(recipe: Recipe, split: CategorySplit, images: Mapping[str, ImageSet], stages: Sequence[str]) -> str:
    """Describe the work of stages, as far as it is known without measuring.

    Args:
        recipe: The recipe.
        split: The split of the recipe.
        images: "train" (base boxes) and "val" (boxes of all names). A missing part is not described.
        stages: The stages that will run.

    Returns:
        One line for the data, one for each stage, and a hint.
    """
    plans = [plan for plan in count_work(recipe, split, images) if plan.stage in stages]
    lines = [f"  {plan}" for plan in plans]
    return "\n".join([describe_data(split, images), *lines, "To estimate the time on this machine: ezsd plan RECIPE"])


def count_work(recipe: Recipe, split: CategorySplit, images: Mapping[str, ImageSet]) -> list[StagePlan]:
    """Count the work of the stages whose parts are in ``images``; see :func:`describe_work`."""
    plans = []
    if "train" in images:
        plans.append(_adapt(recipe, images["train"], images.get("val")))
        if needs_targets(recipe.train):
            plans.append(_propose(recipe, images["train"]))
        plans.append(_train(recipe, images["train"]))
    if "val" in images:
        plans.append(_evaluate(recipe, split, images["val"]))
    return plans


def _adapt(recipe: Recipe, train: ImageSet, val: ImageSet | None) -> StagePlan:
    config = recipe.adapt
    seen = (1 + config.enabled) * sum(
        len(usable_boxes(image, config.min_side)) for image in (val.images if val else ())
    )
    if not config.enabled:
        return StagePlan("adapt", "disabled: measures accuracy only", f"{seen:,} val crops", {"look at a crop": seen})
    boxes = sum(len(usable_boxes(image, config.min_side)) for image in train)
    steps = config.epochs * math.ceil(boxes / config.batch_size)
    reads = len(train) * (config.epochs if len(train) > KEPT_IMAGES else 1)
    base = counted(boxes, "base box", "base boxes")
    work = (
        f"{counted(steps, 'step')} of {counted(config.batch_size, 'crop')}: {base} x {counted(config.epochs, 'epoch')}"
    )
    if config.share == "auto":
        work += f"; {FOLDS} x {steps:,} steps of {math.ceil(config.batch_size / BATCH_DIVISOR)} to choose the share"
        steps += math.ceil(steps * FOLDS / BATCH_DIVISOR)
    return StagePlan(
        "adapt",
        work,
        f"{counted(config.epochs * boxes, 'crop')} forward and backward, {seen:,} forward",
        {"adapt step": steps, "read an image": reads, "look at a crop": seen},
    )


def _propose(recipe: Recipe, train: ImageSet) -> StagePlan:
    config, images, boxes = recipe.propose, len(train), _boxes(train)
    units: dict[Work, float] = {"propose in an image": images}
    grid = _grid(config, train)
    work = f"{counted(images, 'image')}, about {grid:,} grid boxes in each, at most {config.keep} kept"
    if config.scoring in ("regions", "rpn"):
        work = f"{counted(images, 'image')}, at most {config.keep} RPN regions kept in each"
    if config.asks_rpn:
        units["rpn step"] = _batches(recipe, train).steps(config.rpn_epochs)
        work = f"{units['rpn step']:,} training steps of an RPN; {work}"
    crops = _crops(config, grid)
    stored = images * min(crops, config.keep) + boxes
    if choosing := _choosing(recipe, images):
        units["propose in an image"] += choosing
        work += f"; about {counted(choosing, 'dense reading')} of images to choose settings"
    return StagePlan("propose", work, _passes(images * crops + boxes, images, config), units, stored)


def _choosing(recipe: Recipe, images: int) -> int:
    """Return the most dense readings of images to choose the dense reading and the size power."""
    config = recipe.propose
    count = min(POWER_IMAGES, images) if config.size_power == "auto" else 0
    if config.dense_reading == "auto" and recipe.teacher.startswith("open_clip:"):
        from ezsd.teacher.clip import may_be_vit  # open_clip takes seconds to import
        from ezsd.teacher.vit_readings import READINGS

        count += len(READINGS) * min(READING_IMAGES, images) if may_be_vit(recipe.teacher) else 0
    return count


def _crops(config: ProposeConfig, grid: int) -> int:
    """Return the maximum number of crops per image."""
    if config.scoring == "rpn":
        return config.wanted
    boxes = grid + (config.keep if config.objectness else 0)
    return boxes if config.scoring == "exhaustive" else min(boxes, config.keep)


def _train(recipe: Recipe, train: ImageSet) -> StagePlan:
    config, images = recipe.train, len(train)
    plan = _batches(recipe, train)
    steps = plan.steps(config.epochs)
    each = counted(plan.images_per_step, "image")
    epochs = f"{config.epochs:g} epoch{'' if config.epochs == 1 else 's'}"
    work = f"{counted(steps, 'step')} of {each}: {counted(images, 'image')} x {epochs}"
    units: dict[Work, float] = {"train step": steps}
    if config.validate_steps:
        rounds = math.ceil(steps / config.validate_steps)
        units["detect in an image"] = rounds * config.validate_images / 2  # the pace is that of gzsd and zsd together
        work += f"; {counted(rounds, 'validation')} on at most {counted(config.validate_images, 'val image')}"
    return StagePlan("train", work, "", units)


def _batches(recipe: Recipe, train: ImageSet) -> BatchPlan:
    config = recipe.train
    processes = process_state().num_processes
    return BatchPlan(len(train), recipe.seed, config.batch_size, config.accumulate, processes)


def _evaluate(recipe: Recipe, split: CategorySplit, val: ImageSet) -> StagePlan:
    images, rounds = len(val), 2 if split.novel else 1
    asked = images_with(val, split.novel) if recipe.evaluate.proposals else []
    work = f"{counted(images, 'image')}, {'gzsd and zsd' if split.novel else 'gzsd'}"
    teacher = ""
    if asked:
        config = recall_config(recipe.propose)
        known = _boxes(replace(val, images=asked), split.base)
        crops = 0 if ranked_without_crops(config) else len(asked) * _crops(config, _grid(config, val)) + known
        work += f"; proposal recall on {counted(len(asked), 'image')}"
        teacher = _passes(crops, len(asked), config)
    found = rounds * images * recipe.detector.detections_per_image
    return StagePlan("evaluate", work, teacher, {"detect in an image": images, "recall of an image": len(asked)}, found)


def _passes(crops: int, images: int, config: ProposeConfig) -> str:
    dense = images * len(config.dense_sides) if config.scoring in ("dense", "regions") else 0
    parts = [
        counted(dense, "dense pass", "dense passes") if dense else "",
        f"at most {counted(crops, 'crop')}" if crops else "",
    ]
    return ", ".join(filter(None, parts))


def _grid(config: ProposeConfig, part: ImageSet) -> int:
    """Return the approximate number of grid boxes per image."""
    image = part.images[len(part) // 2]
    return len(anchor_grid(image.height, image.width, config))


def _boxes(part: ImageSet, names: Sequence[str] | None = None) -> int:
    """Count the boxes of all names of the part, or of the given names. Crowd boxes are excluded."""
    counts = count_boxes(part)[0]
    return counts.total() if names is None else sum(counts[name] for name in set(names))


def describe_data(split: CategorySplit, images: Mapping[str, ImageSet]) -> str:
    """Describe both parts of the data in one line."""
    few = f" ({len(split.few_shot)} with some boxes)" if split.few_shot else ""
    parts = [f"{len(split.base):,} base and {counted(len(split.novel), 'novel name')}{few}"]
    if train := images.get("train"):
        boxes = counted(_boxes(train, split.base), "base box", "base boxes")
        more = f" and {counted(_boxes(train, split.few_shot), 'novel box', 'novel boxes')}" if split.few_shot else ""
        parts.append(f"train {counted(len(train), 'image')} with {boxes}{more}")
    if val := images.get("val"):
        base, novel = _boxes(val, split.base), _boxes(val, split.novel)
        parts.append(
            f"val {counted(len(val), 'image')} with {base:,} base and {counted(novel, 'novel box', 'novel boxes')}"
        )
    return "; ".join(parts)

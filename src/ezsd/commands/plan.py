"""Count the work of a run and estimate its time on this machine: ``ezsd plan``. No files are kept."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

import torch
from rich.console import Group
from rich.table import Table

from ezsd.commands.projection import ROW_BYTES, projection
from ezsd.commands.timing import Measured, measure
from ezsd.data.categories import load_split
from ezsd.data.formats.coco import load_parts
from ezsd.data.samples import ImageSet
from ezsd.detector.initial_weights import check_detector
from ezsd.pipeline.workload import (
    Pace,
    StagePlan,
    count_work,
    describe_data,
    total_pace,
)
from ezsd.recipe import Recipe
from ezsd.teacher import check_teacher
from ezsd.utils.device import this_device
from ezsd.utils.format import byte_size, duration

logger = logging.getLogger(__name__)

_DETECTION_BYTES = 110  # per entry of detections.json
_UNCERTAIN = 0.3


def make_plan(recipe: Recipe, name: str, gpus: int | None = None) -> Group:
    """Count the work of a recipe and measure its pace.

    Args:
        recipe: The recipe to plan.
        name: The name of the recipe, shown in the title.
        gpus: Also project the cost to large data sets on this number of devices like this one.

    Returns:
        A renderable for ``rich.console.Console.print``.

    Raises:
        EzsdError: The split, the data or the teacher cannot be used.
    """
    busy = _load()
    check_detector(recipe.detector)
    check_teacher(recipe)
    split = load_split(recipe.split, recipe.data.train.annotations)
    images = load_parts(recipe.data, split)
    stages = count_work(recipe, split, images)
    logger.info("Measuring a sample of every stage for about a minute.")
    measured = measure(recipe, split, images["train"], images["val"])
    table = _table(f"Plan of {name} on {_machine()}", recipe, stages, measured)
    work = [describe_data(split, images), *(f"  {plan}" for plan in stages)]
    more = [] if gpus is None else [projection(recipe, measured, gpus)]
    return Group(*work, table, *more, *_notes(recipe, images, measured, busy))


def _table(title: str, recipe: Recipe, stages: Sequence[StagePlan], measured: Measured) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("stage")
    for column in ("stored", "time", "between"):
        table.add_column(column, justify="right", no_wrap=True)
    times, total = [], 0
    for plan in stages:
        times.append(plan.time(measured.paces))
        stored = _stored(plan, recipe, measured)
        total += stored
        table.add_row(plan.stage, byte_size(stored), *_times(times[-1]))
    table.add_section()
    table.add_row("total", byte_size(total), *_times(total_pace(times)))
    return table


def _stored(plan: StagePlan, recipe: Recipe, measured: Measured) -> int:
    """Return the bytes that a stage stores in the run folder."""
    optimizer = 2 if recipe.train.optimizer == "adamw" else 1
    return {
        "adapt": measured.norm_bytes if recipe.adapt.enabled else 0,
        "propose": plan.stored * (2 * measured.embedding_dim + ROW_BYTES),
        "train": (2 + optimizer) * measured.model_bytes,  # the model, and its last checkpoint with the optimizer
        "evaluate": plan.stored * _DETECTION_BYTES,
    }[plan.stage]


def _times(time: Pace) -> tuple[str, str]:
    low, high = min(time.low, time.mean * (1 - _UNCERTAIN)), max(time.high, time.mean * (1 + _UNCERTAIN))
    return duration(time.mean, rough=True), f"{duration(low, rough=True)} - {duration(high, rough=True)}"


def _notes(recipe: Recipe, images: Mapping[str, ImageSet], measured: Measured, busy: float) -> list[str]:
    notes = [
        f"Measured in {measured.seconds:.0f} s on a few images, in one process. The actual time can lie anywhere "
        "within the bounds; loading models and reading annotations take additional time."
    ]
    if busy > 0.5:
        load = f"load {busy:.1f} on {os.cpu_count()} processors"
        notes.append(f"Other processes were running ({load}). Without them, a run is faster.")
    held = [f"{byte_size(measured.memory_bytes)} of memory" if measured.memory_bytes else "",
            f"{byte_size(measured.device_bytes)} on the GPU" if measured.device_bytes else ""]  # fmt: skip
    if any(held):
        readers = f", plus some for each of its {recipe.data.workers} data workers" if recipe.data.workers else ""
        notes.append(f"Measuring used {' and '.join(filter(None, held))}. A run uses at least that much{readers}.")
    if skipped := sum(len(part.skipped) for part in images.values()):
        notes.append(f"{skipped} bad images or boxes are skipped; ezsd validate lists them.")
    return notes


def _load() -> float:
    """Return the load average of the last minute; 0 if the system does not provide it."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _machine() -> str:
    device = torch.device(this_device())
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} of {os.cpu_count()} processors"

"""Stage 1: adapt the teacher's normalization layers to crops of the train images; everything else is frozen.

The loss is cross-entropy over base names on crops of base objects (arXiv 2303.12145, section "adapting the feature
space"). Only the affine parameters of LayerNorm and BatchNorm change, so the teacher can still separate names that it
is not trained on.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from typing import Any

from ezsd.data.samples import ImageSet
from ezsd.pipeline.context import RunContext
from ezsd.run_metrics import AdaptMetrics, write_metrics
from ezsd.selection.share import ShareChoice, choose_share
from ezsd.teacher import Teacher, save_norms
from ezsd.teacher.adaptation import (
    CropBatches,
    NormsJob,
    accuracies,
    name_crops,
    train_norms,
    usable_boxes,
)
from ezsd.teacher.norms import copy_norms, interpolate_norms, set_norms
from ezsd.utils.device import process_state
from ezsd.utils.files import write_text
from ezsd.utils.format import counted

logger = logging.getLogger(__name__)


def run_adapt(context: RunContext, teacher: Teacher, train: ImageSet, val: ImageSet | None) -> AdaptMetrics:
    """Adapt ``teacher`` in place; write norms.safetensors, confusion.json and metrics.json. Running it again resumes.

    ``confusion.json`` holds ``names``, the number of base names (``base``), and the counts ``before`` and ``after`` as
    [true, predicted, crops], where both indices are positions in ``names``. Without val images it is not written.

    Args:
        context: The run. When ``adapt.enabled`` is false, only the accuracy of the raw teacher is measured.
        teacher: The raw teacher, on the device of the run. Its norm parameters are changed.
        train: Images with base boxes.
        val: Images with boxes of base and novel names, to measure accuracy on. If None, accuracy is not measured.

    Returns:
        The metrics.

    Raises:
        DataError: The train images have no usable base box.
        ArtifactError: The folder holds a checkpoint with other settings, or cannot be written.
    """
    recipe, split, folder = context.recipe, context.split, context.folder
    config = recipe.adapt
    seconds, steps, crops = 0.0, 0, 0
    choice = _choose_share(context, teacher, train)
    started = time.monotonic()

    def measure() -> dict[str, Any] | None:
        return name_crops(teacher, val, split, config, recipe.prompt, context.device)

    if config.enabled:
        batches = CropBatches(train, split.trained, config, recipe.seed)
        steps, crops = batches.steps, config.epochs * len(batches.boxes)
        logger.info(
            f"adapt: {counted(len(batches.boxes), 'base box', 'base boxes')}, {counted(config.epochs, 'epoch')} = "
            f"{counted(steps, 'step')} of {counted(config.batch_size, 'crop')}, forward and backward "
            f"({config.precision})."
        )
        raw = copy_norms(teacher, config.towers)
        job = NormsJob(folder.adapt_checkpoints, folder.adapt_log, begin=lambda: {"before": measure()})
        result = train_norms(teacher, batches, split, recipe.prompt, job)
        set_norms(teacher, interpolate_norms(raw, copy_norms(teacher, config.towers), choice.share))
        before, after, seconds = result.kept["before"], measure(), choice.seconds + result.earlier_seconds
        if process_state().is_main_process:
            save_norms(teacher, folder.norms, config.towers)
    else:
        before, after = measure(), None
    val_crops = 0 if val is None else sum(len(usable_boxes(image, config.min_side)) for image in val)
    metrics = AdaptMetrics(
        **_before_and_after(before, after, len(split.base)), **(_shares(choice) if config.enabled else {}),
        val_crops=val_crops, crops=crops, steps=steps, seconds=round(seconds + time.monotonic() - started, 1),
    )  # fmt: skip
    if process_state().is_main_process:
        if before is not None:
            confusion = {"names": split.names, "base": len(split.base), "before": before["counts"],
                         "after": None if after is None else after["counts"]}  # fmt: skip
            write_text(folder.confusion, json.dumps(confusion))  # not indented: many names give many lines
        write_metrics(folder.metrics("adapt"), metrics)
        shutil.rmtree(folder.adapt_checkpoints, ignore_errors=True)
        shutil.rmtree(folder.adapt_folds, ignore_errors=True)
    process_state().wait_for_everyone()
    return metrics


def _choose_share(context: RunContext, teacher: Teacher, train: ImageSet) -> ShareChoice:
    recipe = context.recipe
    if not recipe.adapt.enabled:
        return ShareChoice(0.0)
    if recipe.adapt.share != "auto":
        return ShareChoice(recipe.adapt.share)
    return choose_share(teacher, train, context.split, recipe, context.folder.adapt_folds, context.device)


def _shares(choice: ShareChoice) -> dict[str, Any]:
    table = {"share_table": choice.table, "share_seconds": round(choice.seconds, 1)} if choice.table else {}
    return {"share": choice.share, **table}


def _before_and_after(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, base: int) -> dict[str, Any]:
    first, last = accuracies(before, base), accuracies(after, base)
    return {f"{name}_{when}": values[name] for name in first for when, values in (("before", first), ("after", last))}

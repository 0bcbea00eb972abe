"""Stage 1: the teacher's normalisation layers learn the look of the photos' crops; everything else is frozen.

Cross-entropy over base names on crops of base objects (arXiv 2303.12145, section "adapting the feature space"). Only
the affine parameters of LayerNorm / BatchNorm move, so the teacher keeps telling names apart that it was not shown.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ezsd.data.categories import CategorySplit
from ezsd.data.samples import ImageSet
from ezsd.recipe import AdaptConfig
from ezsd.teacher import Teacher, save_norms
from ezsd.teacher.adaptation import (
    CropBatches,
    NormsJob,
    accuracies,
    name_crops,
    train_norms,
    usable_boxes,
)
from ezsd.utils.files import write_json, write_text

logger = logging.getLogger(__name__)


def run_adapt(
    teacher: Teacher,
    train: ImageSet,
    val: ImageSet | None,
    split: CategorySplit,
    config: AdaptConfig,
    prompt: str,
    seed: int,
    folder: Path,
    device: str,
) -> dict[str, Any]:
    """Adapt ``teacher`` in place; write ``norms.safetensors`` and what was measured. Run again, it goes on.

    ``confusion.json`` tells which names val crops were told as: ``names``, how many of them are ``base``, and
    ``before`` and ``after`` as [true, told, crops], both indices in ``names``; not written without val photos.

    Every random number comes from (seed, epoch) or (seed, step), so that a resumed run ends at the same weights.
    Under several processes each takes its part of every batch, and gradients are summed.

    Args:
        teacher: on ``device``; its norm parameters are changed.
        train: photos with base boxes.
        val: photos with boxes of base and novel names, to report accuracy on; None: not reported.
        split: base and novel names.
        config: section ``adapt`` of the recipe; not ``enabled``: only the accuracy before is measured.
        prompt: text with ``{name}``.
        seed: of the run.
        folder: where the results go, and the checkpoint until they are there.
        device: where the teacher computes.

    Returns:
        What metrics.json holds: accuracies 0..1 before and after (``accuracy_base`` and ``accuracy_novel`` among all
        names, ``accuracy_novel_among_novel`` among novel names; null = not measured), crops, steps, seconds.

    Raises:
        DataError: no base box to learn from.
        ArtifactError: ``folder`` holds a checkpoint of other settings, or cannot be written.
    """
    began, state = time.monotonic(), PartialState()
    seconds, steps, crops = 0.0, 0, 0
    if config.enabled:
        batches = CropBatches(train, split.base, config, seed)
        steps, crops = batches.steps, config.epochs * len(batches.boxes)
        logger.info(f"Adapt: {len(batches.boxes)} base boxes, {config.epochs} epochs = {steps} steps of "
            f"{config.batch_size} crops, forward and backward ({config.precision}).")  # fmt: skip
        job = NormsJob(
            folder / "checkpoint",
            folder / "log.jsonl",
            begin=lambda: {"before": name_crops(teacher, val, split, config, prompt, device)},
        )
        result = train_norms(teacher, batches, split, prompt, job)
        before, seconds = result.kept["before"], result.earlier_seconds
        after = name_crops(teacher, val, split, config, prompt, device)
        if state.is_main_process:
            save_norms(teacher, folder / "norms.safetensors", config.towers)
    else:
        before, after = name_crops(teacher, val, split, config, prompt, device), None
    metrics: dict[str, Any] = {}
    first, last = (accuracies(named, len(split.base)) for named in (before, after))
    for name in first:
        metrics |= {f"{name}_before": first[name], f"{name}_after": last[name]}
    val_crops = 0 if val is None else sum(len(usable_boxes(image, config.min_side)) for image in val)
    metrics |= {"val_crops": val_crops, "crops": crops, "steps": steps,
                "seconds": round(seconds + time.monotonic() - began, 1)}  # fmt: skip
    if state.is_main_process:
        if before is not None:
            confusion = {"names": split.names, "base": len(split.base), "before": before["counts"],
                         "after": None if after is None else after["counts"]}  # fmt: skip
            write_text(folder / "confusion.json", json.dumps(confusion))  # compact: it may have many lines
        write_json(folder / "metrics.json", metrics)
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    state.wait_for_everyone()
    return metrics

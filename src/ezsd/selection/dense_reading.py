"""Choose the dense reading of a teacher by the accuracy of its embeddings of base boxes.

The raw teacher was not trained on any of the base names, so they stand for the novel names. The boxes of about 100
images are embedded with each reading, as in stage propose, and classified among all names. No box of a novel name is
used.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ezsd.data.categories import CategorySplit
from ezsd.data.prefetch import read_ahead
from ezsd.data.samples import AnnotatedImage, ImageSet, boxes_as_text
from ezsd.recipe import Recipe
from ezsd.run_metrics import ReadingScore
from ezsd.selection.common import FEWEST_NAMES, balanced_images, cached, share_by_name
from ezsd.teacher import Teacher
from ezsd.teacher.base import dense_readings, with_dense_reading
from ezsd.utils.device import autocast, share_of_process
from ezsd.utils.files import digest

IMAGES = 100
_FORMAT = "1"  # increased when the result of a measurement changes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadingChoice:
    """The result of :func:`choose_dense_reading`.

    Attributes:
        reading: The chosen reading.
        table: The accuracy of each reading; empty if none was measured.
        seconds: Duration of the measurements, including those of earlier, interrupted calls.
    """

    reading: str
    table: tuple[ReadingScore, ...] = ()
    seconds: float = 0.0


def choose_dense_reading(
    teacher: Teacher, train: ImageSet, split: CategorySplit, recipe: Recipe, folder: Path, device: str
) -> ReadingChoice:
    """Choose the dense reading; see the module. Finished measurements in ``folder`` are not repeated.

    Args:
        teacher: The raw teacher, on ``device``.
        train: Images with base boxes.
        split: Base and novel names.
        recipe: Its sections ``adapt`` (only ``min_side``) and ``propose``, ``prompt`` and ``seed`` are used.
        folder: The folder of the measurements.
        device: The device of this process.

    Raises:
        ArtifactError: A result cannot be written.
    """
    readings = dense_readings(teacher)
    if len(readings) == 1:
        return ReadingChoice(readings[0])
    images = balanced_images(train, split.base, recipe.adapt.min_side, IMAGES, recipe.seed)
    if not images:
        logger.warning(
            f"propose.dense_reading: auto needs boxes of at least {FEWEST_NAMES} base names; {readings[0]} is used. To "
            f"use another reading, set it to {' or '.join(readings[1:])}."
        )
        return ReadingChoice(readings[0])
    config = recipe.propose
    settings = (f"{config.dense_sides} {config.precision}", recipe.prompt, *split.names, str(len(split.base)))
    key = digest(_FORMAT, teacher.fingerprint, *settings, "images", *map(boxes_as_text, images))

    def measured(reading: str) -> dict[str, Any]:
        read = with_dense_reading(teacher, reading)
        path = folder / f"reading-{reading}.json"
        return cached(path, key, lambda: {"accuracy": _accuracy(read, images, split, recipe, device)})

    results = [measured(reading) for reading in readings]
    table = tuple(
        ReadingScore(reading=reading, accuracy=result["accuracy"])
        for reading, result in zip(readings, results, strict=True)
    )
    best = best_reading(table)
    seconds = sum(result["seconds"] for result in results)
    lines = [f"  {row.reading}: {row.accuracy:.3f}" for row in table]
    logger.info("\n".join([f"propose.dense_reading: {best}, by accuracy of base names ({seconds:.0f} s)", *lines]))
    return ReadingChoice(best, table, seconds)


def best_reading(table: Sequence[ReadingScore]) -> str:
    """Return the reading with the highest accuracy; the first of equally good ones."""
    return max(table, key=lambda row: row.accuracy).reading


@torch.no_grad()
def _accuracy(
    teacher: Teacher, images: Sequence[AnnotatedImage], split: CategorySplit, recipe: Recipe, device: str
) -> float:
    """Return the accuracy of the dense embeddings of the boxes among all names, as the mean over the base names."""
    config, mine = recipe.propose, share_of_process(images)
    names = teacher.encode_names([recipe.prompt.format(name=name) for name in split.names]).float()
    hits, labels = [torch.zeros(0, dtype=torch.bool)], [torch.zeros(0, dtype=torch.long)]
    for image, pixels in zip(mine, read_ahead(mine), strict=True):
        with autocast(device, config.precision):
            embeddings = teacher.dense_embeddings(
                pixels.to(device).float() / 255, image.boxes.to(device), config.dense_sides
            )
        labels.append(image.labels - 1)
        hits.append((embeddings.float() @ names.T).argmax(1).cpu() == labels[-1])
    return statistics.fmean(share_by_name(torch.cat(hits), torch.cat(labels), split.base, device).values())

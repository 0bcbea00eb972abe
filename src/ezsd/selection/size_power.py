"""Choose the size power of ranking ``novel`` by the recall of base boxes, as if their names were novel.

Base names are left out in turn: one name stands among the novel names, the boxes of the other base names are given. The
candidates of some images are ranked with each power. A left-out object is found if one of the first ``keep`` boxes has
an IoU of 0.5 with it, so parts of objects and groups do not count. No box of a novel name is used.

What was trained on the left-out names would prefer their whole objects without any size power. So the teacher is the
raw one, and the objectness of an RPN that was trained on all base boxes is not part of the scores here.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ezsd.data.categories import CategorySplit
from ezsd.data.prefetch import read_ahead
from ezsd.data.samples import AnnotatedImage, ImageSet, boxes_as_text
from ezsd.proposals.candidates import lie_on, select
from ezsd.proposals.proposer import Proposer
from ezsd.recipe import DEFAULT_SIZE_POWER, Recipe
from ezsd.run_metrics import PowerScore
from ezsd.selection.common import FEWEST_NAMES, balanced_images, cached, share_by_name
from ezsd.utils.device import share_of_process
from ezsd.utils.files import digest

POWERS = (0.0, 0.1, 0.25, 0.5)
IMAGES = 60
_FOUND = 0.5  # IoU
_FORMAT = "1"  # increased when the result of a measurement changes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PowerChoice:
    """The result of :func:`choose_size_power`.

    Attributes:
        power: The chosen power.
        table: The recall with each power; empty if there are too few base names.
        seconds: Duration of the measurement.
    """

    power: float
    table: tuple[PowerScore, ...] = ()
    seconds: float = 0.0


def choose_size_power(
    proposer: Proposer, train: ImageSet, split: CategorySplit, recipe: Recipe, path: Path, rpn_digest: str = ""
) -> PowerChoice:
    """Choose the size power; see the module. A finished measurement in ``path`` is not repeated.

    Args:
        proposer: A proposer with the raw teacher. Its ``size_power`` is not used.
        train: Images with base boxes.
        split: Base and novel names.
        recipe: ``adapt.min_side``, ``prompt`` and ``seed`` are used.
        path: The JSON file of the measurement.
        rpn_digest: A digest of the weights of the proposer's RPN.

    Raises:
        ArtifactError: The result cannot be written.
    """
    images = balanced_images(train, split.base, recipe.adapt.min_side, IMAGES, recipe.seed)
    if not images:
        logger.warning(
            f"propose.size_power: auto needs boxes of at least {FEWEST_NAMES} base names; {DEFAULT_SIZE_POWER:g} is "
            "used. To use another power, set it to a number."
        )
        return PowerChoice(DEFAULT_SIZE_POWER)
    settings = (proposer.config.model_copy(update={"size_power": 0.0}).model_dump_json(exclude={"rpn_epochs"}),
                recipe.prompt, *split.names, str(len(split.base)))  # fmt: skip
    key = digest(_FORMAT, proposer.teacher.fingerprint, rpn_digest, *settings, "images", *map(boxes_as_text, images))
    result = cached(path, key, lambda: {"recall": _recall(proposer, images, split)})
    recalls = zip(POWERS, result["recall"], strict=True)
    table = tuple(PowerScore(power=power, recall=recall) for power, recall in recalls)
    best = best_power(table)
    lines = [f"  power {row.power:g}: {row.recall:.3f}" for row in table]
    seconds = result["seconds"]
    logger.info("\n".join([f"propose.size_power: {best:g}, by recall of left-out names ({seconds:.0f} s)", *lines]))
    return PowerChoice(best, table, seconds)


def best_power(table: Sequence[PowerScore]) -> float:
    """Return the power with the highest recall; the smallest of equally good ones."""
    return max(table, key=lambda row: (row.recall, -row.power)).power


@torch.no_grad()
def _recall(proposer: Proposer, images: Sequence[AnnotatedImage], split: CategorySplit) -> list[float]:
    """Return the recall with each power, as the mean over the base names."""
    mine = share_of_process(images)
    hits = [torch.zeros(0, len(POWERS), dtype=torch.bool)]
    labels = [torch.zeros(0, dtype=torch.long)]
    for image, pixels in zip(mine, read_ahead(mine), strict=True):
        pixels = pixels.to(proposer.device).float() / 255
        boxes, _ = proposer.candidate_boxes(image, pixels, image.boxes[:0])
        probabilities = proposer.dense_probabilities(pixels, boxes)
        for label in image.labels.unique():
            is_left_out = image.labels == label
            allowed = ~lie_on(boxes, image.boxes[~is_left_out], proposer.config.base_overlap)
            found = _as_novel(probabilities[allowed], int(label) - 1)
            hits.append(_hits(proposer, boxes[allowed], found, image.boxes[is_left_out]))
            labels.append(image.labels[is_left_out] - 1)
    joined, truth = torch.cat(hits), torch.cat(labels)
    return [
        statistics.fmean(share_by_name(column, truth, split.base, proposer.device).values())
        for column in joined.unbind(1)
    ]


def _as_novel(probabilities: Tensor, name: int) -> Tensor:
    """Move the column of a base name behind those of the novel names, ``[A, C]``."""
    others = [at for at in range(probabilities.shape[1]) if at != name]
    return probabilities[:, [*others, name]]


def _hits(proposer: Proposer, boxes: Tensor, probabilities: Tensor, left_out: Tensor) -> Tensor:
    """Return whether left-out boxes ``[n, 4]`` are found with each power: ``[n, powers]``."""
    columns = []
    for power in POWERS:
        config = proposer.config.model_copy(update={"size_power": power})
        chosen = select(boxes, probabilities, torch.ones(len(boxes)), proposer.base_names - 1, config)
        columns.append((box_iou(left_out, boxes[chosen]) >= _FOUND).any(1))
    return torch.stack(columns, dim=1)

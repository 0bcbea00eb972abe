"""Choose the share of the norm shift by leaving base names out.

Base names are divided into folds. The names of a fold are treated as if they were novel: the teacher is adapted to the
boxes of the other base names, then crops of both groups are classified for each share. No box of a novel name is used;
novel names are candidates of the classification, as text.
"""

from __future__ import annotations

import logging
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ezsd.data.categories import CategorySplit
from ezsd.data.prefetch import read_ahead
from ezsd.data.samples import ImageSet, with_names
from ezsd.recipe import Recipe
from ezsd.run_metrics import ShareScore
from ezsd.selection.common import FEWEST_BOXES, FEWEST_NAMES, Places, boxes_by_name, cached, share_by_name
from ezsd.teacher.adaptation import CropBatches, NormsJob, train_norms
from ezsd.teacher.base import Teacher
from ezsd.teacher.norms import copy_norms, interpolate_norms, set_norms
from ezsd.teacher.regions import crop_regions
from ezsd.utils.device import autocast, process_state, share_of_process
from ezsd.utils.files import digest
from ezsd.utils.seeding import seeded

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
CAUTIOUS_SHARE = 0.25  # with too few base names to leave some out, and the smallest choice: folds train on fewer names
FOLDS = 3
BATCH_DIVISOR = 4  # folds take as many steps as the adaptation, because the shift grows with them, of fewer crops
_HELD_OUT = 5  # every fifth image is not trained on; crops of kept names are taken from these images
_CROPS = 800  # about as many crops are classified for each share and fold
_FEWEST_CROPS = 8  # per name, if there are so many
_ENCODE_BATCH = 256
_FORMAT = "1"  # increased when the result of a fold changes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fold:
    """Base names that are left out, and base names whose boxes are trained on."""

    left_out: tuple[str, ...]
    kept: tuple[str, ...]


@dataclass(frozen=True)
class ShareChoice:
    """The result of :func:`choose_share`.

    Attributes:
        share: The chosen share.
        table: The accuracies of each share; empty if there are too few base names.
        seconds: Duration of all folds, including those of earlier, interrupted calls.
    """

    share: float
    table: tuple[ShareScore, ...] = ()
    seconds: float = 0.0


def choose_share(
    teacher: Teacher, train: ImageSet, split: CategorySplit, recipe: Recipe, folder: Path, device: str
) -> ShareChoice:
    """Choose the share of the norm shift; see the module. Finished folds in ``folder`` are not repeated.

    Args:
        teacher: The raw teacher, on ``device``. Its norms are the raw ones again afterwards.
        train: Images with base boxes.
        split: Base and novel names.
        recipe: Its section ``adapt``, ``prompt`` and ``seed`` are used.
        folder: The folder of the results of folds.
        device: The device of this process.

    Raises:
        ArtifactError: A result cannot be written.
    """
    boxes = boxes_by_name(train, split.base, recipe.adapt.min_side)
    folds = name_folds({name: len(rows) for name, rows in boxes.items() if _is_measured(rows)})
    if not folds:
        logger.warning(
            f"adapt.share: auto needs boxes of at least {FEWEST_NAMES} base names; {CAUTIOUS_SHARE:g} is used. To use "
            "another share, set it to a number."
        )
        return ShareChoice(CAUTIOUS_SHARE)
    measure = _FoldMeasurement(teacher, train, split, recipe, boxes, device)
    results = [measure.cached(fold, folder / f"fold{number}") for number, fold in enumerate(folds)]
    table = _table([result["accuracies"] for result in results])
    share = best_share(table)
    lines = [f"  share {row.share:g}: left-out {row.left_out:.3f}, kept {row.kept:.3f}" for row in table]
    seconds = sum(result["seconds"] for result in results)
    logger.info("\n".join([f"adapt.share: {share:g}, by accuracy of base names ({seconds:.0f} s)", *lines]))
    return ShareChoice(share, table, seconds)


def name_folds(boxes: Mapping[str, int], folds: int = FOLDS) -> list[Fold]:
    """Divide names into folds with about the same number of names and boxes.

    Args:
        boxes: The number of boxes of each name.
        folds: The number of folds.

    Returns:
        The folds, or none if there are fewer than four names. Names keep their order.
    """
    if len(boxes) < FEWEST_NAMES:
        return []
    most = -(-len(boxes) // folds)
    groups: list[list[str]] = [[] for _ in range(folds)]
    for name in sorted(boxes, key=lambda name: -boxes[name]):
        free = [group for group in groups if len(group) < most]
        min(free, key=lambda group: sum(boxes[member] for member in group)).append(name)
    return [
        Fold(tuple(name for name in boxes if name in group), tuple(name for name in boxes if name not in group))
        for group in groups
        if group
    ]


def best_share(table: Sequence[ShareScore]) -> float:
    """Return the share with the best score of those from 0.25; the smallest of equally good ones."""
    return max((row for row in table if row.share >= CAUTIOUS_SHARE), key=lambda row: (row.score, -row.share)).share


def _table(results: Sequence[Mapping[str, Sequence[float]]]) -> tuple[ShareScore, ...]:
    rows = []
    for index, share in enumerate(SHARES):
        left_out, kept = (
            statistics.fmean(result[group][index] for result in results) for group in ("left_out", "kept")
        )
        rows.append(ShareScore(share=share, left_out=left_out, kept=kept, score=score(left_out, kept)))
    return tuple(rows)


def score(left_out: float, kept: float) -> float:
    """Return the harmonic mean of the accuracies of left-out and kept names."""
    return 2 * left_out * kept / (left_out + kept) if left_out + kept else 0.0


def _is_held_out(place: int) -> bool:
    return place % _HELD_OUT == _HELD_OUT - 1


def _is_measured(boxes: Places) -> bool:
    return len(boxes) >= FEWEST_BOXES and not all(_is_held_out(place) for place, _ in boxes)


class _FoldMeasurement:
    """Adapt the teacher without some base names, and measure accuracies for each share."""

    def __init__(
        self,
        teacher: Teacher,
        train: ImageSet,
        split: CategorySplit,
        recipe: Recipe,
        boxes: Mapping[str, Places],
        device: str,
    ) -> None:
        self.teacher, self.train, self.split, self.recipe = teacher, train, split, recipe
        self.boxes, self.device, self.config = boxes, device, recipe.adapt
        every = CropBatches(train, split.base, self.config, recipe.seed)
        self.steps, self.digest = every.steps, every.digest
        self.raw = copy_norms(teacher, self.config.towers)

    def cached(self, fold: Fold, folder: Path) -> dict[str, Any]:
        """Return the result of a fold, from ``folder`` if it was measured with the same inputs.

        The result holds ``key``, ``seconds``, and ``accuracies`` of the groups ``left_out`` and ``kept`` by share.
        """
        settings = (
            self.recipe.adapt.model_dump_json(),
            self.recipe.prompt,
            *self.split.names,
            str(len(self.split.base)),
        )
        key = digest(_FORMAT, self.teacher.weights_digest, self.digest, *settings, "left out", *fold.left_out)
        result = cached(folder.with_suffix(".json"), key, lambda: self._measure(fold, folder))
        if process_state().is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
        return result

    def _measure(self, fold: Fold, checkpoints: Path) -> dict[str, Any]:
        return {"earlier_seconds": self._adapt(fold, checkpoints), "accuracies": self._accuracies(fold)}

    def _adapt(self, fold: Fold, checkpoints: Path) -> float:
        """Train the norms on boxes of the kept names; return the seconds of earlier, interrupted calls."""
        images = [image for place, image in enumerate(self.train.images) if not _is_held_out(place)]
        config = self.config.model_copy(update={"batch_size": -(-self.config.batch_size // BATCH_DIVISOR)})
        batches = CropBatches(replace(self.train, images=images), fold.kept, config, self.recipe.seed, self.steps)
        split = CategorySplit("fold", fold.kept, fold.left_out)
        return train_norms(self.teacher, batches, split, self.recipe.prompt, NormsJob(checkpoints)).earlier_seconds

    @torch.no_grad()
    def _accuracies(self, fold: Fold) -> dict[str, list[float]]:
        crops, labels = self._crops(fold)
        trained = copy_norms(self.teacher, self.config.towers)
        accuracies: dict[str, list[float]] = {"left_out": [], "kept": []}
        for share in SHARES:
            set_norms(self.teacher, interpolate_norms(self.raw, trained, share))
            right = self._right(crops, labels)
            for group, names in (("left_out", fold.left_out), ("kept", fold.kept)):
                known = [right[name] for name in names if name in right]
                accuracies[group].append(statistics.fmean(known) if known else 0.0)
        set_norms(self.teacher, self.raw)
        return accuracies

    def _right(self, crops: Tensor, labels: Tensor) -> dict[str, float]:
        """Return the accuracy of each base name that has crops, among all names."""
        texts = [self.recipe.prompt.format(name=name) for name in self.split.names]
        names = self.teacher.encode_names(texts).float()
        hits = [torch.zeros(0, dtype=torch.bool)]
        for part, truth in zip(crops.split(_ENCODE_BATCH), labels.split(_ENCODE_BATCH), strict=True):
            with autocast(self.device, self.config.precision):
                embeddings = self.teacher.encode_crops(part.to(self.device).float() / 255)
            hits.append((embeddings.float() @ names.T).argmax(1).cpu() == truth)
        return share_by_name(torch.cat(hits), labels, self.split.base, self.device)

    def _crops(self, fold: Fold) -> tuple[Tensor, Tensor]:
        """Return crops ``[n, 3, S, S]`` uint8 of this process and their labels ``[n]`` among the base names."""
        most = max(_FEWEST_CROPS, _CROPS // (len(fold.left_out) + len(fold.kept)))
        rows_of: dict[int, list[int]] = {}
        for index, name in enumerate((*fold.left_out, *fold.kept)):
            found = [box for box in self.boxes[name] if name in fold.left_out or _is_held_out(box[0])]
            for at in torch.randperm(len(found), generator=seeded(self.recipe.seed, 2, index))[:most].tolist():
                rows_of.setdefault(found[at][0], []).append(found[at][1])
        size, places = self.teacher.input_size, share_of_process(sorted(rows_of))
        crops, labels = [torch.zeros(0, 3, size, size, dtype=torch.uint8)], [torch.zeros(0, dtype=torch.long)]
        for place, pixels in zip(places, read_ahead([self.train.images[place] for place in places]), strict=True):
            known, rows = (
                with_names(self.train.images[place], self.train.names, self.split.base),
                sorted(rows_of[place]),
            )
            crops.append((crop_regions(pixels, known.boxes[rows], size) * 255).round().byte())
            labels.append(known.labels[rows] - 1)
        return torch.cat(crops), torch.cat(labels)

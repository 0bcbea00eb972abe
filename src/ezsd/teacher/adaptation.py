"""Train the teacher's normalisation layers on crops of base objects, and measure its accuracy on crops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import reduce
from torch import Tensor, nn
from torch.nn import functional as F

from ezsd.data.categories import CategorySplit
from ezsd.data.prefetch import ImageCache, read_ahead
from ezsd.data.samples import AnnotatedImage, ImageSet, with_names
from ezsd.errors import DataError
from ezsd.recipe import AdaptConfig
from ezsd.teacher import Teacher
from ezsd.teacher.encode import encode_regions
from ezsd.teacher.regions import crop_regions
from ezsd.training.loop import LoopResult, OnStep, Task, run_loop
from ezsd.utils.device import autocast, new_accelerator, process_state, share_of_process
from ezsd.utils.files import digest
from ezsd.utils.progress import track
from ezsd.utils.seeding import seeded

_GROUP = 64  # images whose boxes are mixed into batches together, so that each is decoded about once an epoch
KEPT_IMAGES = 2 * _GROUP  # decoded, in memory; so few or fewer are decoded once for all epochs
_CHECKPOINT_FORMAT = "2"  # raised when a checkpoint holds other values
_EVALUATE_BATCH = 256


def train_norms(teacher: Teacher, batches: CropBatches, split: CategorySplit, prompt: str, job: NormsJob) -> LoopResult:
    """Train the norm parameters of ``teacher`` in place, from the last checkpoint if there is one.

    Under several processes each takes its part of every batch, and gradients are summed.

    Args:
        teacher: on the device of this process.
        batches: crops of base boxes; their ``config`` is that of the training.
        split: base and novel names.
        prompt: text with ``{name}``.
        job: where it is kept.

    Raises:
        ArtifactError: there is a checkpoint of another training, or the disk is full.
    """
    config = batches.config
    accelerator = new_accelerator(config.precision)
    parameters = teacher.norm_parameters(config.towers)
    optimizer = torch.optim.AdamW(parameters.values(), lr=config.lr, weight_decay=config.weight_decay)
    depends_on = (teacher.weights_digest, config.model_dump_json(), prompt, *split.names, batches.digest)
    texts = [prompt.format(name=name) for name in split.base]
    loss_of = _crop_loss(teacher, texts, config.balance * batches.log_shares(len(split.base)), config)
    device = str(accelerator.device)

    def losses(step: int) -> Iterator[Mapping[str, Tensor]]:
        yield {"loss_names": loss_of(*batches.crops(step, teacher.input_size, device))}

    task = Task(
        name="Adapt",
        parameters=list(parameters.values()),
        tensors=parameters,
        optimizer=accelerator.prepare(optimizer),
        losses=losses,
        steps=batches.steps,
        rate=lambda _: config.lr,
        clip_norm=config.clip_norm,
        checkpoints=job.checkpoints,
        steps_per_epoch=batches.steps_an_epoch,
        log=job.log,
        key=digest(_CHECKPOINT_FORMAT, *depends_on),
        begin=job.begin,
        sum_gradients=True,
    )
    with _trainable(parameters):
        return run_loop(task, accelerator, batches.seed, job.on_step)


@dataclass(frozen=True)
class NormsJob:
    """Where the training of norms is kept.

    Attributes:
        checkpoints: their folder.
        log: gets one JSON line every 10 steps; None = no file.
        begin: see :class:`ezsd.training.loop.Task`.
        on_step: see :func:`ezsd.training.loop.run_loop`.
    """

    checkpoints: Path
    log: Path | None = None
    begin: Callable[[], Mapping[str, Any]] = dict
    on_step: OnStep | None = None


def _crop_loss(
    teacher: Teacher, texts: Sequence[str], offsets: Tensor, config: AdaptConfig
) -> Callable[[Tensor, Tensor, int], Tensor]:
    """Cross-entropy: crops ``[n, 3, S, S]`` and labels ``[n]`` of this process, crops of all processes -> loss.

    ``offsets`` [C] are added to the logits while training: with the log share of each name, the embeddings need not
    learn that some names are frequent, and keep more of the others (logit adjustment, Menon et al. 2021, eq. 10).
    """
    with torch.no_grad():
        fixed = None if "text" in config.towers else teacher.encode_names(texts).float()

    def loss_of(crops: Tensor, labels: Tensor, total: int) -> Tensor:
        with autocast(str(crops.device), config.precision):
            names = teacher.encode_names(texts) if fixed is None else fixed
            embeddings = teacher.encode_crops(crops)
        logits = teacher.logit_scale * embeddings.float() @ names.float().T + offsets.to(crops.device)
        return F.cross_entropy(logits, labels, reduction="sum") / total

    return loss_of


@contextmanager
def _trainable(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_(False)
            parameter.grad = None


class CropBatches:
    """Crops of base boxes by step. An epoch mixes the boxes of 64 shuffled images at a time.

    Args:
        train: images with base boxes.
        base: base names; label i + 1 of an image need not be name i.
        config: section ``adapt``.
        seed: of the run.

    Raises:
        DataError: there is no box.
    """

    def __init__(self, train: ImageSet, base: Sequence[str], config: AdaptConfig, seed: int) -> None:
        self.images, self.config, self.seed = train.images, config, seed
        self.of_image: list[list[int]] = []  # rows of boxes, by image
        owners: list[int] = []
        boxes, labels = [], []
        for place, image in enumerate(train.images):
            known = with_names(image, train.names, base)
            rows = usable_boxes(known, config.min_side)
            self.of_image.append(list(range(len(owners), len(owners) + len(rows))))
            owners += [place] * len(rows)
            boxes.append(known.boxes[rows])
            labels.append(known.labels[rows] - 1)
        if not owners:
            raise DataError(f"adapt: none of the {len(train)} images has a base box of at least "
                            f"{config.min_side:g} pixels. Lower adapt.min_side, or check the split.")  # fmt: skip
        self.boxes, self.labels, self.owners = torch.cat(boxes), torch.cat(labels), owners
        self.steps_an_epoch = math.ceil(len(owners) / config.batch_size)
        self.steps = self.steps_an_epoch * config.epochs
        self._order = lru_cache(maxsize=2)(self._order_of)
        self._reader = ImageCache(train.images, KEPT_IMAGES)

    @property
    def digest(self) -> str:
        """Of everything that the order and the content of batches come from."""
        values = (self.boxes.numpy().tobytes(), self.labels.numpy().tobytes(), str(self.owners), str(self.seed))
        return digest(*values)

    def log_shares(self, names: int) -> Tensor:
        """Logarithm of each base name's share of the boxes ``[names]``; a name without a box counts as one box."""
        return torch.bincount(self.labels, minlength=names).clamp(min=1).div(len(self.labels)).log()

    def crops(self, step: int, size: int, device: str) -> tuple[Tensor, Tensor, int]:
        """This process's crops ``[n, 3, size, size]`` and labels ``[n]`` of a step, and the step's crops in all."""
        rows = self._rows(step)
        self._reader.ask([self.owners[row] for row in rows + (self._rows(step + 1) if step + 1 < self.steps else [])])
        boxes = self.boxes[rows]
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        moves = torch.rand(boxes.shape, generator=seeded(self.seed, 1, step)) * 2 - 1
        boxes = boxes + moves * sides * self.config.jitter
        state = process_state()
        owner_of = [self.owners[row] for row in rows]
        mine = sorted(range(state.process_index, len(rows), state.num_processes), key=owner_of.__getitem__)
        parts = []
        for owner, places in groupby(mine, key=owner_of.__getitem__):
            parts.append(crop_regions(self._reader.get(owner).to(device), boxes[list(places)].to(device), size))
        crops = torch.cat(parts) if parts else torch.zeros(0, 3, size, size, device=device)
        return crops, self.labels[rows][mine].to(device), len(rows)

    def _rows(self, step: int) -> list[int]:
        epoch, place = divmod(step, self.steps_an_epoch)
        return self._order(epoch)[place * self.config.batch_size :][: self.config.batch_size]

    def _order_of(self, epoch: int) -> list[int]:
        numbers = seeded(self.seed, 0, epoch)
        images = torch.randperm(len(self.images), generator=numbers).tolist()
        order: list[int] = []
        for start in range(0, len(images), _GROUP):
            rows = [row for image in images[start : start + _GROUP] for row in self.of_image[image]]
            order += [rows[place] for place in torch.randperm(len(rows), generator=numbers).tolist()]
        return order


def usable_boxes(image: AnnotatedImage, min_side: float) -> list[int]:
    """Rows of the boxes that are no crowd and whose longer side has at least ``min_side`` pixels."""
    longer = (image.boxes[:, 2:] - image.boxes[:, :2]).amax(1)
    rows: list[int] = ((longer >= min_side) & ~image.crowd).nonzero()[:, 0].tolist()
    return rows


@torch.no_grad()
def name_crops(
    teacher: Teacher, val: ImageSet | None, split: CategorySplit, config: AdaptConfig, prompt: str, device: str
) -> dict[str, Any] | None:
    """Let the teacher name the ground-truth crops of ``val``.

    Returns:
        JSON values: ``counts`` [true, told, crops] among all names, and of the novel crops how many are right
        ``among_novel`` names; None without images.
    """
    if val is None:
        return None
    base, size = len(split.base), len(split.names)
    images = [with_names(image, val.names, split.names) for image in share_of_process(val.images)]
    rows = [usable_boxes(image, config.min_side) for image in images]
    boxes = [image.boxes[kept] for image, kept in zip(images, rows, strict=True)]
    regions = zip(read_ahead(images), boxes, strict=True)
    texts = teacher.encode_names([prompt.format(name=name) for name in split.names]).float().cpu()
    counts, among = torch.zeros(size * size), torch.zeros(1)
    with track(len(images), "Accuracy of crops") as advance:
        embedded = encode_regions(teacher, regions, _EVALUATE_BATCH, device, config.precision)
        for image, kept, embeddings in zip(images, rows, embedded, strict=True):
            labels = image.labels[kept] - 1
            cosines = embeddings @ texts.T
            counts += torch.bincount(labels * size + cosines.argmax(1), minlength=size * size)
            if base < size:
                among += (cosines[:, base:].argmax(1) + base == labels).sum()
            advance(1, "")
    counts, among = reduce(counts.to(device), "sum").cpu(), reduce(among.to(device), "sum").cpu()
    cells = counts.nonzero()[:, 0].tolist()
    return {"counts": [[*divmod(cell, size), int(counts[cell])] for cell in cells], "among_novel": int(among)}


def accuracies(counts_of_names: Mapping[str, Any] | None, base: int) -> dict[str, float | None]:
    """Share of right crops: base and novel among all names, novel among novel names; None = not measured."""
    counts = [] if counts_of_names is None else counts_of_names["counts"]
    total, right = [0, 0], [0, 0]
    for true, said, crops in counts:
        total[true >= base] += crops
        right[true >= base] += crops if true == said else 0
    hits = (*right, 0 if counts_of_names is None else counts_of_names["among_novel"])
    shares = (hit / crops if crops else None for hit, crops in zip(hits, (*total, total[1]), strict=True))
    return dict(zip(("accuracy_base", "accuracy_novel", "accuracy_novel_among_novel"), shares, strict=True))

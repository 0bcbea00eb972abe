"""Train the teacher's normalization layers on crops of base objects, and measure its accuracy on crops."""

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

_GROUP = 64  # boxes are shuffled within groups of this many images, so each image is decoded about once per epoch
KEPT_IMAGES = 2 * _GROUP  # decoded images kept in memory; smaller training sets are decoded only once
_CHECKPOINT_FORMAT = "2"  # increased when the content of checkpoints changes
_EVALUATE_BATCH = 256


def train_norms(teacher: Teacher, batches: CropBatches, split: CategorySplit, prompt: str, job: NormsJob) -> LoopResult:
    """Train the norm parameters of ``teacher`` in place, resuming from the last checkpoint if one exists.

    With several processes, each process takes its part of every batch, and gradients are summed.

    Args:
        teacher: The teacher, on the device of this process.
        batches: Crops of base boxes; ``batches.config`` is the training config.
        split: Base and novel names.
        prompt: Text with ``{name}``.
        job: Paths and callbacks of the training.

    Raises:
        ArtifactError: If a checkpoint belongs to another training, or the disk is full.
    """
    config = batches.config
    accelerator = new_accelerator(config.precision)
    parameters = teacher.norm_parameters(config.towers)
    optimizer = torch.optim.AdamW(parameters.values(), lr=config.lr, weight_decay=config.weight_decay)
    settings = config.model_dump_json(exclude={"share"})  # the share is applied after the training
    depends_on = (teacher.weights_digest, settings, prompt, *split.names, batches.digest)
    texts = [prompt.format(name=name) for name in split.trained]
    loss_of = _crop_loss(teacher, texts, config.balance * batches.log_shares(len(split.trained)), config)
    device = str(accelerator.device)

    def losses(step: int) -> Iterator[Mapping[str, Tensor]]:
        yield {"loss_names": loss_of(*batches.crops(step, teacher.input_size, device))}

    task = Task(
        name="adapt",
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
    """Paths and callbacks of the training of norms.

    Attributes:
        checkpoints: Folder of the checkpoints.
        log: File that gets one JSON line every 10 steps; None = no file.
        begin: See :class:`ezsd.training.loop.Task`.
        on_step: See :func:`ezsd.training.loop.run_loop`.
    """

    checkpoints: Path
    log: Path | None = None
    begin: Callable[[], Mapping[str, Any]] = dict
    on_step: OnStep | None = None


def _crop_loss(
    teacher: Teacher, texts: Sequence[str], offsets: Tensor, config: AdaptConfig
) -> Callable[[Tensor, Tensor, int], Tensor]:
    """Return the loss function: crops ``[n, 3, S, S]``, labels ``[n]``, number of crops in all processes -> loss.

    The loss is cross-entropy. ``offsets`` [C] are added to the logits during training: with the log share of each
    name as offset, the embeddings do not have to encode how frequent a name is, which favors rare names (logit
    adjustment, Menon et al. 2021, eq. 10).
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
    """Crops of base boxes by step. Each epoch shuffles the images, then the boxes within groups of 64 images.

    Args:
        train: Images with base boxes.
        base: Base names; they can be ordered differently from ``train.names``.
        config: The recipe's section ``adapt``.
        seed: The seed of the run.
        steps: The number of steps; None = ``config.epochs`` epochs.

    Raises:
        DataError: If no image has a usable base box.
    """

    def __init__(
        self, train: ImageSet, base: Sequence[str], config: AdaptConfig, seed: int, steps: int | None = None
    ) -> None:
        self.images, self.config, self.seed = train.images, config, seed
        self.of_image: list[list[int]] = []  # indices of boxes, by image
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
        self.steps = steps or self.steps_an_epoch * config.epochs
        self._order = lru_cache(maxsize=2)(self._order_of)
        self._reader = ImageCache(train.images, KEPT_IMAGES)

    @property
    def digest(self) -> str:
        """Digest of everything that determines the order and content of the batches."""
        values = (self.boxes.numpy().tobytes(), self.labels.numpy().tobytes(), str(self.owners), str(self.seed))
        return digest(*values)

    def log_shares(self, names: int) -> Tensor:
        """Return the log of each name's share of the boxes ``[names]``; a name without boxes counts as one box."""
        return torch.bincount(self.labels, minlength=names).clamp(min=1).div(len(self.labels)).log()

    def crops(self, step: int, size: int, device: str) -> tuple[Tensor, Tensor, int]:
        """Return the crops ``[n, 3, size, size]`` and labels ``[n]`` of this process, and the step's total of crops."""
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
    """Return the indices of the boxes that are not crowds and whose longer side is at least ``min_side`` pixels."""
    longer = (image.boxes[:, 2:] - image.boxes[:, :2]).amax(1)
    rows: list[int] = ((longer >= min_side) & ~image.crowd).nonzero()[:, 0].tolist()
    return rows


@torch.no_grad()
def name_crops(
    teacher: Teacher, val: ImageSet | None, split: CategorySplit, config: AdaptConfig, prompt: str, device: str
) -> dict[str, Any] | None:
    """Classify the ground-truth crops of ``val`` with the teacher.

    Returns:
        JSON values: ``counts``, a list of [true name, predicted name, number of crops] over all names, and
        ``among_novel``, the number of novel crops classified correctly among the novel names. None if ``val`` is None.
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
    """Return the accuracies of base and novel crops among all names, and of novel crops among novel names.

    None = not measured.
    """
    counts = [] if counts_of_names is None else counts_of_names["counts"]
    total, right = [0, 0], [0, 0]
    for true, predicted, crops in counts:
        total[true >= base] += crops
        right[true >= base] += crops if true == predicted else 0
    hits = (*right, 0 if counts_of_names is None else counts_of_names["among_novel"])
    shares = (hit / crops if crops else None for hit, crops in zip(hits, (*total, total[1]), strict=True))
    return dict(zip(("accuracy_base", "accuracy_novel", "accuracy_novel_among_novel"), shares, strict=True))

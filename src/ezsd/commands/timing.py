"""How long the work of each stage takes on this machine: the stages' own code on a few photos, for about a minute.

What the stages would write goes to a temporary folder and is removed.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ezsd.data.categories import CategorySplit
from ezsd.data.prefetch import read_ahead
from ezsd.data.samples import AnnotatedImage, ImageSet, images_with
from ezsd.data.target_store import Regions, write_index, write_shard
from ezsd.detector.proposal_network import ProposalNetwork, build_proposal_network
from ezsd.detector.rcnn import Rcnn, build_detector
from ezsd.inference.batching import detect_annotated
from ezsd.pipeline.train import run_train, wants_masks
from ezsd.pipeline.workload import Pace, Work
from ezsd.proposals.base_rpn import train_base_rpn
from ezsd.proposals.candidates import anchor_grid
from ezsd.proposals.proposer import propose_images
from ezsd.proposals.recall import measure_proposals
from ezsd.recipe import ProposeConfig, Recipe, needs_targets
from ezsd.teacher import Teacher, load_teacher, text_embeddings
from ezsd.teacher.adaptation import CropBatches, NormsJob, name_crops, train_norms, usable_boxes
from ezsd.utils.device import this_device
from ezsd.utils.log import quiet

_SECONDS: Mapping[Work, float] = {  # that measuring may take
    "read an image": 1.0, "adapt step": 9.0, "rpn step": 6.0, "propose in an image": 10.0, "train step": 12.0,
    "detect in an image": 5.0, "recall of an image": 4.0,
}  # fmt: skip
_SAMPLE = 64  # photos that are looked at, at most
_VAL_SAMPLE = 8  # of them for the accuracy of crops
_GRID = 256  # boxes of a coarser grid that stands for the whole in exhaustive scoring
_ENDLESS = 1e5  # epochs
_UNSAVED: Mapping[str, Any] = {"checkpoint_steps": 10**9, "trackers": ()}


@dataclass(frozen=True)
class Measured:
    """What :func:`measure` found.

    Attributes:
        paces: by kind of work; what the recipe or the photos have no use for is not there.
        embedding_dim: of the teacher.
        norm_bytes: of the teacher's parameters that are trained.
        model_bytes: of the detector.
        memory_bytes: most that this process has held; None where the system does not tell.
        device_bytes: most that it has held on the GPU; None without one.
        seconds: that measuring took.
    """

    paces: Mapping[Work, Pace]
    embedding_dim: int
    norm_bytes: int
    model_bytes: int
    memory_bytes: int | None
    device_bytes: int | None
    seconds: float


@quiet()
def measure(recipe: Recipe, split: CategorySplit, train: ImageSet, val: ImageSet) -> Measured:
    """Run a little of every stage.

    Args:
        recipe: what would be run.
        split: of the recipe.
        train: the train part, base boxes.
        val: the val part, base and novel boxes.

    Raises:
        EzsdError: as the stages: the teacher cannot be loaded, a photo cannot be read.
    """
    began, device = time.monotonic(), this_device()
    teacher = load_teacher(recipe.teacher, device)
    some, paces = _spread(train.images, _SAMPLE), dict[Work, Pace]()
    paces["read an image"] = _pace_per_image(lambda group: list(read_ahead(group)), some, 8, "read an image")
    torch.manual_seed(recipe.seed)
    masks = wants_masks(recipe, train)
    model = build_detector(recipe.detector, teacher.embedding_dim, masks, pretrained=False).to(device).eval()
    model_bytes = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    with TemporaryDirectory(prefix="ezsd-plan-", ignore_cleanup_errors=True) as name:
        folder, used = Path(name), some
        rpn = _untrained_rpn(recipe, device) if recipe.propose.asks_rpn else None
        if needs_targets(recipe.train):
            if rpn is not None:
                paces["rpn step"] = _train_rpn(recipe, split, replace(train, images=some), folder / "targets")
            paces["propose in an image"], used = _propose(recipe, split, teacher, rpn, some, folder / "targets", device)
        paces["train step"] = _train(recipe, split, replace(train, images=used), teacher, folder)
        paces |= _evaluate(recipe, split, val, teacher, model, rpn, device)
        paces |= _adapt(recipe, split, train, val, teacher, folder / "adapt", device)  # last: the teacher changes
    norms = teacher.norm_parameters(recipe.adapt.towers).values()
    on_gpu = torch.device(device).type == "cuda"
    return Measured(
        paces, teacher.embedding_dim, sum(4 * parameter.numel() for parameter in norms), model_bytes, _memory(),
        torch.cuda.max_memory_allocated() if on_gpu else None, time.monotonic() - began,
    )  # fmt: skip


class StepTimer:
    """Collects the seconds of training steps, and ends the training when its time is over.

    Args:
        limit: seconds.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        return sum(self.seconds) < self.limit

    @property
    def warm(self) -> list[float]:
        """Seconds of the steps after the first one, which also loads data and compiles kernels."""
        return self.seconds[1:] or self.seconds

    def pace(self) -> Pace:
        """Return the pace of a step."""
        return Pace.of(self.warm)


def _spread(images: Sequence[AnnotatedImage], count: int) -> list[AnnotatedImage]:
    """At most ``count`` photos, evenly from all."""
    count = min(count, len(images))
    return [images[place * len(images) // count] for place in range(count)]


def _pace_per_image(
    work: Callable[[list[AnnotatedImage]], object], images: Sequence[AnnotatedImage], size: int, kind: Work
) -> Pace:
    """Pace of ``work`` a photo: one photo to warm up, then groups of ``size`` until the time is over."""
    began = time.monotonic()
    seconds: list[float] = []
    work(list(images[:1]))
    first = time.monotonic() - began
    rest = images[1:] or images
    for start in range(0, len(rest), size):
        last = time.monotonic()
        if last - began >= _SECONDS[kind]:
            break
        group = list(rest[start : start + size])
        work(group)
        seconds.append((time.monotonic() - last) / len(group))
    return Pace.of(seconds or [first])


def _untrained_rpn(recipe: Recipe, device: str) -> ProposalNetwork:
    config = recipe.detector.model_copy(update={"rpn_proposals": recipe.propose.shortlist})
    return build_proposal_network(config, pretrained=False).eval().to(device)


def _train_rpn(recipe: Recipe, split: CategorySplit, images: ImageSet, folder: Path) -> Pace:
    endless = recipe.model_copy(update={
        "propose": recipe.propose.model_copy(update={"rpn_epochs": _ENDLESS}),
        "train": recipe.train.model_copy(update=_UNSAVED),
    })  # fmt: skip
    timer = StepTimer(_SECONDS["rpn step"])
    train_base_rpn(endless, split.base, images, folder, timer)
    return timer.pace()


def _propose(
    recipe: Recipe, split: CategorySplit, teacher: Teacher, rpn: ProposalNetwork | None,
    images: Sequence[AnnotatedImage], folder: Path, device: str,
) -> tuple[Pace, list[AnnotatedImage]]:  # fmt: skip
    """Pace of stage propose; the targets of the photos that were done are written to ``folder``."""
    text = text_embeddings(teacher, split.names, recipe.prompt)
    config, factor = _affordable(recipe.propose, images[0])
    found: dict[int, Regions] = {}

    def work(group: list[AnnotatedImage]) -> None:
        boxes = [(image.boxes[~image.crowd], image.labels[~image.crowd]) for image in group]
        regions = propose_images(teacher, group, boxes, text, len(split.base), config, device, rpn)
        found.update(zip((image.image_id for image in group), regions, strict=True))

    # About one full batch of crops; a CPU has nothing to gain from it, and more, smaller groups tell more.
    size = 1 if device == "cpu" else max(1, config.batch_size // config.keep)
    pace = _pace_per_image(work, images, size, "propose in an image") * factor
    write_shard(folder / "shard.arrow", found, {})
    write_index(folder, [folder / "shard.arrow"], {})
    return pace, [image for image in images if image.image_id in found]


def _affordable(config: ProposeConfig, image: AnnotatedImage) -> tuple[ProposeConfig, float]:
    """Settings whose measurement ends soon, and by what its time is multiplied; only exhaustive scoring needs it."""
    if config.scoring != "exhaustive":
        return config, 1.0
    grid = len(anchor_grid(image.height, image.width, config))
    stride = config.stride * max(1, math.ceil(math.sqrt(grid / _GRID)))
    coarse = config.model_copy(update={"stride": stride})
    return coarse, grid / len(anchor_grid(image.height, image.width, coarse))


def _train(recipe: Recipe, split: CategorySplit, images: ImageSet, teacher: Teacher, folder: Path) -> Pace:
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": _ENDLESS, **_UNSAVED})})
    targets = folder / "targets" if needs_targets(recipe.train) else None
    timer = StepTimer(_SECONDS["train step"])
    run_train(recipe, split, images, targets, teacher, None, folder / "train", timer)
    return timer.pace()


@torch.no_grad()
def _evaluate(
    recipe: Recipe, split: CategorySplit, val: ImageSet, teacher: Teacher, model: Rcnn, rpn: ProposalNetwork | None,
    device: str,
) -> dict[Work, Pace]:  # fmt: skip
    """Paces of stage evaluate, with a detector that is not trained."""
    paces: dict[Work, Pace] = {}
    text, size = text_embeddings(teacher, split.names, recipe.prompt), recipe.evaluate.batch_size

    def detect(group: list[AnnotatedImage]) -> None:
        for first in (0, len(split.base)) if split.novel else (0,):  # gzsd and zsd
            labels = range(first + 1, len(split.names) + 1)
            detect_annotated(model, group, text[first:], labels, size)

    paces["detect in an image"] = _pace_per_image(detect, _spread(val.images, _SAMPLE), size, "detect in an image")
    novel = images_with(val, split.novel)
    if recipe.evaluate.proposals and novel:
        config, factor = _affordable(recipe.propose, novel[0])

        def recall(group: list[AnnotatedImage]) -> None:
            part = replace(val, images=group)
            measure_proposals(teacher, part, split, config, recipe.prompt, device, rpn=rpn)

        pace = _pace_per_image(recall, _spread(novel, _SAMPLE), 1, "recall of an image")
        paces["recall of an image"] = pace * factor
    return paces


def _adapt(
    recipe: Recipe, split: CategorySplit, train: ImageSet, val: ImageSet, teacher: Teacher, folder: Path, device: str
) -> dict[Work, Pace]:
    """Paces of stage adapt; the teacher is changed."""
    paces: dict[Work, Pace] = {}
    config = recipe.adapt.model_copy(update={"epochs": max(recipe.adapt.epochs, 1000)})
    some = replace(val, images=_spread(val.images, _VAL_SAMPLE))
    if crops := sum(len(usable_boxes(image, config.min_side)) for image in some):
        began = time.monotonic()
        name_crops(teacher, some, split, config, recipe.prompt, device)
        paces["look at a crop"] = Pace.of([(time.monotonic() - began) / crops])
    if config.enabled:
        timer = StepTimer(_SECONDS["adapt step"])
        batches = CropBatches(train, split.base, config, recipe.seed)
        train_norms(teacher, batches, split, recipe.prompt, NormsJob(folder, on_step=timer))
        # The first steps read the images of many later ones, so the median; reading is counted separately.
        pace = timer.pace()
        paces["adapt step"] = Pace(statistics.median(timer.warm), pace.low, pace.high)
    return paces


def _memory() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(largest) if sys.platform == "darwin" else int(largest) * 1024

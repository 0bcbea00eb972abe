"""Measure the pace of each stage on this machine by running its code on a few images for about a minute.

The files that the stages write go to a temporary folder, which is removed.
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

import torch

from ezsd.data.categories import CategorySplit
from ezsd.data.prefetch import read_ahead
from ezsd.data.samples import AnnotatedImage, ImageSet, images_with, with_names
from ezsd.data.target_store import Regions, write_index, write_shard
from ezsd.detector.proposal_network import ProposalNetwork, build_proposal_network
from ezsd.detector.rcnn import Rcnn, build_detector
from ezsd.inference.batching import detect_annotated
from ezsd.pipeline.choices import with_choices
from ezsd.pipeline.context import RunContext
from ezsd.pipeline.train import run_train, wants_masks
from ezsd.pipeline.workload import Pace, Work
from ezsd.proposals.base_rpn import train_base_rpn
from ezsd.proposals.candidates import anchor_grid
from ezsd.proposals.proposer import Proposer
from ezsd.proposals.recall import measure_proposals
from ezsd.recipe import ProposeConfig, Recipe, needs_targets
from ezsd.run_folder import RunFolder
from ezsd.run_metrics import ProposeMetrics
from ezsd.teacher import Teacher, load_teacher, text_embeddings
from ezsd.teacher.adaptation import CropBatches, NormsJob, name_crops, train_norms, usable_boxes
from ezsd.teacher.base import with_dense_reading
from ezsd.utils.device import this_device
from ezsd.utils.log import quiet

_SECONDS: Mapping[Work, float] = {  # time limit of each measurement
    "read an image": 1.0, "adapt step": 9.0, "rpn step": 6.0, "propose in an image": 10.0, "train step": 12.0,
    "detect in an image": 5.0, "recall of an image": 4.0,
}  # fmt: skip
_SAMPLE = 64  # maximum number of images
_VAL_SAMPLE = 8  # maximum number of images for the accuracy of crops
_GRID = 256  # boxes of the coarse grid that represents the full grid of exhaustive scoring
_ENDLESS = 1e5  # epochs


@dataclass(frozen=True)
class Measured:
    """The result of :func:`measure`.

    Attributes:
        paces: The pace by kind of work; kinds that the recipe does not need are missing.
        embedding_dim: The embedding size of the teacher.
        norm_bytes: The size of the teacher's trained parameters.
        model_bytes: The size of the detector.
        memory_bytes: The peak memory of this process; None if the system does not provide it.
        device_bytes: The peak GPU memory of this process; None without a GPU.
        seconds: The duration of the measurement.
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
    """Run a sample of every stage and measure it.

    Args:
        recipe: The recipe to measure.
        split: The split of the recipe.
        train: The train part with base boxes.
        val: The val part with base and novel boxes.

    Raises:
        EzsdError: The teacher cannot be loaded, or an image cannot be read.
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
        context, used = RunContext(_unsaved(recipe), split, RunFolder(Path(name)), device), some
        rpn = _untrained_rpn(recipe, device) if recipe.propose.asks_rpn else None
        text = text_embeddings(teacher, split.names, recipe.prompt)
        config = with_choices(recipe.propose, ProposeMetrics())  # readings and powers take about the same time
        reading = with_dense_reading(teacher, config.dense_reading)
        proposer = Proposer(reading, text, len(split.base), config, device, rpn)
        if needs_targets(recipe.train):
            if rpn is not None:
                paces["rpn step"] = _train_rpn(context, replace(train, images=some))
            paces["propose in an image"], used = _propose(context, proposer, replace(train, images=some))
        paces["train step"] = _train(context, replace(train, images=used), teacher)
        paces |= _evaluate(context, val, model, proposer)
        paces |= _adapt(context, train, val, teacher)  # last, because it changes the teacher
    norms = teacher.norm_parameters(recipe.adapt.towers).values()
    on_gpu = torch.device(device).type == "cuda"
    return Measured(
        paces, teacher.embedding_dim, sum(4 * parameter.numel() for parameter in norms), model_bytes, _memory(),
        torch.cuda.max_memory_allocated() if on_gpu else None, time.monotonic() - began,
    )  # fmt: skip


class StepTimer:
    """Collect the durations of training steps, and end the training after a time limit.

    Args:
        limit: The time limit, seconds.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        return sum(self.seconds) < self.limit

    @property
    def warm(self) -> list[float]:
        """The seconds of all steps except the first one, which also loads data and compiles kernels."""
        return self.seconds[1:] or self.seconds

    def pace(self) -> Pace:
        """Return the pace of a step."""
        return Pace.of(self.warm)


def _spread(images: Sequence[AnnotatedImage], count: int) -> list[AnnotatedImage]:
    """Return at most ``count`` images, evenly spaced."""
    count = min(count, len(images))
    return [images[place * len(images) // count] for place in range(count)]


def _pace_per_image(
    work: Callable[[list[AnnotatedImage]], object], images: Sequence[AnnotatedImage], size: int, kind: Work
) -> Pace:
    """Return the pace of ``work`` per image: one image to warm up, then groups of ``size`` up to the time limit."""
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


def _unsaved(recipe: Recipe) -> Recipe:
    """Return the recipe with trainings that do not end by themselves and save no checkpoints."""
    train = recipe.train.model_copy(update={"epochs": _ENDLESS, "checkpoint_steps": 10**9, "trackers": ()})
    propose = recipe.propose.model_copy(update={"rpn_epochs": _ENDLESS})
    adapt = recipe.adapt.model_copy(update={"epochs": max(recipe.adapt.epochs, 1000)})
    return recipe.model_copy(update={"train": train, "propose": propose, "adapt": adapt})


def _train_rpn(context: RunContext, images: ImageSet) -> Pace:
    timer = StepTimer(_SECONDS["rpn step"])
    train_base_rpn(context.recipe, context.split.trained, images, context.folder.of("propose"), timer)
    return timer.pace()


def _propose(context: RunContext, proposer: Proposer, images: ImageSet) -> tuple[Pace, list[AnnotatedImage]]:
    """Measure the pace of stage propose; write the targets of the processed images, and return these images."""
    config, factor = _affordable(proposer.config, images[0])
    affordable = replace(proposer, config=config)
    found: dict[int, Regions] = {}

    def work(group: list[AnnotatedImage]) -> None:
        known = [with_names(image, images.names, context.split.trained) for image in group]
        found.update(zip((image.image_id for image in group), affordable.propose(known), strict=True))

    # About one full batch of crops. On a CPU, batches are not faster and smaller groups give more measurements.
    size = 1 if context.device == "cpu" else max(1, config.batch_size // config.keep)
    pace = _pace_per_image(work, images.images, size, "propose in an image") * factor
    folder = context.folder.of("propose")
    write_shard(folder / "shard.arrow", found, {})
    write_index(folder, [folder / "shard.arrow"], {})
    return pace, [image for image in images if image.image_id in found]


def _affordable(config: ProposeConfig, image: AnnotatedImage) -> tuple[ProposeConfig, float]:
    """Return settings that are fast to measure, and the factor on their time (not 1 only for exhaustive scoring)."""
    if config.scoring != "exhaustive":
        return config, 1.0
    grid = len(anchor_grid(image.height, image.width, config))
    stride = config.stride * max(1, math.ceil(math.sqrt(grid / _GRID)))
    coarse = config.model_copy(update={"stride": stride})
    return coarse, grid / len(anchor_grid(image.height, image.width, coarse))


def _train(context: RunContext, images: ImageSet, teacher: Teacher) -> Pace:
    timer = StepTimer(_SECONDS["train step"])
    raw = context.recipe.model_copy(update={"adapt": context.recipe.adapt.model_copy(update={"enabled": False})})
    run_train(replace(context, recipe=raw), images, teacher, timer)
    return timer.pace()


@torch.no_grad()
def _evaluate(context: RunContext, val: ImageSet, model: Rcnn, proposer: Proposer) -> dict[Work, Pace]:
    """Measure the paces of stage evaluate with an untrained detector."""
    paces: dict[Work, Pace] = {}
    recipe, split, text = context.recipe, context.split, proposer.text
    size = recipe.evaluate.batch_size

    def detect(group: list[AnnotatedImage]) -> None:
        for first in (0, len(split.base)) if split.novel else (0,):  # gzsd and zsd
            labels = range(first + 1, len(split.names) + 1)
            detect_annotated(model, group, text[first:], labels, size)

    paces["detect in an image"] = _pace_per_image(detect, _spread(val.images, _SAMPLE), size, "detect in an image")
    novel = images_with(val, split.novel)
    if recipe.evaluate.proposals and novel:
        config, factor = _affordable(proposer.config, novel[0])
        affordable = replace(proposer, config=config)

        def recall(group: list[AnnotatedImage]) -> None:
            measure_proposals(affordable, replace(val, images=group), split)

        pace = _pace_per_image(recall, _spread(novel, _SAMPLE), 1, "recall of an image")
        paces["recall of an image"] = pace * factor
    return paces


def _adapt(context: RunContext, train: ImageSet, val: ImageSet, teacher: Teacher) -> dict[Work, Pace]:
    """Measure the paces of stage adapt; this changes the teacher."""
    paces: dict[Work, Pace] = {}
    recipe, split, config = context.recipe, context.split, context.recipe.adapt
    some = replace(val, images=_spread(val.images, _VAL_SAMPLE))
    if crops := sum(len(usable_boxes(image, config.min_side)) for image in some):
        started = time.monotonic()
        name_crops(teacher, some, split, config, recipe.prompt, context.device)
        paces["look at a crop"] = Pace.of([(time.monotonic() - started) / crops])
    if config.enabled:
        timer = StepTimer(_SECONDS["adapt step"])
        batches = CropBatches(train, split.trained, config, recipe.seed)
        train_norms(teacher, batches, split, recipe.prompt, NormsJob(context.folder.adapt_checkpoints, on_step=timer))
        # The median, because the first steps read the images of many later steps; reading is counted separately.
        pace = timer.pace()
        paces["adapt step"] = Pace(statistics.median(timer.warm), pace.low, pace.high)
    return paces


def _memory() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(largest) if sys.platform == "darwin" else int(largest) * 1024

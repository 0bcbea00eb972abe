"""Stage 2: make proposals with the teacher, and embed proposals and base boxes, in one pass over the images.

In the published method (arXiv 2303.12145), every box of an anchor grid is cropped and embedded by the teacher. Boxes
that the teacher classifies with low entropy over all names are probably objects, also novel ones. ``scoring``
selects the method:

- ``dense``: score all grid boxes from the teacher's features of the full image; crop only the boxes that are kept.
- ``exhaustive``: the published method, the reference for recall.
- ``regions``: score the regions of an RPN trained on base boxes in the same way, without a grid.
- ``rpn``: take the regions of an RPN trained on base boxes; the baseline.

The teacher can be confident about a part of an object or about background. With ``objectness``, regions of the same RPN
are added to the grid, and the score of a box is weighted by its agreement with them: a proposal must look like an
object to the RPN and like a known name to the teacher. With ``base_overlap``, boxes that overlap a base box are left
out, because the object there already has a name.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ezsd.data.samples import AnnotatedImage, ImageSet, boxes_as_text, with_names, without_masks
from ezsd.data.target_store import Regions, is_whole, read_notes, write_index, write_shard
from ezsd.pipeline.choices import Chooser, with_choices
from ezsd.pipeline.context import RunContext
from ezsd.proposals.base_rpn import load_base_rpn, train_base_rpn
from ezsd.proposals.candidates import anchor_grid
from ezsd.proposals.proposer import Proposer
from ezsd.recipe import ProposeConfig
from ezsd.run_metrics import ProposeMetrics, TrainMetrics, write_metrics
from ezsd.teacher import Teacher, load_teacher, text_embeddings
from ezsd.teacher.base import with_dense_reading
from ezsd.utils.device import process_state, share_of_process
from ezsd.utils.files import digest
from ezsd.utils.format import counted
from ezsd.utils.memory import return_freed_memory
from ezsd.utils.progress import Advance, silent, track

logger = logging.getLogger(__name__)


def run_propose(context: RunContext, images: ImageSet, teacher: Teacher) -> ProposeMetrics:
    """Write the targets of all images: shards, ``metrics.json``, and ``index.json`` last.

    A finished shard with the same teacher, settings and boxes is kept, so an interrupted run resumes. With n processes,
    process r makes shards r, r + n and so on; the actors of an engine make the shards in any order. If the recipe needs
    an RPN, it is trained first; see :mod:`ezsd.proposals.base_rpn`.

    Args:
        context: The run.
        images: The train part. Only boxes of base names are used.
        teacher: The adapted or raw teacher, on the device of the run.

    Returns:
        The metrics. ``seconds`` is the sum over all calls and includes ``rpn_seconds``, the training of the RPN, and
        the seconds of the choices.

    Raises:
        RecipeError: The teacher does not have the dense reading of the recipe.
        ArtifactError: The folder cannot be written, or the training of the RPN fails.
    """
    recipe, split, folder = context.recipe, context.split, context.folder.of("propose")
    state, config = process_state(), recipe.propose
    rpn, training = None, None
    if config.asks_rpn:
        training = train_base_rpn(recipe, split.trained, images, folder)
        rpn = load_base_rpn(folder, config.shortlist, context.device)
    choices = Chooser(context, images, rpn).choose()
    config = with_choices(config, choices)
    teacher = with_dense_reading(teacher, config.dense_reading)
    text = text_embeddings(teacher, split.names, recipe.prompt)
    jobs = _jobs(context, config, images, teacher)
    mine = share_of_process(jobs)
    missing = [job for job in mine if not _is_finished(job)]
    total, rest = (sum(len(job.images) for job in some) for some in (mine, missing))
    logger.info(f"propose: {rest:,} of {counted(total, 'image')} left ({config.precision})")
    with track(total, "propose", start=total - rest) as advance:
        if context.engine is None:
            proposer = Proposer(teacher, text, len(split.base), config, context.device, rpn)
            for job in missing:
                _make_shard(job, proposer, advance)
        else:
            for count in context.engine.run(partial(_load_worker, context, config, text), missing):
                advance(count, "")
    state.wait_for_everyone()
    paths = [job.path for job in jobs]
    metrics = _metrics(paths, training, choices)
    if state.is_main_process:
        for path in set(folder.glob("shard-*.arrow")) - set(paths):
            path.unlink()
        write_metrics(context.folder.metrics("propose"), metrics)
        facts = {"teacher": teacher.name, "teacher_fingerprint": teacher.fingerprint, "names": split.names,
                 "embedding_dim": teacher.embedding_dim, **metrics.to_json()}  # fmt: skip
        write_index(folder, paths, facts)
    state.wait_for_everyone()
    return metrics


@dataclass(frozen=True)
class _Job:
    """One shard to write. ``images`` have base boxes only, and no masks, because jobs travel to other machines."""

    path: Path
    key: str
    images: list[AnnotatedImage]


def _is_finished(job: _Job) -> bool:
    """Return whether the shard of a job was written with the same inputs, and is not damaged."""
    if (read_notes(job.path) or {}).get("key") != job.key:
        return False
    whole = is_whole(job.path)
    if not whole:
        logger.warning(f"{job.path} is damaged and made again.")
    return whole


def _jobs(context: RunContext, config: ProposeConfig, images: ImageSet, teacher: Teacher) -> list[_Job]:
    """Return one job for each shard. Its key is a digest of everything that its content depends on."""
    recipe, split, folder = context.recipe, context.split, context.folder.of("propose")
    settings = config.model_dump_json(exclude={"rpn_epochs"})  # the digest of the trained weights covers them
    key = digest(teacher.fingerprint, settings, recipe.prompt, *split.names, str(len(split.base)))
    if config.asks_rpn:
        key = digest(key, context.folder.targets.rpn)
    known = [with_names(without_masks(image), images.names, split.trained) for image in images]
    chunks = [known[start : start + config.shard_images] for start in range(0, len(known), config.shard_images)]
    return [
        _Job(folder / f"shard-{number:05d}.arrow", digest(key, *map(boxes_as_text, chunk)), chunk)
        for number, chunk in enumerate(chunks)
    ]


def _load_worker(context: RunContext, config: ProposeConfig, text: Tensor, device: str) -> Callable[[_Job], int]:
    """Load the adapted teacher and the RPN; return the function that makes a shard. Called by actors of an engine."""
    recipe, split = context.recipe, context.split
    teacher = with_dense_reading(load_teacher(recipe.teacher, device, context.norms), config.dense_reading)
    rpn = load_base_rpn(context.folder.of("propose"), config.shortlist, device) if config.asks_rpn else None
    return partial(_make_shard, proposer=Proposer(teacher, text, len(split.base), config, device, rpn))


def _make_shard(job: _Job, proposer: Proposer, advance: Advance = silent) -> int:
    """Write one shard; return the number of its images."""
    started, crops = time.monotonic(), 0
    regions: dict[int, Regions] = {}
    found = proposer.propose_and_count(job.images)
    for image, (region, taken) in zip(job.images, found, strict=True):
        regions[image.image_id] = region
        crops += taken
        advance(1, "")
    cost = _cost(job, regions, crops, proposer.config, time.monotonic() - started)
    write_shard(job.path, regions, {"key": job.key, "cost": cost})
    return_freed_memory()
    return len(job.images)


def _cost(
    job: _Job, regions: Mapping[int, Regions], crops: int, config: ProposeConfig, seconds: float
) -> dict[str, Any]:
    """Return the counts and the cost of a shard. They are stored in its notes, so that a resumed run can add them."""
    base_boxes = sum(len(image.boxes) for image in job.images)
    gridded = [] if config.scoring in ("regions", "rpn") else job.images
    return {
        "images": len(job.images),
        "grid_boxes": sum(len(anchor_grid(image.height, image.width, config)) for image in gridded),
        "proposals": sum(map(len, regions.values())) - base_boxes, "base_boxes": base_boxes, "crops": crops,
        "dense_passes": len(job.images) * len(config.dense_sides) if config.scoring in ("dense", "regions") else 0,
        "seconds": seconds,
    }  # fmt: skip


def _metrics(paths: Sequence[Path], training: TrainMetrics | None, choices: ProposeMetrics) -> ProposeMetrics:
    """Add the costs of all shards, of the choices, and of the training of the RPN if it was trained."""
    notes = [read_notes(path) or {} for path in paths]
    totals = {key: sum(note["cost"][key] for note in notes) for key in notes[0]["cost"]}
    size = sum(path.stat().st_size for path in paths)
    rpn = {} if training is None else {"rpn_seconds": round(training.seconds or 0, 1)}
    seconds = totals["seconds"] + (0 if training is None else training.seconds or 0)
    seconds += (choices.reading_seconds or 0) + (choices.power_seconds or 0)
    return choices.model_copy(update={**totals, "seconds": round(seconds, 1), **rpn, "bytes": size})

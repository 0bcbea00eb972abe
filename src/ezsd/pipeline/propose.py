"""Stage 2: CLIP proposals, and the teacher's embeddings of them and of the base boxes, in one pass over the images.

Published (arXiv 2303.12145): every box of an anchor grid is cropped and sent through the teacher; boxes the teacher is
sure about (low entropy over all names) are probably objects, novel ones too. Here the whole grid is scored densely,
from the teacher's features of the whole image, and only what is kept is cropped. ``scoring: exhaustive`` is the
published way, the reference for recall; ``scoring: rpn`` takes the regions of an RPN trained on base boxes instead, the
baseline.

A teacher that is sure of a name may look at a part of an object or at background. With ``objectness``, regions of the
same RPN join the grid, and a box counts for as much as it agrees with them: what is proposed must look like an object
to the RPN, and like something with a name to the teacher. With ``base_overlap``, boxes that lie on a base box are left
out: what is there has a name already.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ezsd.data.samples import AnnotatedImage, ImageSet, with_names
from ezsd.data.target_store import Regions, read_notes, write_index, write_shard
from ezsd.pipeline.context import RunContext
from ezsd.proposals.base_rpn import WEIGHTS, load_base_rpn, train_base_rpn
from ezsd.proposals.candidates import anchor_grid
from ezsd.proposals.proposer import Proposer
from ezsd.recipe import ProposeConfig
from ezsd.run_folder import ProposeMetrics, TrainMetrics, write_metrics
from ezsd.teacher import Teacher, text_embeddings
from ezsd.utils.device import process_state, share_of_process
from ezsd.utils.files import digest
from ezsd.utils.progress import track

logger = logging.getLogger(__name__)


def run_propose(context: RunContext, images: ImageSet, teacher: Teacher) -> ProposeMetrics:
    """Write the targets of all images: shards, ``metrics.json``, and ``index.json`` last.

    A finished shard of the same teacher, settings and boxes is kept, so a stopped run resumes. Of n processes, process
    r makes shards r, r + n and so on. If the recipe asks for an RPN, it is trained first, see
    :mod:`ezsd.proposals.base_rpn`.

    Args:
        context: The run.
        images: The train part. Boxes of other names than base names are not used.
        teacher: On the device of the run, adapted or not.

    Returns:
        The metrics; seconds are those of all calls, ``rpn_seconds`` the part of the RPN's training.

    Raises:
        ArtifactError: The folder cannot be written, or the training of the RPN fails.
    """
    recipe, split, folder = context.recipe, context.split, context.folder.of("propose")
    state, config = process_state(), recipe.propose
    rpn, training = None, None
    if config.asks_rpn:
        training = train_base_rpn(recipe, split.base, images, folder)
        rpn = load_base_rpn(folder, config.shortlist, context.device)
    text = text_embeddings(teacher, split.names, recipe.prompt)
    proposer = Proposer(teacher, text, len(split.base), config, context.device, rpn)
    jobs = _jobs(context, images, teacher)
    mine = share_of_process(jobs)
    missing = [job for job in mine if (read_notes(job.path) or {}).get("key") != job.key]
    total, rest = (sum(len(job.images) for job in some) for some in (mine, missing))
    logger.info(f"Propose: {rest} of {total} images to do ({config.precision})")
    with track(total, "Propose", start=total - rest) as advance:
        for job in missing:
            started, crops = time.monotonic(), 0
            regions: dict[int, Regions] = {}
            found = proposer.propose_and_count(job.images)
            for image, (region, taken) in zip(job.images, found, strict=True):
                regions[image.image_id] = region
                crops += taken
                advance(1, "")
            cost = _cost(job, regions, crops, config, time.monotonic() - started)
            write_shard(job.path, regions, {"key": job.key, "cost": cost})
    state.wait_for_everyone()
    paths = [job.path for job in jobs]
    metrics = _metrics(paths, training)
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
    """One shard; ``images`` have base boxes only."""

    path: Path
    key: str
    images: list[AnnotatedImage]


def _jobs(context: RunContext, images: ImageSet, teacher: Teacher) -> list[_Job]:
    """Return one job for each shard. Its key depends on everything that its content depends on."""
    recipe, split, folder = context.recipe, context.split, context.folder.of("propose")
    config = recipe.propose
    settings = config.model_dump_json(exclude={"rpn_epochs"})  # the digest of the trained weights covers them
    key = digest(teacher.fingerprint, settings, recipe.prompt, *split.names, str(len(split.base)))
    if config.asks_rpn:
        key = digest(key, folder / WEIGHTS)
    known = [with_names(image, images.names, split.base) for image in images]
    chunks = [known[start : start + config.shard_images] for start in range(0, len(known), config.shard_images)]
    return [
        _Job(folder / f"shard-{number:05d}.arrow", digest(key, *map(_boxes_as_text, chunk)), chunk)
        for number, chunk in enumerate(chunks)
    ]


def _boxes_as_text(image: AnnotatedImage) -> str:
    return f"{image.image_id} {image.boxes.tolist()} {image.labels.tolist()}"


def _cost(
    job: _Job, regions: Mapping[int, Regions], crops: int, config: ProposeConfig, seconds: float
) -> dict[str, Any]:
    """What a shard holds and what it cost, kept in its notes so that a resumed run can tell the whole."""
    base_boxes = sum(len(image.boxes) for image in job.images)
    gridded = [] if config.scoring == "rpn" else job.images
    return {
        "images": len(job.images),
        "grid_boxes": sum(len(anchor_grid(image.height, image.width, config)) for image in gridded),
        "proposals": sum(map(len, regions.values())) - base_boxes, "base_boxes": base_boxes, "crops": crops,
        "dense_passes": len(job.images) * len(config.dense_sides) if config.scoring == "dense" else 0,
        "seconds": seconds,
    }  # fmt: skip


def _metrics(paths: Sequence[Path], training: TrainMetrics | None) -> ProposeMetrics:
    """Sum up the shards, and the training of the RPN where there was one."""
    notes = [read_notes(path) or {} for path in paths]
    totals = {key: sum(note["cost"][key] for note in notes) for key in notes[0]["cost"]}
    size = sum(path.stat().st_size for path in paths)
    rpn = {} if training is None else {"rpn_seconds": round(training.seconds or 0, 1)}
    seconds = totals["seconds"] + (0 if training is None else training.seconds or 0)
    return ProposeMetrics(**{**totals, "seconds": round(seconds, 1), **rpn, "bytes": size})

"""Stage 2: CLIP proposals, and the teacher's embeddings of them and of the base boxes, in one pass over the photos.

Published (arXiv 2303.12145): every box of an anchor grid is cropped and sent through the teacher; boxes the teacher is
sure about (low entropy over all names) are probably objects, novel ones too. Here the whole grid is scored densely,
from the teacher's features of the whole photo, and only what is kept is cropped. ``scoring: exhaustive`` is the
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

from accelerate import PartialState
from torch import Tensor

from ezsd.data.categories import CategorySplit
from ezsd.data.samples import AnnotatedImage, ImageSet, base_boxes_of
from ezsd.data.target_store import Regions, read_notes, write_index, write_shard
from ezsd.proposals.base_rpn import WEIGHTS, load_base_rpn, train_base_rpn
from ezsd.proposals.candidates import anchor_grid
from ezsd.proposals.proposer import (
    propose_and_count,
)
from ezsd.recipe import ProposeConfig, Recipe
from ezsd.teacher import Teacher, text_embeddings
from ezsd.utils.files import digest, write_json
from ezsd.utils.progress import track

logger = logging.getLogger(__name__)


def run_propose(
    recipe: Recipe, split: CategorySplit, images: ImageSet, teacher: Teacher, folder: Path, device: str
) -> dict[str, Any]:
    """Write the targets of all photos: shards, ``metrics.json``, and ``index.json`` last.

    A finished shard of the same teacher, settings and boxes is kept, so a stopped run goes on. Under several processes
    process r takes shards r, r + world and so on. An RPN that is asked for is trained first,
    see :mod:`ezsd.proposals.base_rpn`.

    Args:
        recipe: section propose and the prompt say what is done; the RPN also looks at detector and train.
        split: base and novel names; all are used to score.
        images: of the train part; boxes of other than base names are not used.
        teacher: on ``device``, adapted or not.
        folder: of the targets.
        device: where the teacher computes.

    Returns:
        What metrics.json holds: photos, proposals, base boxes, teacher passes, bytes and seconds (of all runs);
        with an RPN also ``rpn_seconds``, those of them that its training took.

    Raises:
        ArtifactError: ``folder`` cannot be written, or the training of the RPN fails.
    """
    state, config = PartialState(), recipe.propose
    rpn, training = None, None
    if config.asks_rpn:
        training = train_base_rpn(recipe, split.base, images, folder)
        rpn = load_base_rpn(folder, config.shortlist, device)
    text = text_embeddings(teacher, split.names, recipe.prompt)
    jobs = _jobs(recipe, split, images, teacher, folder)
    mine = jobs[state.process_index :: state.num_processes]
    missing = [job for job in mine if (read_notes(job.path) or {}).get("key") != job.key]
    total, rest = (sum(len(job.images) for job in some) for some in (mine, missing))
    logger.info(f"Propose: {rest} of {total} photos to do ({config.precision})")
    with track(total, "Propose", start=total - rest) as advance:
        for job in missing:
            began, crops = time.monotonic(), 0
            regions: dict[int, Regions] = {}
            found = propose_and_count(teacher, job.images, job.base_boxes, text, len(split.base), config, device, rpn)
            for image, (region, taken) in zip(job.images, found, strict=True):
                regions[image.image_id] = region
                crops += taken
                advance(1, "")
            cost = _cost(job, regions, crops, config, time.monotonic() - began)
            write_shard(job.path, regions, {"key": job.key, "cost": cost})
    state.wait_for_everyone()
    paths = [job.path for job in jobs]
    metrics = _metrics(paths, training)
    if state.is_main_process:
        for path in set(folder.glob("shard-*.arrow")) - set(paths):
            path.unlink()
        write_json(folder / "metrics.json", metrics)
        facts = {"teacher": teacher.name, "teacher_fingerprint": teacher.fingerprint, "names": split.names,
                 "embedding_dim": teacher.embedding_dim, **metrics}  # fmt: skip
        write_index(folder, paths, facts)
    state.wait_for_everyone()
    return metrics


@dataclass(frozen=True)
class _Job:
    path: Path
    key: str
    images: list[AnnotatedImage]
    base_boxes: list[tuple[Tensor, Tensor]]


def _jobs(recipe: Recipe, split: CategorySplit, images: ImageSet, teacher: Teacher, folder: Path) -> list[_Job]:
    """One job a shard; its key stands for all that its content depends on."""
    config = recipe.propose
    settings_json = config.model_dump_json(exclude={"rpn_epochs"})  # the trained weights stand for them
    key = digest(teacher.fingerprint, settings_json, recipe.prompt, *split.names, str(len(split.base)))
    if config.asks_rpn:
        key = digest(key, folder / WEIGHTS)
    size = config.shard_images
    chunks = [images[start : start + size] for start in range(0, len(images), size)]
    return [
        _job(key, folder / f"shard-{number:05d}.arrow", chunk, images, split) for number, chunk in enumerate(chunks)
    ]


def _job(key: str, path: Path, images: list[AnnotatedImage], part: ImageSet, split: CategorySplit) -> _Job:
    base_boxes = base_boxes_of(images, part.names, split.base)
    contents = [f"{image.image_id} {boxes.tolist()} {labels.tolist()}"
                for image, (boxes, labels) in zip(images, base_boxes, strict=True)]  # fmt: skip
    return _Job(path, digest(key, *contents), images, base_boxes)


def _cost(
    job: _Job, regions: Mapping[int, Regions], crops: int, config: ProposeConfig, seconds: float
) -> dict[str, Any]:
    """What a shard holds and what it cost, kept in its notes so that a resumed run can tell the whole."""
    base_boxes = sum(len(boxes) for boxes, _ in job.base_boxes)
    gridded = [] if config.scoring == "rpn" else job.images
    return {
        "images": len(job.images),
        "grid_boxes": sum(len(anchor_grid(image.height, image.width, config)) for image in gridded),
        "proposals": sum(map(len, regions.values())) - base_boxes, "base_boxes": base_boxes, "crops": crops,
        "dense_passes": len(job.images) * len(config.dense_sides) if config.scoring == "dense" else 0,
        "seconds": seconds,
    }  # fmt: skip


def _metrics(paths: Sequence[Path], training: Mapping[str, Any] | None) -> dict[str, Any]:
    """Sum up the shards, and the training of the RPN where there was one."""
    notes = [read_notes(path) or {} for path in paths]
    totals = {key: sum(note["cost"][key] for note in notes) for key in notes[0]["cost"]}
    size = sum(path.stat().st_size for path in paths)
    own = {} if training is None else {"rpn_seconds": round(training["seconds"], 1)}
    seconds = totals["seconds"] + (0 if training is None else training["seconds"])
    return {**totals, "seconds": round(seconds, 1), **own, "bytes": size}

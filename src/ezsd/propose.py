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

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from ezsd.base_rpn import WEIGHTS, load_base_rpn, train_base_rpn
from ezsd.candidates import agreement, anchor_grid, confidence, keep_best, lie_on, select
from ezsd.crops import autocast, encode_regions, read_ahead
from ezsd.data.categories import CategorySplit
from ezsd.data.coco import Photo, Photos
from ezsd.detector.proposal_network import ProposalNetwork
from ezsd.files import digest, write_json
from ezsd.progress import say, track
from ezsd.recipe import Propose, Recipe
from ezsd.targets import Regions, read_notes, write_index, write_shard
from ezsd.teacher import Teacher, text_embeddings


@dataclass(frozen=True)
class _Candidates:
    """Boxes of one photo that are cropped; ``objectness`` is a factor on their scores."""

    photo: Photo
    boxes: Tensor
    objectness: Tensor
    probabilities: Tensor | None = None  # of the dense pass


def propose_photos(
    teacher: Teacher, photos: Sequence[Photo], base_boxes: Sequence[tuple[Tensor, Tensor]], text: Tensor,
    base_names: int, settings: Propose, device: str, rpn: ProposalNetwork | None = None,
) -> Iterator[Regions]:  # fmt: skip
    """Propose boxes in photo after photo, and embed them together with the base boxes.

    Args:
        teacher: on ``device``.
        photos: whose pictures are read.
        base_boxes: for each photo its base boxes ``[N, 4]`` and their 1-based labels ``[N]``.
        text: ``[C, D]`` text embeddings of base names, then novel names, CPU.
        base_names: how many of the C are base names.
        settings: section ``propose``.
        device: where the teacher computes.
        rpn: on ``device``, in evaluation mode; where the settings ask for one.

    Yields:
        The regions of each photo, in order, on the CPU.
    """
    found = _propose_photos(teacher, photos, base_boxes, text, base_names, settings, device, rpn)
    return (regions for regions, _ in found)


def rank_photos(
    teacher: Teacher, photos: Sequence[Photo], base_boxes: Sequence[tuple[Tensor, Tensor]], text: Tensor,
    base_names: int, settings: Propose, device: str, rpn: ProposalNetwork | None = None,
) -> Iterator[Tensor]:  # fmt: skip
    """Yield the boxes ``[N, 4]`` of :func:`propose_photos` alone; nothing is cropped unless their order needs it."""
    if not ranked_without_crops(settings):
        found = propose_photos(teacher, photos, base_boxes, text, base_names, settings, device, rpn)
        yield from (regions.boxes[~regions.is_base_box] for regions in found)
        return
    for photo, picture, (known, _) in zip(photos, read_ahead(photos), base_boxes, strict=True):
        picture = picture.to(device).float() / 255
        yield _candidates(teacher, photo, picture, known, text, base_names, settings, device, rpn).boxes


def _propose_photos(
    teacher: Teacher, photos: Sequence[Photo], base_boxes: Sequence[tuple[Tensor, Tensor]], text: Tensor,
    base_names: int, settings: Propose, device: str, rpn: ProposalNetwork | None,
) -> Iterator[tuple[Regions, int]]:  # fmt: skip
    """As :func:`propose_photos`, with the number of crops that each photo took."""
    waiting: deque[_Candidates] = deque()

    def to_encode() -> Iterator[tuple[Tensor, Tensor]]:
        for photo, picture, (boxes, _) in zip(photos, read_ahead(photos), base_boxes, strict=True):
            picture = picture.to(device).float() / 255
            waiting.append(_candidates(teacher, photo, picture, boxes, text, base_names, settings, device, rpn))
            yield picture, torch.cat([waiting[-1].boxes, boxes])

    embedded = encode_regions(teacher, to_encode(), settings.batch_size, device, settings.precision)
    for embeddings, (boxes, labels) in zip(embedded, base_boxes, strict=True):
        candidates = waiting.popleft()
        count = len(candidates.boxes)
        proposals = _finish(candidates, embeddings[:count], teacher.logit_scale, text, base_names, settings)
        base = Regions(boxes, embeddings[count:].half(), torch.ones(len(boxes)), torch.ones(len(boxes)), labels,
                       torch.ones(len(boxes), dtype=torch.bool))  # fmt: skip
        names = [field.name for field in fields(Regions)]
        joined = {name: torch.cat([getattr(proposals, name), getattr(base, name)]) for name in names}
        yield Regions(**joined), len(embeddings)


@torch.no_grad()
def _candidates(
    teacher: Teacher, photo: Photo, picture: Tensor, base_boxes: Tensor, text: Tensor, base_names: int,
    settings: Propose, device: str, rpn: ProposalNetwork | None,
) -> _Candidates:  # fmt: skip
    regions, objectness = _regions(rpn, picture, base_boxes, settings, device)
    if settings.scoring == "rpn":
        return _Candidates(photo, regions, objectness)
    grid = anchor_grid(photo.height, photo.width, settings)
    boxes = torch.cat([grid[~lie_on(grid, base_boxes, settings.base_overlap)], regions])
    factor = torch.ones(len(boxes))
    if settings.objectness:
        factor = agreement(boxes, regions, objectness) ** settings.objectness
    if settings.scoring == "exhaustive":
        return _Candidates(photo, boxes, factor)
    with autocast(device, settings.precision):
        embeddings = teacher.dense_embeddings(picture, boxes.to(device), settings.dense_sides)
    probabilities = (teacher.logit_scale * embeddings.float().cpu() @ text.T).softmax(1)
    chosen = select(boxes, probabilities, factor, base_names, settings)
    return _Candidates(photo, boxes[chosen], factor[chosen], probabilities[chosen])


def _regions(
    rpn: ProposalNetwork | None, picture: Tensor, base_boxes: Tensor, settings: Propose, device: str
) -> tuple[Tensor, Tensor]:
    """Best regions of the RPN and their objectness, on the CPU; none where the settings do not ask for them."""
    if not settings.asks_rpn:
        return torch.zeros(0, 4), torch.zeros(0)
    if rpn is None:
        raise ValueError("scoring rpn and objectness need the RPN of stage propose")
    with autocast(device, settings.precision):
        found, objectness = rpn.propose(picture)
    boxes = found.float().cpu()
    count = settings.wanted if settings.scoring == "rpn" else settings.keep
    kept = torch.where(~lie_on(boxes, base_boxes, settings.base_overlap))[0][:count]
    return boxes[kept], objectness.float().cpu()[kept]


def _finish(
    candidates: _Candidates, embeddings: Tensor, logit_scale: float, text: Tensor, base_names: int, settings: Propose
) -> Regions:
    """Final score, label and weight of the proposals of a photo, from what the crops say and what was dense."""
    boxes, objectness, dense = candidates.boxes, candidates.objectness, candidates.probabilities
    probabilities = (logit_scale * embeddings @ text.T).softmax(1)
    scores = objectness * confidence(probabilities, boxes, base_names, settings.ranking)
    if settings.scoring == "rpn":
        scores = objectness  # best first
        order = keep_best(torch.arange(len(boxes)), probabilities, base_names, settings)
    elif dense is None:
        order = select(boxes, probabilities, objectness, base_names, settings)
    else:
        share = settings.crop_rank
        scores = share * scores + (1 - share) * objectness * confidence(dense, boxes, base_names, settings.ranking)
        order = scores.argsort(descending=True, stable=True)
    weights, names = probabilities.max(1)
    if settings.scoring != "rpn":
        weights = weights * objectness
    none = torch.zeros(len(order), dtype=torch.bool)
    return Regions(boxes[order], embeddings[order].half(), weights[order], scores[order], names[order] + 1, none)


def run_propose(
    recipe: Recipe, split: CategorySplit, photos: Photos, teacher: Teacher, folder: Path, device: str
) -> dict[str, Any]:
    """Write the targets of all photos: shards, ``metrics.json``, and ``index.json`` last.

    A finished shard of the same teacher, settings and boxes is kept, so a stopped run goes on. Under several processes
    process r takes shards r, r + world and so on. An RPN that is asked for is trained first, see :mod:`ezsd.base_rpn`.

    Args:
        recipe: section propose and the prompt say what is done; the RPN also looks at detector and train.
        split: base and novel names; all are used to score.
        photos: of the train part; boxes of other than base names are not used.
        teacher: on ``device``, adapted or not.
        folder: of the targets.
        device: where the teacher computes.

    Returns:
        What metrics.json holds: photos, proposals, base boxes, teacher passes, bytes and seconds (of all runs);
        with an RPN also ``rpn_seconds``, those of them that its training took.

    Raises:
        ArtifactError: ``folder`` cannot be written, or the training of the RPN fails.
    """
    state, settings = PartialState(), recipe.propose
    rpn, training = None, None
    if settings.asks_rpn:
        training = train_base_rpn(recipe, split.base, photos, folder)
        rpn = load_base_rpn(folder, settings.shortlist, device)
    text = text_embeddings(teacher, split.names, recipe.prompt)
    jobs = _jobs(recipe, split, photos, teacher, folder)
    mine = jobs[state.process_index :: state.num_processes]
    missing = [job for job in mine if (read_notes(job.path) or {}).get("key") != job.key]
    total, rest = (sum(len(job.photos) for job in some) for some in (mine, missing))
    say(f"Propose: {rest} of {total} photos to do ({settings.precision})")
    with track(total, "Propose", start=total - rest) as advance:
        for job in missing:
            began, crops = time.monotonic(), 0
            regions: dict[int, Regions] = {}
            found = _propose_photos(teacher, job.photos, job.base_boxes, text, len(split.base), settings, device, rpn)
            for photo, (region, taken) in zip(job.photos, found, strict=True):
                regions[photo.image_id] = region
                crops += taken
                advance(1, "")
            cost = _cost(job, regions, crops, settings, time.monotonic() - began)
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
    photos: list[Photo]
    base_boxes: list[tuple[Tensor, Tensor]]


def _jobs(recipe: Recipe, split: CategorySplit, photos: Photos, teacher: Teacher, folder: Path) -> list[_Job]:
    """One job a shard; its key stands for all that its content depends on."""
    settings = recipe.propose
    told = settings.model_dump_json(exclude={"rpn_epochs"})  # the trained weights stand for them
    key = digest(teacher.fingerprint, told, recipe.prompt, *split.names, str(len(split.base)))
    if settings.asks_rpn:
        key = digest(key, folder / WEIGHTS)
    size = settings.shard_photos
    chunks = [photos.photos[start : start + size] for start in range(0, len(photos.photos), size)]
    return [
        _job(key, folder / f"shard-{number:05d}.arrow", chunk, photos, split) for number, chunk in enumerate(chunks)
    ]


def _job(key: str, path: Path, photos: list[Photo], part: Photos, split: CategorySplit) -> _Job:
    base_boxes = base_boxes_of(photos, part.names, split.base)
    contents = [f"{photo.image_id} {boxes.tolist()} {labels.tolist()}"
                for photo, (boxes, labels) in zip(photos, base_boxes, strict=True)]  # fmt: skip
    return _Job(path, digest(key, *contents), photos, base_boxes)


def base_boxes_of(photos: Sequence[Photo], names: Sequence[str], base: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
    """Boxes ``[N, 4]`` of base names in each photo, without crowds, and their 1-based labels among ``base``."""
    place = {name: index for index, name in enumerate(base, start=1)}
    boxes = []
    for photo in photos:
        labels = torch.tensor([place.get(names[label - 1], 0) for label in photo.labels.tolist()]).long()
        wanted = (labels > 0) & ~photo.crowd
        boxes.append((photo.boxes[wanted], labels[wanted]))
    return boxes


def _cost(job: _Job, regions: Mapping[int, Regions], crops: int, settings: Propose, seconds: float) -> dict[str, Any]:
    """What a shard holds and what it cost, kept in its notes so that a resumed run can tell the whole."""
    base_boxes = sum(len(boxes) for boxes, _ in job.base_boxes)
    gridded = [] if settings.scoring == "rpn" else job.photos
    return {
        "photos": len(job.photos),
        "grid_boxes": sum(len(anchor_grid(photo.height, photo.width, settings)) for photo in gridded),
        "proposals": sum(map(len, regions.values())) - base_boxes, "base_boxes": base_boxes, "crops": crops,
        "dense_passes": len(job.photos) * len(settings.dense_sides) if settings.scoring == "dense" else 0,
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


def ranked_without_crops(settings: Propose) -> bool:
    """Tell whether the order of the proposals is known before any of them is cropped."""
    if settings.scoring == "rpn":
        return not settings.base_filter
    return settings.scoring == "dense" and not settings.crop_rank

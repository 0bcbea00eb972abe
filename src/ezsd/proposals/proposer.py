"""CLIP proposals of one image after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ezsd.data.prefetch import read_ahead
from ezsd.data.samples import Photo
from ezsd.data.target_store import Regions
from ezsd.detector.proposal_network import ProposalNetwork
from ezsd.proposals.candidates import agreement, anchor_grid, confidence, keep_best, lie_on, select
from ezsd.recipe import Propose
from ezsd.teacher import Teacher
from ezsd.teacher.encode import encode_regions
from ezsd.utils.device import autocast


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
    found = propose_and_count(teacher, photos, base_boxes, text, base_names, settings, device, rpn)
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


def propose_and_count(
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


def ranked_without_crops(settings: Propose) -> bool:
    """Tell whether the order of the proposals is known before any of them is cropped."""
    if settings.scoring == "rpn":
        return not settings.base_filter
    return settings.scoring == "dense" and not settings.crop_rank

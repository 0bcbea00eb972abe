"""CLIP proposals of one image after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ezsd.data.prefetch import read_ahead
from ezsd.data.samples import AnnotatedImage
from ezsd.data.target_store import Regions
from ezsd.detector.proposal_network import ProposalNetwork
from ezsd.proposals.candidates import agreement, anchor_grid, confidence, keep_best, lie_on, select
from ezsd.recipe import ProposeConfig
from ezsd.teacher import Teacher
from ezsd.teacher.encode import encode_regions
from ezsd.utils.device import autocast


@dataclass(frozen=True)
class _Candidates:
    """Boxes of one photo that are cropped; ``objectness`` is a factor on their scores."""

    image: AnnotatedImage
    boxes: Tensor
    objectness: Tensor
    probabilities: Tensor | None = None  # of the dense pass


def propose_images(
    teacher: Teacher, images: Sequence[AnnotatedImage], base_boxes: Sequence[tuple[Tensor, Tensor]], text: Tensor,
    base_names: int, config: ProposeConfig, device: str, rpn: ProposalNetwork | None = None,
) -> Iterator[Regions]:  # fmt: skip
    """Propose boxes in photo after photo, and embed them together with the base boxes.

    Args:
        teacher: on ``device``.
        images: whose pictures are read.
        base_boxes: for each photo its base boxes ``[N, 4]`` and their 1-based labels ``[N]``.
        text: ``[C, D]`` text embeddings of base names, then novel names, CPU.
        base_names: how many of the C are base names.
        config: section ``propose``.
        device: where the teacher computes.
        rpn: on ``device``, in evaluation mode; where the settings ask for one.

    Yields:
        The regions of each photo, in order, on the CPU.
    """
    found = propose_and_count(teacher, images, base_boxes, text, base_names, config, device, rpn)
    return (regions for regions, _ in found)


def rank_images(
    teacher: Teacher, images: Sequence[AnnotatedImage], base_boxes: Sequence[tuple[Tensor, Tensor]], text: Tensor,
    base_names: int, config: ProposeConfig, device: str, rpn: ProposalNetwork | None = None,
) -> Iterator[Tensor]:  # fmt: skip
    """Yield the boxes ``[N, 4]`` of :func:`propose_images` alone; nothing is cropped unless their order needs it."""
    if not ranked_without_crops(config):
        found = propose_images(teacher, images, base_boxes, text, base_names, config, device, rpn)
        yield from (regions.boxes[~regions.is_base_box] for regions in found)
        return
    for image, pixels, (known, _) in zip(images, read_ahead(images), base_boxes, strict=True):
        pixels = pixels.to(device).float() / 255
        yield _candidates(teacher, image, pixels, known, text, base_names, config, device, rpn).boxes


def propose_and_count(
    teacher: Teacher, images: Sequence[AnnotatedImage], base_boxes: Sequence[tuple[Tensor, Tensor]], text: Tensor,
    base_names: int, config: ProposeConfig, device: str, rpn: ProposalNetwork | None,
) -> Iterator[tuple[Regions, int]]:  # fmt: skip
    """As :func:`propose_images`, with the number of crops that each photo took."""
    waiting: deque[_Candidates] = deque()

    def to_encode() -> Iterator[tuple[Tensor, Tensor]]:
        for image, pixels, (boxes, _) in zip(images, read_ahead(images), base_boxes, strict=True):
            pixels = pixels.to(device).float() / 255
            waiting.append(_candidates(teacher, image, pixels, boxes, text, base_names, config, device, rpn))
            yield pixels, torch.cat([waiting[-1].boxes, boxes])

    embedded = encode_regions(teacher, to_encode(), config.batch_size, device, config.precision)
    for embeddings, (boxes, labels) in zip(embedded, base_boxes, strict=True):
        candidates = waiting.popleft()
        count = len(candidates.boxes)
        proposals = _finish(candidates, embeddings[:count], teacher.logit_scale, text, base_names, config)
        base = Regions(boxes, embeddings[count:].half(), torch.ones(len(boxes)), torch.ones(len(boxes)), labels,
                       torch.ones(len(boxes), dtype=torch.bool))  # fmt: skip
        names = [field.name for field in fields(Regions)]
        joined = {name: torch.cat([getattr(proposals, name), getattr(base, name)]) for name in names}
        yield Regions(**joined), len(embeddings)


@torch.no_grad()
def _candidates(
    teacher: Teacher, image: AnnotatedImage, pixels: Tensor, base_boxes: Tensor, text: Tensor, base_names: int,
    config: ProposeConfig, device: str, rpn: ProposalNetwork | None,
) -> _Candidates:  # fmt: skip
    regions, objectness = _regions(rpn, pixels, base_boxes, config, device)
    if config.scoring == "rpn":
        return _Candidates(image, regions, objectness)
    grid = anchor_grid(image.height, image.width, config)
    boxes = torch.cat([grid[~lie_on(grid, base_boxes, config.base_overlap)], regions])
    factor = torch.ones(len(boxes))
    if config.objectness:
        factor = agreement(boxes, regions, objectness) ** config.objectness
    if config.scoring == "exhaustive":
        return _Candidates(image, boxes, factor)
    with autocast(device, config.precision):
        embeddings = teacher.dense_embeddings(pixels, boxes.to(device), config.dense_sides)
    probabilities = (teacher.logit_scale * embeddings.float().cpu() @ text.T).softmax(1)
    chosen = select(boxes, probabilities, factor, base_names, config)
    return _Candidates(image, boxes[chosen], factor[chosen], probabilities[chosen])


def _regions(
    rpn: ProposalNetwork | None, image: Tensor, base_boxes: Tensor, config: ProposeConfig, device: str
) -> tuple[Tensor, Tensor]:
    """Best regions of the RPN and their objectness, on the CPU; none where the settings do not ask for them."""
    if not config.asks_rpn:
        return torch.zeros(0, 4), torch.zeros(0)
    if rpn is None:
        raise ValueError("scoring rpn and objectness need the RPN of stage propose")
    with autocast(device, config.precision):
        found, objectness = rpn.propose(image)
    boxes = found.float().cpu()
    count = config.wanted if config.scoring == "rpn" else config.keep
    kept = torch.where(~lie_on(boxes, base_boxes, config.base_overlap))[0][:count]
    return boxes[kept], objectness.float().cpu()[kept]


def _finish(
    candidates: _Candidates,
    embeddings: Tensor,
    logit_scale: float,
    text: Tensor,
    base_names: int,
    config: ProposeConfig,
) -> Regions:
    """Final score, label and weight of the proposals of a photo, from what the crops say and what was dense."""
    boxes, objectness, dense = candidates.boxes, candidates.objectness, candidates.probabilities
    probabilities = (logit_scale * embeddings @ text.T).softmax(1)
    scores = objectness * confidence(probabilities, boxes, base_names, config.ranking)
    if config.scoring == "rpn":
        scores = objectness  # best first
        order = keep_best(torch.arange(len(boxes)), probabilities, base_names, config)
    elif dense is None:
        order = select(boxes, probabilities, objectness, base_names, config)
    else:
        share = config.crop_rank
        scores = share * scores + (1 - share) * objectness * confidence(dense, boxes, base_names, config.ranking)
        order = scores.argsort(descending=True, stable=True)
    weights, names = probabilities.max(1)
    if config.scoring != "rpn":
        weights = weights * objectness
    none = torch.zeros(len(order), dtype=torch.bool)
    return Regions(boxes[order], embeddings[order].half(), weights[order], scores[order], names[order] + 1, none)


def ranked_without_crops(config: ProposeConfig) -> bool:
    """Tell whether the order of the proposals is known before any of them is cropped."""
    if config.scoring == "rpn":
        return not config.base_filter
    return config.scoring == "dense" and not config.crop_rank

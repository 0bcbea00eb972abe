"""Generate CLIP proposals for images."""

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
from ezsd.proposals.candidates import (
    agreement,
    anchor_grid,
    confidence,
    keep_best,
    lie_on,
    novel_probability,
    select,
)
from ezsd.recipe import ProposeConfig
from ezsd.teacher import Teacher
from ezsd.teacher.encode import encode_regions
from ezsd.utils.device import autocast

# A proposal whose score times novel probability is at least this has the weight of a base box.
_CONFIDENT = 0.3


@dataclass(frozen=True)
class _Candidates:
    """Boxes of one image to crop. ``objectness`` is a factor of their scores."""

    image: AnnotatedImage
    boxes: Tensor
    objectness: Tensor
    probabilities: Tensor | None = None  # of the dense pass


@dataclass(frozen=True)
class Proposer:
    """Proposes boxes that are likely to contain unlabeled novel objects.

    Attributes:
        teacher: The teacher, on ``device``.
        text: ``[C, D]`` text embeddings of base names, then novel names, on the CPU.
        base_names: The number of base names among the C names.
        config: The section ``propose`` of the recipe.
        device: The device of the teacher.
        rpn: The RPN, on ``device`` and in evaluation mode. Required if the config uses one.
    """

    teacher: Teacher
    text: Tensor
    base_names: int
    config: ProposeConfig
    device: str
    rpn: ProposalNetwork | None = None

    def propose(self, images: Sequence[AnnotatedImage]) -> Iterator[Regions]:
        """Propose boxes for images, and embed proposals and base boxes.

        Args:
            images: Images with base boxes only, as returned by :func:`ezsd.data.samples.with_names`.

        Yields:
            The regions of each image, in the order of the images, on the CPU.
        """
        return (regions for regions, _ in self.propose_and_count(images))

    def rank(self, images: Sequence[AnnotatedImage]) -> Iterator[Tensor]:
        """Yield only the boxes ``[N, 4]`` (xyxy) of :meth:`propose`. Boxes are cropped only if the ranking needs it."""
        if not ranked_without_crops(self.config):
            yield from (regions.boxes[~regions.is_base_box] for regions in self.propose(images))
            return
        for image, pixels in zip(images, read_ahead(images), strict=True):
            yield self._candidates(image, pixels.to(self.device).float() / 255).boxes

    def propose_and_count(self, images: Sequence[AnnotatedImage]) -> Iterator[tuple[Regions, int]]:
        """Yield the results of :meth:`propose`, each with the number of crops of the image."""
        waiting: deque[_Candidates] = deque()

        def to_encode() -> Iterator[tuple[Tensor, Tensor]]:
            for image, pixels in zip(images, read_ahead(images), strict=True):
                pixels = pixels.to(self.device).float() / 255
                waiting.append(self._candidates(image, pixels))
                yield pixels, torch.cat([waiting[-1].boxes, image.boxes])

        config = self.config
        embedded = encode_regions(self.teacher, to_encode(), config.batch_size, self.device, config.precision)
        for embeddings, image in zip(embedded, images, strict=True):
            candidates = waiting.popleft()
            count = len(candidates.boxes)
            proposals = self._finish(candidates, embeddings[:count])
            ones = torch.ones(len(image.boxes))
            base = Regions(image.boxes, embeddings[count:].half(), ones, ones, image.labels, ones.bool())
            joined = {
                field.name: torch.cat([getattr(proposals, field.name), getattr(base, field.name)])
                for field in fields(Regions)
            }
            yield Regions(**joined), len(embeddings)

    @torch.no_grad()
    def _candidates(self, image: AnnotatedImage, pixels: Tensor) -> _Candidates:
        boxes, factor = self.candidate_boxes(image, pixels, image.boxes)
        if self.config.scoring in ("rpn", "exhaustive"):
            return _Candidates(image, boxes, factor)
        probabilities = self.dense_probabilities(pixels, boxes)
        chosen = select(boxes, probabilities, factor, self.base_names, self.config)
        return _Candidates(image, boxes[chosen], factor[chosen], probabilities[chosen])

    @torch.no_grad()
    def candidate_boxes(self, image: AnnotatedImage, pixels: Tensor, base_boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the boxes ``[A, 4]`` (xyxy) to choose from, and the factors ``[A]`` of their scores, on the CPU.

        Args:
            image: The image.
            pixels: Its pixels ``[3, H, W]``, values 0..1, on the device of the teacher.
            base_boxes: Boxes ``[N, 4]`` that the candidates must not lie on.
        """
        config = self.config
        regions, objectness = self._regions(pixels, base_boxes)
        if config.scoring == "rpn":
            return regions, objectness
        if config.scoring == "regions":
            return regions, objectness**config.objectness
        grid = anchor_grid(image.height, image.width, config)
        boxes = torch.cat([grid[~lie_on(grid, base_boxes, config.base_overlap)], regions])
        factor = torch.ones(len(boxes))
        if config.objectness:
            factor = agreement(boxes, regions, objectness) ** config.objectness
        return boxes, factor

    @torch.no_grad()
    def dense_probabilities(self, pixels: Tensor, boxes: Tensor) -> Tensor:
        """Return the name probabilities ``[A, C]`` of boxes ``[A, 4]`` from the dense pass, on the CPU."""
        config = self.config
        with autocast(self.device, config.precision):
            embeddings = self.teacher.dense_embeddings(pixels, boxes.to(self.device), config.dense_sides)
        return (self.teacher.logit_scale * embeddings.float().cpu() @ self.text.T).softmax(1)

    def _regions(self, pixels: Tensor, base_boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best regions of the RPN and their objectness, on the CPU. Empty if the config uses no RPN."""
        config = self.config
        if not config.asks_rpn:
            return torch.zeros(0, 4), torch.zeros(0)
        if self.rpn is None:
            raise ValueError("scoring: rpn and objectness > 0 require an RPN; pass rpn=load_base_rpn(...)")
        with autocast(self.device, config.precision):
            found, objectness = self.rpn.propose(pixels)
        boxes = found.float().cpu()
        counts = {"rpn": config.wanted, "regions": config.shortlist}
        count = counts.get(config.scoring, config.keep)
        kept = torch.where(~lie_on(boxes, base_boxes, config.base_overlap))[0][:count]
        return boxes[kept], objectness.float().cpu()[kept]

    def _finish(self, candidates: _Candidates, embeddings: Tensor) -> Regions:
        """Return the proposals of an image, with scores, labels and weights from the crops and the dense pass."""
        config, base_names = self.config, self.base_names
        boxes, objectness, dense = candidates.boxes, candidates.objectness, candidates.probabilities
        probabilities = (self.teacher.logit_scale * embeddings @ self.text.T).softmax(1)
        scores = objectness * confidence(probabilities, boxes, base_names, config)
        if config.scoring == "rpn":
            scores = objectness  # already sorted
            order = keep_best(torch.arange(len(boxes)), probabilities, base_names, config)
        elif dense is None:
            order = select(boxes, probabilities, objectness, base_names, config)
        else:
            share = config.crop_rank
            scores = share * scores + (1 - share) * objectness * confidence(dense, boxes, base_names, config)
            order = scores.argsort(descending=True, stable=True)
        weights, names = probabilities.max(1)
        if config.weighting == "novel":
            weights = (scores * novel_probability(probabilities, base_names) / _CONFIDENT).clamp(max=1)
        elif config.scoring != "rpn":
            weights = weights * objectness
        none = torch.zeros(len(order), dtype=torch.bool)
        return Regions(boxes[order], embeddings[order].half(), weights[order], scores[order], names[order] + 1, none)


def ranked_without_crops(config: ProposeConfig) -> bool:
    """Return whether the proposals can be ranked without cropping them."""
    if config.scoring == "rpn":
        return not config.base_filter
    return config.scoring in ("dense", "regions") and not config.crop_rank

"""Anchor sides that fit the user's boxes and the input size of the detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ezsd.data.samples import ImageSet
from ezsd.detector.rpn import ANCHOR_RATIOS
from ezsd.recipe import DetectorConfig

_LARGEST_STRIDE = 64  # of the last pyramid level; each level before has half the stride
_FACTORS = (1.0, 0.71, 1.41, 0.5, 2.0)  # tried on the sides; the first one is preferred
_CLEARLY = 0.03  # another factor must match so many more of the boxes
_ADVISED = 0.1  # anchors of a recipe are advised against if the two shares of others are in sum so much larger
_SMALLEST = 24 / 512  # smallest side of the advised anchors as a fraction of the long side of the input
_MOST = 20_000  # boxes


@dataclass(frozen=True)
class LabeledBoxes:
    """Boxes and the images they are in.

    Attributes:
        boxes: [N, 4] xyxy, pixels of the image.
        sizes: [N, 2] width and height of the image of each box, pixels.
    """

    boxes: Tensor
    sizes: Tensor

    @staticmethod
    def of(images: ImageSet) -> LabeledBoxes:
        """Return the boxes of all images."""
        sizes = [torch.tensor([[image.width, image.height]]).expand(len(image.boxes), 2) for image in images]
        return LabeledBoxes(torch.cat([image.boxes for image in images]), torch.cat(sizes).float())

    def some(self) -> LabeledBoxes:
        """Return every n-th box: as many as are needed to measure a share."""
        step = max(1, len(self.boxes) // _MOST)
        return LabeledBoxes(self.boxes[::step], self.sizes[::step])

    def resized(self, image_size: tuple[int, int]) -> LabeledBoxes:
        """Return the boxes in images that are resized to this short side and maximum long side."""
        short, long = image_size
        scale = torch.minimum(short / self.sizes.amin(1), long / self.sizes.amax(1))[:, None]
        return LabeledBoxes(self.boxes * scale, self.sizes * scale)


@dataclass(frozen=True)
class AnchorChoice:
    """Anchor sides, and how well they fit.

    Attributes:
        sides: The side on each level, pixels of the detector's input.
        scales: Factors on the sides; each gives another anchor.
        shares: The fractions of the boxes with an anchor of at least IoU 0.5 and 0.7; 0 without boxes.
    """

    sides: tuple[int, ...]
    scales: tuple[float, ...]
    shares: tuple[float, float]

    @property
    def advice(self) -> str:
        """One sentence on the fit."""
        least, largest = self.sides[0] * min(self.scales), self.sides[-1] * max(self.scales)
        return f"Anchors of {least:.0f} to {largest:.0f} px: {self.fit}."

    @property
    def fit(self) -> str:
        """The shares in words."""
        half, most = (f"{100 * share:.0f} %" for share in self.shares)
        return f"{half} of the base boxes have an anchor with IoU 0.5 or more, {most} with 0.7 or more"


def choose_anchors(
    labeled: LabeledBoxes,
    image_size: tuple[int, int],
    smallest: float,
    levels: int = 5,
    scales: tuple[float, ...] = (1.0,),
) -> AnchorChoice:
    """Choose anchor sides by the fraction of boxes that have an anchor with IoU 0.5 or more.

    Args:
        labeled: The base boxes.
        image_size: Short side and maximum long side of the detector's input.
        smallest: The smallest side as a fraction of the long side; multiples of it are tried too.
        levels: The number of pyramid levels, 4 or 5.
        scales: Factors on the sides.
    """
    some = labeled.some().resized(image_size)
    by_factor = [_choice(some, factor * smallest * image_size[1], levels, scales) for factor in _FACTORS]
    usual, best = by_factor[0], max(by_factor, key=lambda choice: choice.shares[0])
    return best if best.shares[0] >= usual.shares[0] + _CLEARLY else usual


def advice_on_anchors(labeled: LabeledBoxes, config: DetectorConfig) -> list[str]:
    """Return advice if other anchor sides fit the base boxes clearly better, as after a change of the input size."""
    sides, scales, size = config.anchor_sides, config.anchor_scales, config.image_size
    now = _fit(labeled.some().resized(size), sides, scales)
    best = choose_anchors(labeled, size, _SMALLEST, len(sides), scales)
    if sum(best.shares) < sum(now.shares) + _ADVISED:
        return []
    return [f"detector.anchor_sides {list(sides)} do not fit detector.image_size {list(size)}: {now.fit}. With "
            f"anchor_sides: {list(best.sides)}, {best.fit}."]  # fmt: skip


def _choice(labeled: LabeledBoxes, smallest: float, levels: int, scales: tuple[float, ...]) -> AnchorChoice:
    return _fit(labeled, tuple(max(1, round(smallest * 2**level)) for level in range(levels)), scales)


def _fit(labeled: LabeledBoxes, sides: tuple[int, ...], scales: tuple[float, ...]) -> AnchorChoice:
    overlaps = best_overlaps(labeled, sides, scales)
    half, most = (float((overlaps >= limit).float().mean()) if len(overlaps) else 0.0 for limit in (0.5, 0.7))
    return AnchorChoice(sides, scales, (half, most))


def best_overlaps(labeled: LabeledBoxes, sides: Sequence[float], scales: Sequence[float] = (1.0,)) -> Tensor:
    """Return the IoU [N] of each box with the best anchor of the RPN.

    Args:
        labeled: Boxes in pixels of the detector's input.
        sides: The anchor side on each level.
        scales: Factors on it; one anchor for each factor, aspect ratio and position.
    """
    centers = (labeled.boxes[:, :2] + labeled.boxes[:, 2:]) / 2
    best = torch.zeros(len(labeled.boxes))
    for level, side in enumerate(reversed(sides)):
        stride = _LARGEST_STRIDE // 2**level
        # For each shape, the anchor at the nearest position is the best one.
        last = (labeled.sizes / stride).ceil() - 1
        nearest = torch.minimum((centers / stride).round().clamp(min=0), last) * stride
        for scale in scales:
            for ratio in ANCHOR_RATIOS:
                half = torch.tensor([ratio**-0.5, ratio**0.5]).mul(side * scale / 2).round()
                anchors = torch.cat([nearest - half, nearest + half], dim=1)
                best = torch.maximum(best, _pairwise_iou(anchors, labeled.boxes))
    return best


def _pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    inner = (torch.minimum(first[:, 2:], second[:, 2:]) - torch.maximum(first[:, :2], second[:, :2])).clamp(min=0)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    inside = inner.prod(1)
    return inside / (areas[0] + areas[1] - inside).clamp(min=1e-9)

"""Match detections and proposals to the ground truth of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_iou

from ezsd.data.samples import AnnotatedImage, ImageSet
from ezsd.data.target_store import Regions
from ezsd.utils.boxes import covered_share

SHOWN_SCORE = 0.3  # the least score of the errors that are counted
_IOU = 0.5
_NOVEL_COUNTS = 2  # weight of a novel name in the order of the gallery


@dataclass(frozen=True, eq=False)
class Outcome:
    """The detections of an image, matched to its true boxes.

    Attributes:
        image: The image with its true boxes.
        detections: COCO results with category_id = label, by decreasing score. Detections that match only a crowd box
            are left out.
        found: For each detection, whether it matches a true box of its name (IoU of at least 0.5) that no detection
            with a higher score matches.
        missed: Rows of the true boxes without a matching detection. Crowd boxes are never missed.
    """

    image: AnnotatedImage
    detections: tuple[Mapping[str, Any], ...]
    found: tuple[bool, ...]
    missed: tuple[int, ...]

    def failures(self, base: int) -> int:
        """Return the number of missed objects and false detections; those with a label above ``base`` count twice."""
        labels = [int(self.image.labels[row]) for row in self.missed]
        labels += [entry["category_id"] for entry, hit in zip(self.detections, self.found, strict=True) if not hit]
        return sum(_NOVEL_COUNTS if label > base else 1 for label in labels)


def judge(image: AnnotatedImage, detections: Sequence[Mapping[str, Any]]) -> Outcome:
    """Match detections to the boxes of an image by decreasing score, like the COCO evaluator at IoU 0.5.

    Args:
        image: The image with all its boxes.
        detections: COCO results of this image with category_id = label.
    """
    ordered = sorted(detections, key=lambda entry: -entry["score"])
    boxes = torch.tensor([entry["bbox"] for entry in ordered], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    overlaps = box_iou(boxes, image.boxes)
    inside = covered_share(boxes, image.boxes)
    free = ~image.crowd
    kept, found = [], []
    for row, entry in enumerate(ordered):
        own = image.labels == entry["category_id"]
        fits = torch.where(own & free, overlaps[row], torch.zeros(()))
        hit = bool(len(fits)) and float(fits.max()) >= _IOU
        if hit:
            free[int(fits.argmax())] = False
        elif bool((own & image.crowd & (inside[row] >= _IOU)).any()):
            continue
        kept.append(entry)
        found.append(hit)
    missed = (free & ~image.crowd).nonzero()[:, 0].tolist()
    return Outcome(image, tuple(kept), tuple(found), tuple(missed))


def worst_and_best(
    outcomes: Sequence[Outcome], base: int, worst: int, best: int
) -> tuple[list[Outcome], list[Outcome]]:
    """Choose the images with most failures, and of the others those with most found objects per failure.

    Images without objects and detections are left out.

    Args:
        outcomes: The outcomes of all images.
        base: The number of base names; larger labels are novel.
        worst: The maximum number of images with most failures.
        best: The maximum number of the other images.

    Returns:
        The worst outcomes, by decreasing failures, and the best of the others, best first.
    """
    seen = [each for each in outcomes if each.found or each.missed]
    ordered = sorted(seen, key=lambda each: (-each.failures(base), sum(each.found)))
    rest = [each for each in ordered[worst:] if any(each.found)]
    rest.sort(key=lambda each: -_merit(each, base))
    return ordered[:worst], rest[:best]


def hardest(
    images: ImageSet, regions_of: Mapping[int, Regions], base: int, shown: int, count: int
) -> list[AnnotatedImage]:
    """Choose train images with novel objects, evenly spaced from the lowest to the highest recall by their proposals.

    Args:
        images: Images with boxes of all names.
        regions_of: The regions of stage propose by image id. Images without regions are left out.
        base: The number of base names; larger labels are novel.
        shown: The number of best proposals of each image that are used.
        count: The maximum number of images.

    Returns:
        The images, by increasing recall.
    """
    ranked = []
    for image in images:
        rows = novel_rows(image, base)
        if rows and image.image_id in regions_of:
            regions = regions_of[image.image_id]
            best = regions[(~regions.is_base_box).nonzero()[:shown, 0]]
            met = met_rows(image, best, rows)
            ranked.append((sum(met) / len(met), -len(met), image))
    ranked.sort(key=lambda entry: entry[:2])
    places = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)
    return [ranked[place][2] for place in places]


def met_rows(image: AnnotatedImage, proposals: Regions, rows: Sequence[int]) -> list[bool]:
    """Return for each row of the true boxes whether a proposal of any name covers it (IoU of at least 0.5)."""
    if not len(proposals) or not rows:
        return [False] * len(rows)
    met: list[bool] = (box_iou(image.boxes[list(rows)], proposals.boxes) >= _IOU).any(1).tolist()
    return met


def novel_rows(image: AnnotatedImage, base: int) -> list[int]:
    """Return the rows of the novel boxes, crowd boxes excluded."""
    rows: list[int] = ((image.labels > base) & ~image.crowd).nonzero()[:, 0].tolist()
    return rows


def _merit(outcome: Outcome, base: int) -> float:
    found = sum(_NOVEL_COUNTS if entry["category_id"] > base else 1
                for entry, hit in zip(outcome.detections, outcome.found, strict=True) if hit)  # fmt: skip
    return found / (1 + outcome.failures(base))

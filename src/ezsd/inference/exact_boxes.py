"""What the box head says on the exact boxes of objects, and on random boxes of plain background."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from ezsd.data.prefetch import read_ahead
from ezsd.data.samples import AnnotatedImage, ImageSet
from ezsd.detector.rcnn import Rcnn
from ezsd.run_metrics import ExactBoxCounts, ExactBoxMetrics, FalseAlarmMetrics
from ezsd.utils.progress import track

ALARM_SCORE = 0.3  # the default threshold of ezsd detect
_IMAGES = 1000  # more images would change the shares little
_BOXES = 20  # background boxes per image
_TRIES = 5 * _BOXES


def measure_exact_boxes(model: Rcnn, images: ImageSet, text: Tensor, base: int) -> dict[str, Any]:
    """Classify the exact boxes of objects and random background boxes, among all names and the background.

    Proposals and boxes play no role, so the result shows whether names or the background are the problem. At most 1,000
    images are used, evenly spaced. Objects of names outside ``images.names`` count as background.

    Args:
        model: The detector.
        images: The images with the boxes of all names; crowds are no objects.
        text: [C, D], the text embeddings of ``images.names``.
        base: The number of base names; larger labels are novel.

    Returns:
        ``exact_boxes`` and ``false_alarms`` of the metrics; empty if no image has an object.
    """
    places = np.linspace(0, len(images) - 1, min(_IMAGES, len(images))).round().astype(int)
    chosen = [images[place] for place in places.tolist()]
    labels = torch.cat([torch.zeros(0, dtype=torch.int64), *(image.labels[~image.crowd] for image in chosen)])
    if not len(labels):
        return {}
    sides = torch.cat([image.boxes[~image.crowd] for image in chosen])
    sides = sides[:, 2:] - sides[:, :2]
    generator = torch.Generator().manual_seed(0)
    exact, background = [], []
    with track(len(chosen), "evaluate (exact boxes)") as advance:
        for image, pixels in zip(chosen, read_ahead(chosen), strict=True):
            objects = image.boxes[~image.crowd]
            boxes = torch.cat([objects, background_boxes(image, sides, generator)])
            if len(boxes):
                probabilities = model.classify_boxes([pixels.to(text.device)], [boxes], text).cpu()
                exact.append(probabilities[: len(objects)])
                background.append(probabilities[len(objects) :])
            advance(1, "")
    return {
        "exact_boxes": exact_box_metrics(torch.cat(exact).argmax(dim=1), labels, base),
        "false_alarms": false_alarm_metrics(torch.cat(background), base),
    }


def background_boxes(image: AnnotatedImage, sides: Tensor, generator: torch.Generator) -> Tensor:
    """Return up to 20 random boxes [N, 4] (xyxy) in the image that touch none of its boxes, crowds included.

    Args:
        image: The image.
        sides: [K, 2], widths and heights in pixels from which the sizes of the boxes are drawn.
        generator: The source of randomness.
    """
    size = torch.tensor([image.width, image.height], dtype=torch.float32)
    drawn = sides[torch.randint(len(sides), (_TRIES,), generator=generator)].minimum(size)
    corners = torch.rand(_TRIES, 2, generator=generator) * (size - drawn)
    boxes = torch.cat([corners, corners + drawn], dim=1)
    return boxes[(box_iou(boxes, image.boxes) == 0).all(dim=1)][:_BOXES]


def exact_box_metrics(predicted: Tensor, labels: Tensor, base: int) -> ExactBoxMetrics:
    """Count what is predicted on exact boxes.

    Args:
        predicted: [N], the label with the highest probability; 0 = background.
        labels: [N], the true labels.
        base: The number of base names; larger labels are novel.
    """
    counts = []
    for chosen in (labels <= base, labels > base):
        own, true = predicted[chosen], labels[chosen]
        right, background = int((own == true).sum()), int((own == 0).sum())
        share = background / len(own) if len(own) else None
        other = len(own) - right - background
        counts.append(ExactBoxCounts(right=right, other_name=other, background=background, called_background=share))
    return ExactBoxMetrics(base=counts[0], novel=counts[1])


def false_alarm_metrics(probabilities: Tensor, base: int) -> FalseAlarmMetrics:
    """Return the shares of background boxes with a probability of at least 0.3 for a base and for a novel name.

    Args:
        probabilities: [N, 1 + C]; column 0 is the background.
        base: The number of base names, the first of the C.
    """
    alarms = probabilities[:, 1:] >= ALARM_SCORE
    base_alarms, novel_alarms = (_share(part.any(dim=1)) for part in (alarms[:, :base], alarms[:, base:]))
    return FalseAlarmMetrics(boxes=len(alarms), base=base_alarms, novel=novel_alarms)


def _share(chosen: Tensor) -> float | None:
    return float(chosen.double().mean()) if len(chosen) else None

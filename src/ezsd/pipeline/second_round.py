"""The second round of stage train: confident detections of novel names on the train images become pseudo-boxes.

After the first round, the most confident detections of novel names are right several times more often than the best
CLIP proposals, which the first round was trained on. No novel box of the annotations is used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

from ezsd.data.prefetch import read_ahead
from ezsd.data.samples import AnnotatedImage, ImageSet
from ezsd.data.target_store import Regions, TargetStore, write_index, write_shard
from ezsd.detector.rcnn import Rcnn
from ezsd.inference.batching import write_parts
from ezsd.pipeline.context import RunContext
from ezsd.proposals.candidates import lie_on
from ezsd.recipe import TrainConfig
from ezsd.teacher import Teacher
from ezsd.teacher.encode import encode_regions
from ezsd.utils.device import process_state
from ezsd.utils.files import read_json

SCORE = 1.0  # of the detections among the regions; CLIP proposals have lower ones
BOXES_PER_IMAGE = 0.5  # detections that are used, on average; an image can have many more
_MOST = 100  # per image
_NMS = 0.5
_RATE = 0.5  # of the learning rate of the first round


@dataclass(frozen=True)
class Confident:
    """The confident detections of one image.

    Attributes:
        boxes: [N, 4] xyxy, absolute pixels.
        scores: [N] in 0..1.
        labels: [N] 1-based indices of the novel names among all names.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def round_config(config: TrainConfig) -> TrainConfig:
    """Return the settings of the second round: shorter, with half of the rate, and the detections as pseudo-boxes."""
    changes = {
        "epochs": config.second_round, "lr": _RATE * config.lr, "validate_steps": 0,
        "pseudo_boxes": _MOST, "pseudo_score": SCORE,
    }  # fmt: skip
    return config.model_copy(update=changes)


def second_targets(context: RunContext, images: ImageSet, model: Rcnn, teacher: Teacher, text: Tensor) -> TargetStore:
    """Write the targets of the second round: those of stage propose, with confident detections as the best proposals.

    Args:
        context: The run.
        images: The train part, with base boxes only.
        model: The detector after the first round; it is in evaluation mode afterwards.
        teacher: The adapted teacher.
        text: [C, D], the text embeddings of base and novel names.

    Raises:
        ArtifactError: The folder cannot be written.
    """
    folder, base = context.folder.second_round.path, len(context.split.base)
    size, labels = context.recipe.evaluate.batch_size, range(1, len(text) + 1)
    parts = write_parts(model.eval(), images.images, text, labels, size, folder / "detections", "train (second round)")
    if process_state().is_main_process:
        share, count = context.recipe.propose.base_overlap, round(BOXES_PER_IMAGE * len(images))
        found = (entry for path in parts for entry in read_json(path) if entry["category_id"] > base)
        _write(folder / "targets", context, images, teacher, choose_confident(found, images.images, share, count))
    process_state().wait_for_everyone()
    return TargetStore(folder / "targets")


def choose_confident(
    found: Iterable[Mapping[str, Any]], images: Sequence[AnnotatedImage], base_overlap: float, count: int
) -> dict[int, Confident]:
    """Choose the ``count`` best detections of all images, by image id.

    Of overlapping detections (NMS at 0.5 over all novel names) the best one is used, and none that lies on a base box.

    Args:
        found: COCO results of novel names; category_id is the label.
        images: The images, with base boxes only.
        base_overlap: Detections with more than this share of their area in one base box are left out.
        count: The number of detections.
    """
    by_image = defaultdict(list)
    for entry in found:
        by_image[entry["image_id"]].append((*entry["bbox"], entry["score"], entry["category_id"]))
    kept: dict[int, Confident] = {}
    for image in images:
        rows = torch.tensor(by_image.pop(image.image_id, [])).view(-1, 6)
        boxes = torch.cat([rows[:, :2], rows[:, :2] + rows[:, 2:4]], dim=1)
        scores, labels = rows[:, 4], rows[:, 5].long()
        best = nms(boxes, scores, _NMS)
        best = best[~lie_on(boxes[best], image.boxes, base_overlap)][:_MOST]
        kept[image.image_id] = Confident(boxes[best], scores[best], labels[best])
    scores = torch.cat([torch.zeros(0), *(part.scores for part in kept.values())])
    if not len(scores) or not count:
        return {}
    threshold = scores.topk(min(count, len(scores))).values[-1]
    return {
        image_id: Confident(*(getattr(part, field.name)[part.scores >= threshold] for field in fields(Confident)))
        for image_id, part in kept.items()
        if len(part.scores) and part.scores[0] >= threshold
    }


def with_detections(regions: Regions, confident: Confident, embeddings: Tensor) -> Regions:
    """Return regions with detections as the best proposals, without the proposals that overlap them (IoU 0.5).

    Args:
        regions: The regions of stage propose, with scores below ``SCORE``.
        confident: N detections of the same image.
        embeddings: [N, D], the teacher's embeddings of the detections.
    """
    free = (box_iou(regions.boxes, confident.boxes) < _NMS).all(dim=1) | regions.is_base_box
    ones = torch.ones(len(confident.boxes))
    added = Regions(confident.boxes, embeddings.half(), confident.scores, SCORE * ones, confident.labels, ~ones.bool())
    others = regions[free]
    joined = (torch.cat([getattr(added, field.name), getattr(others, field.name)]) for field in fields(Regions))
    return Regions(*joined)


def _below(regions: Regions) -> Regions:
    """Return regions whose proposals have lower scores than detections."""
    scores = torch.where(regions.is_base_box, regions.scores, regions.scores.clamp(max=SCORE - 1e-3))
    return replace(regions, scores=scores)


def _write(
    folder: Path, context: RunContext, images: ImageSet, teacher: Teacher, confident: Mapping[int, Confident]
) -> None:
    store, config = TargetStore(context.folder.of("propose")), context.recipe.propose
    chosen = [image for image in images if image.image_id in confident]

    def to_encode() -> Iterator[tuple[Tensor, Tensor]]:
        for image, pixels in zip(chosen, read_ahead(chosen), strict=True):
            yield pixels.float() / 255, confident[image.image_id].boxes

    embedded = encode_regions(teacher, to_encode(), config.batch_size, context.device, config.precision)
    paths: list[Path] = []
    for start in range(0, len(images), config.shard_images):
        regions = {}
        for image in images.images[start : start + config.shard_images]:
            known = _below(store[image.image_id])
            if image.image_id in confident:
                known = with_detections(known, confident[image.image_id], next(embedded))
            regions[image.image_id] = known
        paths.append(folder / f"shard-{len(paths):05d}.arrow")
        write_shard(paths[-1], regions, {})
    write_index(folder, paths, {})

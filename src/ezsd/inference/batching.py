"""Run a detector on many images, in batches and in parts that can be resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ezsd.data.prefetch import read_ahead
from ezsd.data.samples import AnnotatedImage
from ezsd.detector.detections import Detections
from ezsd.detector.rcnn import Rcnn
from ezsd.inference.masks import each_mask, paste_masks
from ezsd.inference.outputs import encode_mask
from ezsd.inference.second_opinion import SecondOpinion
from ezsd.utils.device import process_state
from ezsd.utils.files import read_json, write_text
from ezsd.utils.memory import in_halves, memory_errors
from ezsd.utils.progress import track
from ezsd.utils.resize import same_size_batches

_PART_IMAGES = 32  # an interrupted run loses the detections of at most this many images


def detect_images(
    model: Rcnn | SecondOpinion,
    images: Sequence[Tensor],
    text_embeddings: Tensor,
    batch_size: int,
    owners: Tensor | None = None,
) -> Iterator[tuple[int, Detections]]:
    """Detect objects in images of any size. The detections do not depend on the batch size.

    A batch that does not fit in memory is divided.

    Args:
        model: The detector.
        images: uint8 tensors [3, H, W].
        text_embeddings: [P, D], the text embeddings of the vocabulary; without ``owners``, one for each name.
        batch_size: The maximum number of images per batch.
        owners: [P], the index of the name of each row, if names have several phrases.

    Yields:
        The index of an image and its detections. The order of the images is arbitrary.

    Raises:
        ArtifactError: Memory is not sufficient for one image.
    """
    device = next(model.parameters()).device
    text_embeddings = text_embeddings.to(device)
    owners = None if owners is None else owners.to(device)

    def detect(batch: Sequence[int]) -> list[Detections]:
        return model.detect([images[i].to(device) for i in batch], text_embeddings, owners)

    for batch in same_size_batches([image.shape[-2:] for image in images], model.image_size, batch_size):
        with memory_errors("Use smaller images, tiles of them (--tile), or another device."):
            found = in_halves(detect, batch)
        yield from zip(batch, found, strict=True)


def detect_annotated(
    model: Rcnn | SecondOpinion, images: Sequence[AnnotatedImage], text: Tensor, labels: Sequence[int], batch_size: int
) -> list[dict[str, Any]]:
    """Read images and detect objects in them.

    Args:
        model: The detector.
        images: The images. All of them are decoded into memory at once.
        text: [C, D], the text embeddings of the vocabulary.
        labels: The labels of the C names.
        batch_size: The maximum number of images per batch.

    Returns:
        COCO results in the order of the images; category_id is the label.
    """
    pixels = list(read_ahead(images))
    found: list[list[dict[str, Any]]] = [[] for _ in pixels]
    for place, detections in detect_images(model, pixels, text, batch_size):
        found[place] = _coco_results(images[place].image_id, detections, labels, pixels[place].shape[-2:])
    return [entry for entries in found for entry in entries]


def detect_in_parts(
    model: Rcnn | SecondOpinion,
    images: Sequence[AnnotatedImage],
    text: Tensor,
    labels: Sequence[int],
    batch_size: int,
    folder: Path,
) -> list[dict[str, Any]]:
    """Detect objects in all images, part by part. Processes share the parts; parts with a stored result are skipped.

    Args:
        model: The detector.
        images: The images.
        text: [C, D], the text embeddings of the vocabulary.
        labels: The labels of the C names. If empty, the images are not read.
        batch_size: The maximum number of images per batch.
        folder: The folder of the stored results, one JSON file per part.

    Returns:
        COCO results of all images in the main process, an empty list in other processes; category_id is the label.
    """
    parts = [images[start : start + _PART_IMAGES] for start in range(0, len(images) if labels else 0, _PART_IMAGES)]
    paths = [folder / f"{index:05d}.json" for index in range(len(parts))]
    own = range(process_state().process_index, len(parts), process_state().num_processes)
    missing = [index for index in own if not paths[index].exists()]
    total, left = (sum(len(parts[index]) for index in indices) for indices in (own, missing))
    with track(total, f"evaluate ({folder.name})", total - left) as advance:
        for index in missing:
            found = detect_annotated(model, parts[index], text, labels, batch_size)
            write_text(paths[index], json.dumps(found))
            advance(len(parts[index]), "")
    process_state().wait_for_everyone()
    return [entry for path in paths for entry in read_json(path)] if process_state().is_main_process else []


def _coco_results(
    image_id: int, found: Detections, labels: Sequence[int], size: tuple[int, ...]
) -> list[dict[str, Any]]:
    corners = found.boxes.cpu().double()
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).tolist()
    rows = zip(found.labels.tolist(), boxes, found.scores.tolist(), strict=True)
    results: list[dict[str, Any]] = [
        {
            "image_id": image_id,
            "category_id": labels[row],
            "bbox": [round(side, 3) for side in box],
            "score": round(score, 6),
        }
        for row, box, score in rows
    ]
    if found.masks is not None:
        masks = paste_masks(found.masks.cpu().numpy(), found.boxes.cpu().numpy(), (size[0], size[1]))
        for result, mask in zip(results, each_mask(masks), strict=True):
            result["segmentation"] = encode_mask(mask)
    return results

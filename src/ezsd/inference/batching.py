"""Run a detector on many images, in batches and in parts that can be resumed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ezsd.data.prefetch import read_ahead
from ezsd.data.samples import AnnotatedImage, without_masks
from ezsd.detector.detections import Detections
from ezsd.detector.rcnn import Rcnn
from ezsd.errors import ArtifactError
from ezsd.inference.masks import each_mask, paste_masks
from ezsd.inference.outputs import encode_mask
from ezsd.inference.second_opinion import SecondOpinion
from ezsd.utils.device import process_state, share_of_process
from ezsd.utils.files import read_checked_json, write_checked_json
from ezsd.utils.memory import in_halves, memory_errors
from ezsd.utils.progress import track
from ezsd.utils.ray_engine import RayEngine
from ezsd.utils.resize import same_size_batches
from ezsd.utils.threads import in_threads

logger = logging.getLogger(__name__)

_PART_IMAGES = 32  # an interrupted run loses the detections of at most this many images


def detect_images(
    model: Rcnn | SecondOpinion,
    images: Sequence[Tensor],
    text_embeddings: Tensor,
    batch_size: int,
    owners: Tensor | None = None,
) -> Iterator[tuple[int, Detections]]:
    """Detect objects in images of any size. The detections do not depend on the batch size.

    On a CPU, a batch is divided among its cores. A batch that does not fit in memory is divided, too.

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

    def detect_in_memory(batch: Sequence[int]) -> list[Detections]:
        with memory_errors("Use smaller images, tiles of them (--tile), or another device."):
            return in_halves(detect, batch)

    # The teacher of a second opinion may exchange weights in a pass, so only one batch at a time.
    workers = min(batch_size, torch.get_num_threads()) if device.type == "cpu" and isinstance(model, Rcnn) else 1
    sizes = [image.shape[-2:] for image in images]
    batches = list(same_size_batches(sizes, model.image_size, batch_size // workers))
    for batch, found in zip(batches, in_threads(detect_in_memory, batches, workers), strict=True):
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


@dataclass(frozen=True)
class Query:
    """What is detected.

    Attributes:
        text: [C, D], the text embeddings of the vocabulary.
        labels: The labels of the C names.
        batch_size: The maximum number of images per batch.
    """

    text: Tensor
    labels: Sequence[int]
    batch_size: int


@dataclass(frozen=True)
class Spread:
    """Detection by the actors of an engine.

    Attributes:
        engine: The engine.
        load: Returns the model on a device; each actor calls it once.
    """

    engine: RayEngine
    load: Callable[[str], Rcnn | SecondOpinion]


def detect_in_parts(
    model: Rcnn | SecondOpinion,
    images: Sequence[AnnotatedImage],
    query: Query,
    folder: Path,
    spread: Spread | None = None,
) -> list[dict[str, Any]]:
    """Detect objects in all images, part by part. Processes share the parts; parts with a stored result are skipped.

    Args:
        model: The detector.
        images: The images.
        query: What is detected. Without labels, the images are not read.
        folder: The folder of the stored results, one JSON file per part.
        spread: Detect with the actors of an engine instead of in this process; the model is not used then.

    Returns:
        COCO results of all images in the main process, an empty list in other processes; category_id is the label.
    """
    starts = range(0, len(images) if query.labels else 0, _PART_IMAGES)
    parts = [
        _Part([without_masks(image) for image in images[start : start + _PART_IMAGES]], folder / f"{index:05d}.json")
        for index, start in enumerate(starts)
    ]
    own = share_of_process(parts)
    missing = [part for part in own if not _is_finished(part)]
    total, left = (sum(len(part.images) for part in some) for some in (own, missing))
    with track(total, f"evaluate ({folder.name})", total - left) as advance:
        done: Iterator[int]
        if spread is None:
            done = (_detect_part(part, model, query) for part in missing)
        else:
            plain = replace(query, text=query.text.cpu())
            done = spread.engine.run(partial(_load_worker, spread.load, plain), missing)
        for count in done:
            advance(count, "")
    process_state().wait_for_everyone()
    if not process_state().is_main_process:
        return []
    return [entry for part in parts for entry in read_checked_json(part.path)["detections"]]


@dataclass(frozen=True)
class _Part:
    images: Sequence[AnnotatedImage]
    path: Path


def _is_finished(part: _Part) -> bool:
    """Return whether the result of a part is stored and not damaged."""
    try:
        return part.path.exists() and "detections" in read_checked_json(part.path)
    except ArtifactError:
        logger.warning(f"{part.path} is damaged and made again.")
        return False


def _load_worker(load: Callable[[str], Rcnn | SecondOpinion], query: Query, device: str) -> Callable[[_Part], int]:
    return partial(_detect_part, model=load(device), query=query)


def _detect_part(part: _Part, model: Rcnn | SecondOpinion, query: Query) -> int:
    """Store the detections of a part; return the number of its images."""
    found = detect_annotated(model, part.images, query.text, query.labels, query.batch_size)
    write_checked_json(part.path, {"detections": found})
    return len(part.images)


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

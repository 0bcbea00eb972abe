"""What all choices share: base boxes by name, balanced images, accuracy over processes, cached measurements."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import reduce
from torch import Tensor

from ezsd.data.samples import AnnotatedImage, ImageSet, with_names
from ezsd.teacher.adaptation import usable_boxes
from ezsd.utils.device import process_state
from ezsd.utils.files import read_json_if_exists, write_json
from ezsd.utils.seeding import seeded

FEWEST_NAMES = 4  # fewer names say too little about the names that have no boxes
FEWEST_BOXES = 5  # names with fewer boxes are not measured
Places = Sequence[tuple[int, int]]  # (index of the image, index among its base boxes)


def boxes_by_name(train: ImageSet, base: Sequence[str], min_side: float) -> dict[str, list[tuple[int, int]]]:
    """Return the places of the usable boxes of each base name."""
    boxes: dict[str, list[tuple[int, int]]] = {name: [] for name in base}
    for place, image in enumerate(train.images):
        known = with_names(image, train.names, base)
        for row in usable_boxes(known, min_side):
            boxes[base[int(known.labels[row]) - 1]].append((place, row))
    return boxes


def balanced_images(
    train: ImageSet, base: Sequence[str], min_side: float, count: int, seed: int
) -> list[AnnotatedImage]:
    """Choose images such that all base names with enough boxes are in about the same number of them.

    Args:
        train: The train images.
        base: The base names.
        min_side: Boxes with a shorter longer side (pixels) are removed.
        count: The most images to choose.
        seed: The seed of the choice among the images of a name.

    Returns:
        Images with the usable boxes of the base names, in the order of ``train``; none if fewer than four names have
        enough boxes.
    """
    boxes = boxes_by_name(train, base, min_side)
    queues = [
        _shuffled(sorted({place for place, _ in places}), seeded(seed, 3, index))
        for index, places in enumerate(boxes.values())
        if len(places) >= FEWEST_BOXES
    ]
    if len(queues) < FEWEST_NAMES:
        return []
    chosen: set[int] = set()
    while any(queues) and len(chosen) < count:
        for queue in queues:
            while queue and queue[-1] in chosen:
                queue.pop()
            if queue and len(chosen) < count:
                chosen.add(queue.pop())
    return [_usable(train, place, base, min_side) for place in sorted(chosen)]


def _shuffled(items: Sequence[int], generator: torch.Generator) -> list[int]:
    return [items[at] for at in torch.randperm(len(items), generator=generator).tolist()]


def _usable(train: ImageSet, place: int, base: Sequence[str], min_side: float) -> AnnotatedImage:
    known = with_names(train.images[place], train.names, base)
    rows = usable_boxes(known, min_side)
    return replace(known, boxes=known.boxes[rows], labels=known.labels[rows], crowd=known.crowd[rows],
                   segmentations=None, areas=None)  # fmt: skip


def share_by_name(hits: Tensor, labels: Tensor, names: Sequence[str], device: str) -> dict[str, float]:
    """Return the share of hits of each name that has boxes, over all processes.

    Args:
        hits: ``[n]`` bool, of the boxes of this process.
        labels: ``[n]``, positions in ``names``.
        names: The names.
        device: The device of this process.
    """
    size = len(names)
    counts = torch.stack([torch.bincount(labels, hits, size), torch.bincount(labels, minlength=size)])
    right, total = reduce(counts.to(device), "sum").tolist()
    return {name: right[at] / total[at] for at, name in enumerate(names) if total[at]}


def cached(path: Path, key: str, measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Return a measurement from ``path`` if it was made with the same key, else measure and write it.

    All processes call this together.

    Args:
        path: The JSON file.
        key: A digest of everything that the measurement depends on.
        measure: Returns JSON values. ``earlier_seconds`` among them is the time of interrupted calls.

    Returns:
        The values, with ``key`` and ``seconds``.
    """
    result: dict[str, Any] = read_json_if_exists(path)
    if result.get("key") != key:
        began = time.monotonic()
        values = dict(measure())
        earlier = values.pop("earlier_seconds", 0.0)
        result = {**values, "key": key, "seconds": earlier + time.monotonic() - began}
        if process_state().is_main_process:
            write_json(path, result)
        process_state().wait_for_everyone()
    return result

"""Embed boxes of many images with the teacher's image tower, in full batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ezsd.teacher.base import Teacher
from ezsd.teacher.regions import crop_regions
from ezsd.utils.device import autocast
from ezsd.utils.memory import in_halves


@torch.no_grad()
def encode_regions(
    teacher: Teacher, regions: Iterable[tuple[Tensor, Tensor]], batch_size: int, device: str, precision: str
) -> Iterator[Tensor]:
    """Embed the boxes of many images; batches span images, so all batches except the last are full.

    Args:
        teacher: The teacher, on ``device``.
        regions: Pairs of image ``[3, H, W]`` and boxes ``[N, 4]`` (xyxy, pixels of the image); N can be 0.
        batch_size: Number of crops per forward pass of the teacher; fewer if memory is not sufficient.
        device: The device that crops and encodes.
        precision: fp32, bf16 or fp16.

    Yields:
        ``[N, D]``, unit length, float32, on the CPU; one tensor per image, in order.
    """
    crops: list[Tensor] = []
    done: list[Tensor] = [torch.zeros(0, teacher.embedding_dim)]
    wanted: deque[int] = deque()
    for image, boxes in regions:
        wanted.append(len(boxes))
        for part in torch.split(boxes, batch_size):
            crops.append(crop_regions(image.to(device), part.to(device), teacher.input_size))
            if sum(map(len, crops)) >= batch_size:
                joined = torch.cat(crops)
                done.append(_encoded(teacher, joined[:batch_size], device, precision))
                crops = [joined[batch_size:]]
        yield from _ready(done, wanted)
    if crops and sum(map(len, crops)):
        done.append(_encoded(teacher, torch.cat(crops), device, precision))
    yield from _ready(done, wanted)


def _encoded(teacher: Teacher, crops: Tensor, device: str, precision: str) -> Tensor:
    def encode(part: Tensor) -> list[Tensor]:
        with autocast(device, precision):
            return [teacher.encode_crops(part).float().cpu()]

    return torch.cat(in_halves(encode, crops))


def _ready(done: list[Tensor], wanted: deque[int]) -> Iterator[Tensor]:
    """Yield the embeddings of the images that are complete; the rest stays in ``done``."""
    have = torch.cat(done)
    while wanted and wanted[0] <= len(have):
        count = wanted.popleft()
        yield have[:count]
        have = have[count:]
    done[:] = [have]

"""Boxes of many photos through the teacher's image tower, in full batches."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from ezsd.data.coco import Photo, read_picture
from ezsd.teacher.base import Teacher
from ezsd.teacher.regions import crop_regions

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_READERS = 2


def autocast(device: str, precision: str) -> torch.autocast:
    """Autocast of ``precision`` (fp32, bf16, fp16) on ``device``; does nothing for fp32."""
    return torch.autocast(torch.device(device).type, dtype=_DTYPES[precision], enabled=precision != "fp32")


def read_ahead(photos: Sequence[Photo]) -> Iterator[Tensor]:
    """Decode photos in order, a few ahead of the consumer.

    Yields:
        uint8 ``[3, H, W]``.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        waiting = deque(pool.submit(read_picture, photo) for photo in photos[: 2 * _READERS])
        for index in range(len(photos)):
            picture = waiting.popleft().result()
            if index + 2 * _READERS < len(photos):
                waiting.append(pool.submit(read_picture, photos[index + 2 * _READERS]))
            yield picture


class PictureCache:
    """Decoded photos, read by threads before they are needed; the last ``size`` are kept."""

    def __init__(self, photos: Sequence[Photo], size: int) -> None:
        self.photos, self.size = photos, size
        self._pool = ThreadPoolExecutor(_READERS)
        self._kept: OrderedDict[int, Future[Tensor]] = OrderedDict()

    def ask(self, places: Sequence[int]) -> None:
        """Begin to decode the photos at these places of ``photos``, as far as they are not kept."""
        for place in places:
            if place not in self._kept:
                self._kept[place] = self._pool.submit(read_picture, self.photos[place])
            self._kept.move_to_end(place)
        while len(self._kept) > max(self.size, len(set(places))):
            self._kept.popitem(last=False)

    def get(self, place: int) -> Tensor:
        """Return a photo that was asked for: uint8 ``[3, H, W]``."""
        return self._kept[place].result()


@torch.no_grad()
def encode_regions(
    teacher: Teacher, regions: Iterable[tuple[Tensor, Tensor]], batch_size: int, device: str, precision: str
) -> Iterator[Tensor]:
    """Embed boxes of photo after photo; batches go across photos, so that all but the last are full.

    Args:
        teacher: the teacher, on ``device``.
        regions: (picture ``[3, H, W]``, boxes ``[N, 4]`` xyxy in its pixels), photo by photo; N may be 0.
        batch_size: crops a teacher pass.
        device: where crops are cut and encoded.
        precision: fp32, bf16 or fp16.

    Yields:
        ``[N, D]`` unit length, float32, on the CPU; one for each photo, in order.
    """
    crops: list[Tensor] = []
    done: list[Tensor] = [torch.zeros(0, teacher.embedding_dim)]
    wanted: deque[int] = deque()
    for picture, boxes in regions:
        wanted.append(len(boxes))
        for part in torch.split(boxes, batch_size):
            crops.append(crop_regions(picture.to(device), part.to(device), teacher.input_size))
            if sum(map(len, crops)) >= batch_size:
                joined = torch.cat(crops)
                done.append(_encoded(teacher, joined[:batch_size], device, precision))
                crops = [joined[batch_size:]]
        yield from _ready(done, wanted)
    if crops and sum(map(len, crops)):
        done.append(_encoded(teacher, torch.cat(crops), device, precision))
    yield from _ready(done, wanted)


def _encoded(teacher: Teacher, crops: Tensor, device: str, precision: str) -> Tensor:
    with autocast(device, precision):
        embeddings = teacher.encode_crops(crops)
    return embeddings.float().cpu()


def _ready(done: list[Tensor], wanted: deque[int]) -> Iterator[Tensor]:
    """Take from ``done`` what the first photos of ``wanted`` wait for."""
    have = torch.cat(done)
    while wanted and wanted[0] <= len(have):
        count = wanted.popleft()
        yield have[:count]
        have = have[count:]
    done[:] = [have]

"""Decode images in threads, ahead of their use."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from ezsd.data.samples import AnnotatedImage, read_image

_READERS = 2


def read_ahead(images: Sequence[AnnotatedImage]) -> Iterator[Tensor]:
    """Decode images in order, a few ahead of the consumer.

    Yields:
        uint8 ``[3, H, W]``.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        waiting = deque(pool.submit(read_image, image) for image in images[: 2 * _READERS])
        for index in range(len(images)):
            pixels = waiting.popleft().result()
            if index + 2 * _READERS < len(images):
                waiting.append(pool.submit(read_image, images[index + 2 * _READERS]))
            yield pixels


class ImageCache:
    """Decoded images, read by threads before they are needed; the last ``size`` are kept."""

    def __init__(self, images: Sequence[AnnotatedImage], size: int) -> None:
        self.images, self.size = images, size
        self._pool = ThreadPoolExecutor(_READERS)
        self._kept: OrderedDict[int, Future[Tensor]] = OrderedDict()

    def ask(self, places: Sequence[int]) -> None:
        """Begin to decode the images at these places of ``images``, as far as they are not kept."""
        for place in places:
            if place not in self._kept:
                self._kept[place] = self._pool.submit(read_image, self.images[place])
            self._kept.move_to_end(place)
        while len(self._kept) > max(self.size, len(set(places))):
            self._kept.popitem(last=False)

    def get(self, place: int) -> Tensor:
        """Return an image that was asked for: uint8 ``[3, H, W]``."""
        return self._kept[place].result()

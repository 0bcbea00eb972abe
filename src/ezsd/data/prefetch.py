"""Decode images in background threads before they are needed."""

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
        The pixels of each image, uint8 ``[3, H, W]``.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        waiting = deque(pool.submit(read_image, image) for image in images[: 2 * _READERS])
        for index in range(len(images)):
            pixels = waiting.popleft().result()
            if index + 2 * _READERS < len(images):
                waiting.append(pool.submit(read_image, images[index + 2 * _READERS]))
            yield pixels


class ImageCache:
    """Cache of images decoded by background threads. The ``size`` most recently requested images are kept."""

    def __init__(self, images: Sequence[AnnotatedImage], size: int) -> None:
        self.images, self.size = images, size
        self._pool = ThreadPoolExecutor(_READERS)
        self._kept: OrderedDict[int, Future[Tensor]] = OrderedDict()

    def ask(self, places: Sequence[int]) -> None:
        """Start decoding the images at these indices, unless they are in the cache."""
        for place in places:
            if place not in self._kept:
                self._kept[place] = self._pool.submit(read_image, self.images[place])
            self._kept.move_to_end(place)
        while len(self._kept) > max(self.size, len(set(places))):
            self._kept.popitem(last=False)

    def get(self, place: int) -> Tensor:
        """Return the pixels of a requested image, uint8 ``[3, H, W]``."""
        return self._kept[place].result()

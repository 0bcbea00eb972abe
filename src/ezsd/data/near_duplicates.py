"""Find images that are nearly the same, such as video frames and augmented copies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ezsd.data.images import BROKEN, open_image
from ezsd.utils.progress import track

_COPY = re.compile(r"\.rf\.[0-9a-zA-Z]+\.[a-z]+$")  # Roboflow: NAME_jpg.rf.HASH.jpg for each augmented copy
_FRAME = re.compile(
    r"^(.+[._](?:mov|mp4|m4v|avi|mkv|webm|mpe?g|wmv|3gp))-\d+", re.IGNORECASE
)  # Roboflow: NAME_mp4-12.jpg
_SIDE = 8
_NEAR = 6  # bits of 64 that may differ
_ROWS = 512  # hashes compared at once
_MOST = 20_000  # images that are all compared with each other; of more, neighbors by name
_NEIGHBORS = 64


def near_duplicate_groups(images: Sequence[Path]) -> NDArray[np.int64]:
    """Return [N] a group number for each image; near-duplicates have the same number.

    Two images are near-duplicates if they are Roboflow's copies of one image or frames of one video, or if their
    difference hashes (Krawetz 2013, "Kind of Like That") differ in at most 6 of 64 bits. The relation is transitive:
    all frames of a slow video are one group.
    """
    links = _Links(len(images))
    first: dict[str, int] = {}
    for place, image in enumerate(images):
        stem = _COPY.sub("", image.name)
        frame = _FRAME.match(stem)
        if frame or stem != image.name:
            links.join(place, first.setdefault(frame[1] if frame else stem, place))
    hashes = _hashes(images)
    if len(images) <= _MOST:
        for start in range(0, len(images), _ROWS):
            _join_near(links, hashes, np.arange(start, min(start + _ROWS, len(images))), np.arange(start, len(images)))
    else:
        order = np.array(sorted(range(len(images)), key=lambda place: str(images[place])))
        for start in range(0, len(order), _NEIGHBORS):
            rows = order[start : start + _NEIGHBORS]
            _join_near(links, hashes, rows, order[start : start + 2 * _NEIGHBORS])
    return links.groups()


def _join_near(links: _Links, hashes: NDArray[np.uint64], rows: NDArray[np.int64], others: NDArray[np.int64]) -> None:
    differing = np.bitwise_count(hashes[rows, None] ^ hashes[None, others])
    for row, other in np.argwhere(differing <= _NEAR).tolist():
        links.join(int(rows[row]), int(others[other]))


def _hashes(images: Sequence[Path]) -> NDArray[np.uint64]:
    with track(len(images), "Comparing images") as advance, ThreadPoolExecutor() as pool:
        found = []
        for value in pool.map(_difference_hash, images):
            found.append(value)
            advance(1, "")
    return np.array(found, dtype=np.uint64)


def _difference_hash(path: Path) -> int:
    """Return 64 bits: whether each cell of a gray thumbnail is darker than its right neighbor; the path's for a file
    that cannot be read."""
    try:
        with open_image(path) as image:
            image.draft("L", (64, 64))
            small = np.asarray(image.convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX), dtype=np.int16)
    except BROKEN:
        return hash(str(path)) & (2**64 - 1)
    bits = np.packbits(small[:, 1:] > small[:, :-1])
    return int.from_bytes(bits.tobytes(), "big")


class _Links:
    """Disjoint sets."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def join(self, first: int, second: int) -> None:
        """Put both into one set."""
        first, second = self._root(first), self._root(second)
        self._parent[max(first, second)] = min(first, second)

    def groups(self) -> NDArray[np.int64]:
        """Return the smallest member of the set of each element."""
        return np.array([self._root(place) for place in range(len(self._parent))], dtype=np.int64)

    def _root(self, place: int) -> int:
        while self._parent[place] != place:
            self._parent[place] = self._parent[self._parent[place]]
            place = self._parent[place]
        return place

"""Find images that are nearly the same, such as video frames and augmented copies."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ezsd.data.images import BROKEN, open_image
from ezsd.utils.progress import track

_COPY = re.compile(r"\.rf\.[0-9a-zA-Z]+\.[a-z]+$")  # Roboflow: NAME_jpg.rf.HASH.jpg for each augmented copy
_FRAME = re.compile(
    r"^(.+[._](?:mov|mp4|m4v|avi|mkv|webm|mpe?g|wmv|3gp))[-_]\d+", re.IGNORECASE
)  # Roboflow: NAME_mp4-12.jpg
_NUMBERED = re.compile(r"^(.*frames?)[-_ ]?\d+", re.IGNORECASE)  # CVAT, ffmpeg: frame_000012.jpg, in one folder
_SIDE = 8
_NEAR = 6  # bits of 64 that may differ
_ROWS = 128  # hashes compared with others at once


def near_duplicate_groups(images: Sequence[Path]) -> NDArray[np.int64]:
    """Return [N] a group number for each image; near-duplicates have the same number.

    Two images are near-duplicates if their names say that they are copies of one image or frames of one video, or if
    their difference hashes (Krawetz 2013, "Kind of Like That") differ in at most 6 of 64 bits. The relation is
    transitive: all frames of a slow video are one group.
    """
    first: dict[tuple[str, str], int] = {}
    scenes = enumerate(map(_scene, images))
    labels = np.array([place if key is None else first.setdefault(key, place) for place, key in scenes], dtype=np.int64)
    _join_near(labels, _hashes(images))
    return labels


def source_of(image: Path) -> str:
    """Return a name that the augmented copies of an image share: the file name without what Roboflow adds to it."""
    return _COPY.sub("", image.name)


def _scene(image: Path) -> tuple[str, str] | None:
    """Return what the copies of an image, or the frames of a video, have in common by their names; None for others."""
    source = source_of(image)
    if frame := _FRAME.match(source):
        return "", frame[1]
    if frame := _NUMBERED.match(source):
        return str(image.parent), frame[1]
    return ("", source) if source != image.name else None


def _join_near(labels: NDArray[np.int64], hashes: NDArray[np.uint64]) -> None:
    """Give near hashes one label. Hashes that differ in at most 6 bits are equal in one of 7 blocks of bits."""
    if not len(hashes):
        return
    order = np.argsort(hashes, kind="stable")
    equal = np.split(order, np.flatnonzero(np.diff(hashes[order])) + 1)
    for members in equal:
        _join(labels, members)
    single = np.array([members[0] for members in equal], dtype=np.int64)  # many images of one color have one hash
    hashes = hashes[single]
    for low, high in pairwise(np.linspace(0, 64, _NEAR + 2).astype(np.uint64)):
        block = (hashes >> low) & ((np.uint64(1) << (high - low)) - np.uint64(1))
        order = np.argsort(block, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(block[order])) + 1):
            for start in range(0, len(members), _ROWS):
                rows, others = members[start : start + _ROWS], members[start:]
                near = np.bitwise_count(hashes[rows, None] ^ hashes[None, others]) <= _NEAR
                for row in np.flatnonzero(near.sum(1) > 1).tolist():
                    _join(labels, single[others[near[row]]])


def _join(labels: NDArray[np.int64], members: NDArray[np.int64]) -> None:
    """Give all members, and all others with their labels, the smallest of their labels."""
    if (labels[members] == labels[members[0]]).all():
        return
    smallest, *rest = np.unique(labels[members]).tolist()
    for label in rest:
        labels[labels == label] = smallest


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
        return int.from_bytes(hashlib.sha256(str(path).encode()).digest()[:8], "big")
    bits = np.packbits(small[:, 1:] > small[:, :-1])
    return int.from_bytes(bits.tobytes(), "big")

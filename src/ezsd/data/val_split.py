"""Choose the images of a val part."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ezsd.data.near_duplicates import near_duplicate_groups
from ezsd.data.samples import AnnotatedImage


@dataclass(frozen=True)
class ValSplit:
    """The images of a val part.

    Attributes:
        ids: Their image ids.
        note: How they were chosen.
    """

    ids: frozenset[int]
    note: str


def choose_val(images: Sequence[AnnotatedImage], share: float) -> ValSplit:
    """Choose val images so that no near-duplicate of them is left for training.

    Groups of near-duplicates are taken in an order that depends only on their file names, except those that have all
    boxes of a name. If one group is too large for that, such as the frames of one video, its last images by name
    are taken.

    Args:
        images: At least two images.
        share: The fraction of the images to choose, 0..1. At least one image is chosen, and one left.
    """
    wanted = min(max(1, round(share * len(images))), len(images) - 1)
    groups = near_duplicate_groups([image.path for image in images])
    members: list[list[int]] = [np.flatnonzero(groups == group).tolist() for group in np.unique(groups)]
    members.sort(key=lambda places: _digest(images[places[0]]))
    left = Counter(name for image in images for name in _names(image))
    chosen: list[int] = []
    for places in members:
        taken = Counter(name for place in places for name in _names(images[place]))
        if len(chosen) + len(places) <= wanted and all(left[name] > count for name, count in taken.items()):
            chosen += places
            left -= taken
    return ValSplit(*_filled(images, members, chosen, wanted))


def _filled(
    images: Sequence[AnnotatedImage], members: list[list[int]], chosen: list[int], wanted: int
) -> tuple[frozenset[int], str]:
    """Return the ids of the chosen images and a note; images of the largest group are added if few are chosen."""
    several = [places for places in members if len(places) > 1]
    note = f"{sum(map(len, several)):,} of {len(images):,} images have near-duplicates, in {len(several):,} groups; "
    if len(chosen) >= math.ceil(wanted / 2):
        note = (
            f"{note}each group is in one part." if several else f"none of {len(images):,} images has a near-duplicate."
        )
    else:
        rest = [places for places in members if not set(places) & set(chosen)]
        sizes = [len(places) for places in rest]
        largest = sorted(rest[sizes.index(max(sizes))], key=lambda place: images[place].path.name)
        chosen = chosen + largest[-min(wanted - len(chosen), max(1, len(largest) - 1)) :]
        if len(largest) > 1:
            note += (f"one of them has {len(largest):,} images, so its last ones by name are val images, too. They are "
                     "similar to train images, and the figures will be too good.")  # fmt: skip
        else:
            note = ""
    return frozenset(images[place].image_id for place in chosen), note


def _digest(image: AnnotatedImage) -> bytes:
    return hashlib.sha256(image.path.name.encode("utf-8", "replace")).digest()


def _names(image: AnnotatedImage) -> list[int]:
    return [int(label) for label in image.labels[~image.crowd].tolist()]

"""Choose the images of a val part."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ezsd.data.near_duplicates import near_duplicate_groups, source_of
from ezsd.data.samples import AnnotatedImage
from ezsd.utils.format import counted, plural


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

    Whole groups of near-duplicates are taken, in an order that depends only on their file names, except those that have
    all boxes of a name. If they make less than half of the share, small groups are added, up to half of all images.
    Only if all images are one group, such as the frames of one video, it is divided: its last images by name are
    taken, with all copies of an image.

    Args:
        images: At least two images.
        share: The fraction of the images to choose, 0..1. At least one image is chosen, and one left.
    """
    wanted = min(max(1, round(share * len(images))), len(images) - 1)
    numbers = near_duplicate_groups([image.path for image in images])
    groups: list[list[int]] = [np.flatnonzero(numbers == number).tolist() for number in np.unique(numbers)]
    groups.sort(key=lambda places: _digest(images[places[0]]))
    several = [places for places in groups if len(places) > 1]
    note = (f"{sum(map(len, several)):,} of {len(images):,} images have near-duplicates, in "
            f"{counted(len(several), 'group')}; ")  # fmt: skip
    chosen = _whole_groups(images, groups, wanted)
    if not chosen:
        largest = max(groups, key=len)
        chosen = _last_by_name(images, largest, wanted)
        note += (f"all that could be taken is one of {counted(len(largest), 'image')}, so its last {len(chosen):,} by "
                 f"name {plural(len(chosen), 'is', 'are')} the val part. They are similar to train images, and the "
                 "figures will be too good. To measure, label images of another scene, and give them with "
                 "--val-annotations.")  # fmt: skip
    elif several:
        note += "each group is in one part"
        usual = wanted / 2 <= len(chosen) <= wanted
        note += "." if usual else f", so the val part has {counted(len(chosen), 'image')}, not {wanted:,}."
    else:
        note = f"none of {counted(len(images), 'image')} has a near-duplicate."
    return ValSplit(frozenset(images[place].image_id for place in chosen), note)


def _whole_groups(images: Sequence[AnnotatedImage], groups: Sequence[list[int]], wanted: int) -> list[int]:
    """Return the images of whole groups, about ``wanted``; none if each group has more than half of the images."""
    left = Counter(name for image in images for name in _names(image))
    chosen: list[int] = []
    smallest, enough, most = sorted(groups, key=len), math.ceil(wanted / 2), max(wanted, len(images) // 2)
    for candidates, least, limit, spare_names in (
        (groups, wanted, wanted, True), (smallest, enough, most, True), (smallest, enough, most, False),
    ):  # fmt: skip
        taken_already = set(chosen)
        for places in candidates:
            if len(chosen) >= least or len(chosen) + len(places) > limit or places[0] in taken_already:
                continue
            taken = Counter(name for place in places for name in _names(images[place]))
            if not spare_names or all(left[name] > count for name, count in taken.items()):
                chosen += places
                left.subtract(taken)
    return chosen


def _last_by_name(images: Sequence[AnnotatedImage], group: list[int], wanted: int) -> list[int]:
    """Return the last images of a group by name, copies together; at least one image is left."""
    copies: dict[str, list[int]] = defaultdict(list)
    for place in group:
        copies[source_of(images[place].path)].append(place)
    units = [copies[name] for name in sorted(copies, key=_natural)]
    units = units if len(units) > 1 else [[place] for place in group]
    chosen: list[int] = []
    while len(units) > 1 and len(chosen) < wanted:
        chosen += units.pop()
    return chosen


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts frame_2 before frame_10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _digest(image: AnnotatedImage) -> bytes:
    return hashlib.sha256(image.path.name.encode("utf-8", "replace")).digest()


def _names(image: AnnotatedImage) -> list[int]:
    return [int(label) for label in image.labels[~image.crowd].tolist()]

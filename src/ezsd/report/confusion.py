"""Read the teacher's confusion matrix on validation crops."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ezsd.report.charts import HeatMap, heat_map
from ezsd.utils.files import read_json_if_exists

_PAIRS = 15
_ENOUGH_CROPS = 10  # minimum crops of a true name; shares of fewer crops are not meaningful
_DRAWN_NAMES = 120  # a confusion matrix of more names is not readable


@dataclass(frozen=True)
class Pair:
    """A confusion of two names.

    Attributes:
        true: The true name.
        predicted: The name that the teacher predicts.
        true_is_base: Whether ``true`` is a base name.
        predicted_is_base: Whether ``predicted`` is a base name.
        before: The number of such crops before adaptation.
        after: The number of such crops after adaptation; None if the teacher is not adapted.
        crops: The number of all crops of ``true``.
    """

    true: str
    predicted: str
    true_is_base: bool
    predicted_is_base: bool
    before: int
    after: int | None
    crops: int


@dataclass(frozen=True)
class Confusion:
    """The teacher's classification errors on val crops.

    Attributes:
        pairs: The confusions with the largest share of a true name's crops.
        enough: The minimum number of crops of a true name for its confusions to be listed.
        before: The confusion matrix before adaptation; None if it has too many names to draw.
        after: The confusion matrix after adaptation; also None if the teacher is not adapted.
        base: The number of base names.
    """

    pairs: tuple[Pair, ...]
    enough: int
    before: HeatMap | None
    after: HeatMap | None
    base: int


@dataclass(frozen=True)
class DetectorConfusion:
    """The names that are shown for val objects.

    Attributes:
        pairs: True name, shown name and count, most frequent first; an empty name is the background.
        map: The matrix of all names, the background last; None if it has too many names to draw.
        base: The number of base names.
    """

    pairs: tuple[tuple[str, str, int], ...]
    map: HeatMap | None
    base: int


def read_detector_confusion(path: Path) -> DetectorConfusion | None:
    """Read the confusion.json of stage evaluate; return None if it does not exist, as in runs of older versions."""
    content = read_json_if_exists(path)
    if not content:
        return None
    names = ["", *content["names"]]
    counts = [(true, shown, count) for true, shown, count in content["counts"]]
    wrong = sorted((entry for entry in counts if entry[0] != entry[1]), key=lambda entry: (-entry[2], *entry[:2]))
    last = len(names) - 1  # the place of the background
    cells = [((true or last + 1) - 1, (shown or last + 1) - 1, count) for true, shown, count in counts]
    return DetectorConfusion(
        tuple((names[true], names[shown], count) for true, shown, count in wrong[:_PAIRS]),
        heat_map(cells, len(names)) if len(names) <= _DRAWN_NAMES else None,
        content["base"],
    )


def read_confusion(path: Path) -> Confusion | None:
    """Read the confusion.json of stage adapt; return None if it does not exist, as in runs of older versions."""
    content = read_json_if_exists(path)
    if not content:
        return None
    names, base = content["names"], content["base"]
    before = {(row, column): count for row, column, count in content["before"]}
    after = None if content["after"] is None else {(row, column): count for row, column, count in content["after"]}
    crops: dict[int, int] = defaultdict(int)
    for (true, _), count in before.items():
        crops[true] += count
    if not crops:  # the val images have no usable boxes
        return None
    enough = min(_ENOUGH_CROPS, max(crops.values()))
    wrong = sorted(
        (key for key in {*before, *(after or {})} if key[0] != key[1] and crops[key[0]] >= enough),
        key=lambda key: (-max(before.get(key, 0), (after or {}).get(key, 0)) / crops[key[0]], key),
    )
    pairs = tuple(
        Pair(names[true], names[predicted], true < base, predicted < base, before.get((true, predicted), 0),
             None if after is None else after.get((true, predicted), 0), crops[true])
        for true, predicted in wrong[:_PAIRS]
    )  # fmt: skip
    maps = [
        heat_map([(*key, count) for key, count in counts.items()], len(names))
        if counts is not None and len(names) <= _DRAWN_NAMES else None
        for counts in (before, after)
    ]  # fmt: skip
    return Confusion(pairs, enough, maps[0], maps[1], base)

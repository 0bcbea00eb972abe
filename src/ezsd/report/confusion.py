"""The teacher's confusion on validation crops."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ezsd.report.charts import HeatMap, heat_map
from ezsd.utils.files import read_json_if_exists

_PAIRS = 15
_ENOUGH_CROPS = 10  # of a true name, for its mistakes to be listed; a share of one crop says nothing
_DRAWN_NAMES = 120  # a confusion table of more names would be a grey square


@dataclass(frozen=True)
class Pair:
    """Crops of ``true`` that the teacher told as ``told``: how many before and after adaptation, of how many."""

    true: str
    predicted: str
    true_is_base: bool
    predicted_is_base: bool
    before: int
    after: int | None
    crops: int


@dataclass(frozen=True)
class Confusion:
    """The teacher's mistakes on val crops.

    Attributes:
        pairs: those that make up the largest share of a true name's crops.
        enough: pairs are listed of true names with at least so many crops.
        before: all names; None where they are too many to be drawn.
        after: likewise; None too where there was no adaptation.
        base: how many of the names are base.
    """

    pairs: tuple[Pair, ...]
    enough: int
    before: HeatMap | None
    after: HeatMap | None
    base: int


def read_confusion(path: Path) -> Confusion | None:
    """Read what stage adapt counted; None for runs that were made before it did."""
    predicted = read_json_if_exists(path)
    if not predicted:
        return None
    names, base = predicted["names"], predicted["base"]
    before = {(true, said): count for true, said, count in predicted["before"]}
    after = None if predicted["after"] is None else {(true, said): count for true, said, count in predicted["after"]}
    crops: dict[int, int] = defaultdict(int)
    for (true, _), count in before.items():
        crops[true] += count
    enough = min(_ENOUGH_CROPS, max(crops.values()))
    wrong = sorted(
        (key for key in {*before, *(after or {})} if key[0] != key[1] and crops[key[0]] >= enough),
        key=lambda key: (-max(before.get(key, 0), (after or {}).get(key, 0)) / crops[key[0]], key),
    )
    pairs = tuple(
        Pair(names[true], names[said], true < base, said < base, before.get((true, said), 0),
             None if after is None else after.get((true, said), 0), crops[true])
        for true, said in wrong[:_PAIRS]
    )  # fmt: skip
    maps = [
        heat_map([(*key, count) for key, count in counts.items()], len(names))
        if counts is not None and len(names) <= _DRAWN_NAMES else None
        for counts in (before, after)
    ]  # fmt: skip
    return Confusion(pairs, enough, maps[0], maps[1], base)

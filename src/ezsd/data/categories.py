"""Which categories are base (boxes to learn from) and which are novel (names only)."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ezsd.errors import RecipeError

_LVIS_FREQUENCIES = {"f": "frequent", "c": "common", "r": "rare"}
_LVIS_BASE = {"lvis_rare": ("frequent", "common"), "lvis_common_rare": ("frequent",)}


@dataclass(frozen=True)
class CategorySplit:
    """Names with boxes (base) and names without (novel); no name is in both."""

    name: str
    base: tuple[str, ...]
    novel: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Base names, then novel names."""
        return self.base + self.novel


def shipped_splits() -> tuple[str, ...]:
    """Return the names that :func:`load_split` knows."""
    folder = files("ezsd.data") / "splits"
    stored = (entry.name for entry in folder.iterdir())
    return (*sorted(name.removesuffix(".json") for name in stored if name.endswith(".json")), *_LVIS_BASE)


def load_split(split: str | Mapping[str, Sequence[str]], annotations: Path | None = None) -> CategorySplit:
    """Return the split of a recipe.

    Args:
        split: a shipped name, or ``{"base": [...], "novel": [...]}`` (then the split is named "custom").
            ``lvis_rare`` (novel = rare) and ``lvis_common_rare`` (novel = common and rare) follow Gupta et al. 2019,
            "LVIS": they are made from the ``frequency`` of each category in ``annotations``.
        annotations: an LVIS file; only the lvis splits need it.

    Raises:
        RecipeError: unknown name, no base name, a name twice, a novel name that is also base (all told at once), or
            an LVIS split without frequencies.
    """
    if not isinstance(split, str):
        return _checked("custom", split)
    if split in _LVIS_BASE:
        return _checked(split, _lvis_split(split, annotations))
    if split not in shipped_splits():
        close = difflib.get_close_matches(split, shipped_splits(), n=1)
        hint = f' Did you mean "{close[0]}"?' if close else ""
        raise RecipeError(
            f'split: "{split}" is not a shipped split; there are {", ".join(shipped_splits())}.{hint} '
            "Or give the names: split: {base: [...], novel: [...]}."
        )
    return _checked(split, json.loads((files("ezsd.data") / "splits" / f"{split}.json").read_text(encoding="utf-8")))


def _checked(name: str, names: Mapping[str, Sequence[str]]) -> CategorySplit:
    problems = [
        f'split: unknown key "{key}"; expected base and novel.' for key in names if key not in ("base", "novel")
    ]
    sides: dict[str, tuple[str, ...]] = {}
    for side in ("base", "novel"):
        given = names.get(side, ())
        if isinstance(given, str) or not all(isinstance(entry, str) and entry.strip() for entry in given):
            problems.append(f"split.{side}: expected a list of category names, found {given!r}.")
            given = ()
        sides[side] = tuple(given)
        problems += [
            f'split.{side}: "{entry}" is there {count} times; name it once.'
            for entry, count in Counter(given).items()
            if count > 1
        ]
    if not sides["base"]:
        problems.append("split.base: no name. Name the categories that have boxes to learn from.")
    problems += [
        f'split.novel: "{entry}" is base too; leave it in one of them.'
        for entry in dict.fromkeys(sides["novel"])
        if entry in sides["base"]
    ]
    if problems:
        raise RecipeError(problems)
    return CategorySplit(name, sides["base"], sides["novel"])


def _lvis_split(name: str, annotations: Path | None) -> dict[str, list[str]]:
    if annotations is None:
        raise RecipeError(f'split: "{name}" is made from an LVIS annotation file; give data.train.annotations.')
    try:
        categories = json.loads(annotations.read_text(encoding="utf-8"))["categories"]
        frequencies = {category["name"]: _LVIS_FREQUENCIES[category["frequency"]] for category in _by_id(categories)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f'split: "{name}" is made from the frequency (f, c or r) of each category of an LVIS file, and '
            f"{annotations} cannot be read as one ({type(error).__name__}: {error}). Give LVIS v1 annotations, or "
            "name the categories: split: {base: [...], novel: [...]}."
        ) from None
    base = _LVIS_BASE[name]
    return {
        "base": [entry for entry, frequency in frequencies.items() if frequency in base],
        "novel": [entry for entry, frequency in frequencies.items() if frequency not in base],
    }


def _by_id(categories: Any) -> list[dict[str, Any]]:
    return sorted(categories, key=lambda category: category["id"])

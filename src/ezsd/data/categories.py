"""Category splits: base categories have boxes to train on, novel categories have names only."""

from __future__ import annotations

import csv
import difflib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ezsd.data.formats.coco_json import read_annotations
from ezsd.errors import RecipeError

_SIDES = ("base", "novel", "few_shot")
_LVIS_FREQUENCIES = {"f": "frequent", "c": "common", "r": "rare"}
_LVIS_BASE = {"lvis_rare": ("frequent", "common"), "lvis_common_rare": ("frequent",)}


@dataclass(frozen=True)
class CategorySplit:
    """Base names (with boxes) and novel names (without boxes, or with a few). The two lists are disjoint.

    Attributes:
        name: The name of the split.
        base: Names with boxes.
        novel: Names without boxes in training, except for those of ``few_shot``, which come first.
        few_shot: Novel names whose boxes in the train annotations are used. Their results count as novel.
    """

    name: str
    base: tuple[str, ...]
    novel: tuple[str, ...]
    few_shot: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Base names, then novel names."""
        return self.base + self.novel

    @property
    def trained(self) -> tuple[str, ...]:
        """The names whose boxes are used in training, the first of :attr:`names`."""
        return self.base + self.few_shot


def shipped_splits() -> tuple[str, ...]:
    """Return the split names accepted by :func:`load_split`."""
    folder = files("ezsd.data") / "splits"
    stored = (entry.name for entry in folder.iterdir())
    return (*sorted(name.removesuffix(".json") for name in stored if name.endswith(".json")), *_LVIS_BASE)


def load_split(split: str | Mapping[str, Sequence[str]], annotations: Path | None = None) -> CategorySplit:
    """Load a category split.

    Args:
        split: The name of a shipped split, or ``{"base": [...], "novel": [...]}`` for a split named "custom", which can
            have ``few_shot``, the novel names that have some boxes.
            ``lvis_rare`` (novel = rare) and ``lvis_common_rare`` (novel = common and rare) follow Gupta et al. 2019,
            "LVIS". They use the ``frequency`` of each category in ``annotations``.
        annotations: An LVIS annotation file. Only the LVIS splits need it.

    Raises:
        RecipeError: The split is unknown, has no base names, repeats a name, lists a name as both base and novel,
            or a few-shot name that is not novel (all problems are reported together), or the LVIS file has no
            frequencies.
        DataError: The LVIS file is missing or cannot be read.
    """
    if not isinstance(split, str):
        return _checked("custom", split)
    if split in _LVIS_BASE:
        return _checked(split, _lvis_split(split, annotations))
    if split not in shipped_splits():
        close = difflib.get_close_matches(split, shipped_splits(), n=1)
        hint = f' Did you mean "{close[0]}"?' if close else ""
        raise RecipeError(
            f'split: "{split}" is not a shipped split; expected one of {", ".join(shipped_splits())}.{hint} '
            "Alternatively, list the names: split: {base: [...], novel: [...]}."
        )
    return _checked(split, json.loads((files("ezsd.data") / "splits" / f"{split}.json").read_text(encoding="utf-8")))


def split_names(text: str) -> list[str]:
    """Return the names in a comma-separated text; a name with a comma is put in double quotes.

    Raises:
        RecipeError: The text cannot be split, because a part of it is longer than the names of any vocabulary.
    """
    try:
        rows = list(csv.reader([" ".join(text.splitlines())], skipinitialspace=True))
    except csv.Error as error:
        raise RecipeError(f"names: expected names separated by commas; the text cannot be read: {error}.") from None
    return [name.strip() for row in rows for name in row if name.strip()]


def joined_names(names: Sequence[str]) -> str:
    """Return the text that :func:`split_names` reads as these names."""
    return ", ".join(
        f'"{name.replace(chr(34), chr(34) * 2)}"' if "," in name or name[:1] == '"' else name for name in names
    )


def _checked(name: str, names: Mapping[str, Sequence[str]]) -> CategorySplit:
    problems = [f'split: unknown key "{key}"; expected base, novel and few_shot.' for key in names if key not in _SIDES]
    sides: dict[str, tuple[str, ...]] = {}
    for side in _SIDES:
        given = names.get(side, ())
        if isinstance(given, str) or not all(isinstance(entry, str) and entry.strip() for entry in given):
            problems.append(f"split.{side}: expected a list of category names, found {given!r}.")
            given = ()
        sides[side] = tuple(given)
        problems += [
            f'split.{side}: "{entry}" is listed {count} times; list it once.'
            for entry, count in Counter(given).items()
            if count > 1
        ]
    if not sides["base"]:
        problems.append("split.base: the list is empty. List the categories that have boxes to train on.")
    problems += [
        f'split.novel: "{entry}" is also a base name; keep it in one of the two lists.'
        for entry in dict.fromkeys(sides["novel"])
        if entry in sides["base"]
    ]
    problems += [
        f'split.few_shot: "{entry}" is not a novel name; list it in split.novel too.'
        for entry in dict.fromkeys(sides["few_shot"])
        if entry not in sides["novel"]
    ]
    if problems:
        raise RecipeError(problems)
    few = tuple(entry for entry in sides["novel"] if entry in sides["few_shot"])
    others = tuple(entry for entry in sides["novel"] if entry not in few)
    return CategorySplit(name, sides["base"], few + others, few)


def _lvis_split(name: str, annotations: Path | None) -> dict[str, list[str]]:
    if annotations is None:
        raise RecipeError(f'split: "{name}" needs an LVIS annotation file; set data.train.annotations.')
    categories = read_annotations(annotations).categories  # parsed once for the split and the boxes
    try:
        frequencies = {category["name"]: _LVIS_FREQUENCIES[category["frequency"]] for category in _by_id(categories)}
    except (KeyError, TypeError) as error:
        raise RecipeError(
            f'split: "{name}" needs the frequency (f, c or r) of each category of an LVIS file, but {annotations} has '
            f"other categories ({type(error).__name__}: {error}). Use LVIS v1 annotations, or list the categories: "
            "split: {base: [...], novel: [...]}."
        ) from None
    base = _LVIS_BASE[name]
    return {
        "base": [entry for entry, frequency in frequencies.items() if frequency in base],
        "novel": [entry for entry, frequency in frequencies.items() if frequency not in base],
    }


def _by_id(categories: Any) -> list[dict[str, Any]]:
    return sorted(categories, key=lambda category: category["id"])

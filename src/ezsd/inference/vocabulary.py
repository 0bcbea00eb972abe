"""What to detect: names, with synonyms and prompt templates; from text, lists, mappings and files. Without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from ezsd.data.categories import split_names
from ezsd.errors import RecipeError
from ezsd.utils.yaml_files import load_yaml

VocabularyInput: TypeAlias = "Names | str | Path | Sequence[str] | Mapping[str, str | Sequence[str] | None]"
_YAML = (".yaml", ".yml")
_FILES = (".txt", *_YAML)
_LONGEST = 200  # characters; CLIP reads 77 tokens
_EXAMPLE = 'such as ["cat", "traffic cone"]'


@dataclass(frozen=True)
class Names:
    """The names of a vocabulary.

    Attributes:
        names: The names that detections get.
        phrases: The phrases of each name, at least one; the best phrase gives the score.
        templates: Prompts with ``{name}`` whose embeddings are averaged; empty = the prompt of the model.
    """

    names: tuple[str, ...]
    phrases: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...] = ()


def parse_vocabulary(vocabulary: VocabularyInput | None, default: Sequence[str]) -> Names:
    """Read a vocabulary.

    Args:
        vocabulary: A list of names; a comma-separated text (a name with a comma is put in double quotes); a mapping of
            names to their phrases; or a file: ``.yaml`` with a list or a mapping, or with the keys ``names`` and
            ``templates``; otherwise with one name a line (``#`` starts a comment). A ``Path`` is always a file, a text
            if it ends in ``.txt``, ``.yaml`` or ``.yml``. None uses ``default``. :class:`Names` are returned.
        default: The names of the model.

    Raises:
        RecipeError: The file cannot be read; the vocabulary is empty; or a name or phrase is empty, not a text, longer
            than 200 characters, or repeated. All problems are reported together.
    """
    if isinstance(vocabulary, Names):
        return vocabulary
    if vocabulary is None:
        return Names(tuple(default), tuple((name,) for name in default))
    where, values = _values(vocabulary)
    templates: tuple[str, ...] = ()
    if where and isinstance(values, Mapping) and "names" in values and set(values) <= {"names", "templates"}:
        templates = _templates(where, values.get("templates"))
        values = values["names"]
    where = where or "vocabulary"
    if isinstance(values, str) or not isinstance(values, (Sequence, Mapping)):
        raise RecipeError(f"{where}: expected a list of names, {_EXAMPLE}, found {values!r}.")
    given = _phrases_of(values)
    if not given:
        raise RecipeError(f"The vocabulary is empty ({where}). Give at least one name, {_EXAMPLE}.")
    problems = _problems(where, given, isinstance(values, Mapping))
    if problems:
        raise RecipeError(problems)
    names = tuple(name.strip() for name, _ in given)
    return Names(names, tuple(tuple(phrase.strip() for phrase in phrases) for _, phrases in given), templates)


def _values(vocabulary: str | Path | Sequence[str] | Mapping[str, Any]) -> tuple[str, Any]:
    """Return the file, if it is one, and the plain values."""
    if not isinstance(vocabulary, (str, Path)):
        return "", vocabulary if isinstance(vocabulary, Mapping) else list(vocabulary)
    if isinstance(vocabulary, str) and (Path(vocabulary.strip()).suffix.lower() not in _FILES or "," in vocabulary):
        return "", split_names(vocabulary)
    path = Path(vocabulary.strip()) if isinstance(vocabulary, str) else vocabulary
    try:
        content = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() not in _YAML:
            lines = (line.partition("#")[0].strip() for line in content.splitlines())
            return str(path), [line for line in lines if line]
        return str(path), load_yaml(content) or []
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"The vocabulary {path} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"The vocabulary {path} is not valid YAML: {error}") from None


def _phrases_of(values: Sequence[Any] | Mapping[Any, Any]) -> list[tuple[Any, Sequence[Any]]]:
    if not isinstance(values, Mapping):
        return [(name, (name,)) for name in values]
    return [
        (name, (name,) if phrases is None else [phrases] if isinstance(phrases, str) else phrases)
        for name, phrases in values.items()
    ]


def _problems(where: str, given: Sequence[tuple[Any, Any]], keyed: bool) -> list[str]:
    problems: list[str] = []
    seen: dict[str, tuple[int, str]] = {}
    for index, (name, phrases) in enumerate(given):
        place = f"{where}[{name!r}]" if keyed else f"{where}[{index}]"
        if not isinstance(phrases, Sequence) or not phrases:
            problems.append(f"{place}: expected the phrases of the name as a list, found {phrases!r}.")
            continue
        for phrase in [name, *(other for other in phrases if other != name)] if _is_name(name) else [name]:
            if not _is_name(phrase):
                quote = " Put it in quotes." if isinstance(phrase, (bool, int, float)) else ""
                problems.append(f'{place} is {phrase!r}: expected a name, such as "traffic cone".{quote}')
                continue
            if len(phrase) > _LONGEST:
                problems.append(
                    f"{place} has {len(phrase)} characters; expected at most {_LONGEST}, because teachers read only "
                    "the beginning of a long text."
                )
            key = " ".join(phrase.split()).casefold()
            owner, first = seen.setdefault(key, (index, phrase.strip()))
            if owner != index:
                problems.append(f'{place} "{phrase.strip()}" is a duplicate of "{first}". Remove one of them.')
    return problems


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _templates(where: str, templates: Any) -> tuple[str, ...]:
    listed = [templates] if isinstance(templates, str) else templates or []
    if not isinstance(listed, list) or not all(isinstance(text, str) and "{name}" in text for text in listed):
        raise RecipeError(
            f'{where}: templates: expected a list of texts with {{name}}, such as "a photo of a {{name}}", '
            f"found {templates!r}."
        )
    return tuple(listed)

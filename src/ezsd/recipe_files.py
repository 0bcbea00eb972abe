"""Recipe files: shipped recipes and presets by name, files of the user by path, and their YAML."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ezsd.errors import RecipeError
from ezsd.utils.yaml_files import load_yaml

_DATA_PATHS = ("images", "annotations")


def recipes_folder() -> Path:
    """Return the folder of the shipped recipes, in the installed package or in the repository."""
    package = Path(__file__).parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parents[1] / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Return the shipped recipes by name."""
    return {path.stem: path for path in sorted(recipes_folder().glob("*.yaml"))}


def shipped_presets() -> dict[str, Path]:
    """Return the presets by name: parts of a recipe that ``--preset`` applies to any recipe."""
    return {path.stem: path for path in sorted((recipes_folder() / "presets").glob("*.yaml"))}


def find_recipe(recipe: str | Path) -> Path:
    """Return the path of a recipe.

    Args:
        recipe: A path, or the name of a shipped recipe.

    Raises:
        RecipeError: ``recipe`` is neither a file nor a shipped recipe.
    """
    path = Path(recipe)
    shipped = shipped_recipes()
    if path.is_file() or path.name != str(recipe) or path.suffix:
        return path
    if str(recipe) in shipped:
        return shipped[str(recipe)]
    raise RecipeError(
        f"{recipe} is neither a file nor a shipped recipe.{_closest(str(recipe), shipped)} Shipped recipes: "
        f"{', '.join(shipped)} (see ezsd recipes)."
    )


def find_preset(name: str) -> Path:
    """Return the path of a preset.

    Raises:
        RecipeError: There is no preset of this name.
    """
    shipped = shipped_presets()
    if name in shipped:
        return shipped[name]
    raise RecipeError(
        f"{name} is not a preset.{_closest(name, shipped)} Presets: {', '.join(shipped)} (see ezsd recipes)."
    )


def _closest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f' Did you mean "{close[0]}"?' if close else ""


def with_own_data(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the values of a recipe; data paths that exist relative to the folder of the recipe are put behind it.

    Other relative paths stay relative to the working directory.
    """
    data = values.get("data")
    if not isinstance(data, dict):
        return dict(values)
    parts = {
        name: {key: _beside(value, folder) if key in _DATA_PATHS else value for key, value in part.items()}
        if isinstance(part, dict) else part
        for name, part in data.items()
    }  # fmt: skip
    return {**values, "data": parts}


def _beside(value: Any, folder: Path) -> Any:
    try:
        return str(folder / value) if isinstance(value, str) and (folder / value).exists() else value
    except (OSError, ValueError):  # too long, or no path
        return value


def recipe_header(path: Path) -> str:
    """Return the comment lines at the beginning of a recipe or preset without the comment signs."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(line.lstrip("#").removeprefix(" ") for line in itertools.takewhile(_is_comment, lines))


def _is_comment(line: str) -> bool:
    return line.startswith("#")


class _Loader(yaml.SafeLoader):
    """A YAML loader that reads ``1e-4`` as a number and rejects duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            if key_node.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key_node.value} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """Return the plain values of a YAML text; ``1e-4`` is a number, and a key that is given twice is an error."""
    return load_yaml(text, _Loader)


def read_values(path: Path, changes: Sequence[str] = (), preset: str | None = None) -> tuple[dict[str, Any], list[str]]:
    """Read the plain values of a recipe without validation; also return the problems of ``changes``.

    Raises:
        RecipeError: The file is missing, not YAML, or not a mapping, or there is no such preset.
    """
    values = with_own_data(_read_mapping(path), path.parent)
    if preset is not None:
        values = _with_preset(values, _read_mapping(find_preset(preset)))
    return values, [problem for change in changes if (problem := _apply(values, change))]


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"Recipe {path} cannot be read: {error}. Give the path of a recipe file (YAML).") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"Recipe {path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"Recipe {path} has no keys; expected split, teacher, data and others (see recipes/).")
    return values


def _with_preset(values: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with those of the preset in their place."""
    merged = dict(values)
    for key, value in preset.items():
        own = merged.get(key)
        if not isinstance(value, dict) or own is None:
            merged[key] = value
        elif isinstance(own, dict):  # otherwise the section is a problem of the recipe, reported by its validation
            merged[key] = {**own, **value}
    return merged


def _apply(values: dict[str, Any], change: str) -> str:
    """Set one ``--set`` value in ``values``; return the problem, or an empty string."""
    key, equals, text = change.partition("=")
    if not equals or not all(key.split(".")):
        return f"--set {change}: expected KEY=VALUE, as in --set train.lr=0.01."
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        return f"--set {change}: the value is not valid YAML: {error}"
    *parents, last = key.split(".")
    section: Any = values
    for parent in parents:
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            return f"--set {change}: {parent} is a single value and cannot have keys below it."
    section[last] = value
    return ""

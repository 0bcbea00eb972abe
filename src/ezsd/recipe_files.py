"""Recipe files: shipped recipes by name, and files of the user by path."""

from __future__ import annotations

import difflib
import itertools
from pathlib import Path

from ezsd.errors import RecipeError


def recipes_folder() -> Path:
    """Return the folder of the shipped recipes, in the installed package or in the repository."""
    package = Path(__file__).parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parents[1] / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Return the shipped recipes by name."""
    return {path.stem: path for path in sorted(recipes_folder().glob("*.yaml"))}


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
    close = difflib.get_close_matches(str(recipe), shipped, n=1)
    hint = f' Did you mean "{close[0]}"?' if close else ""
    raise RecipeError(
        f"{recipe} is neither a file nor a shipped recipe.{hint} Shipped recipes: {', '.join(shipped)} "
        "(see ezsd recipes)."
    )


def recipe_header(path: Path) -> str:
    """Return the comment lines at the beginning of a recipe without the comment signs."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(line.lstrip("#").removeprefix(" ") for line in itertools.takewhile(_is_comment, lines))


def _is_comment(line: str) -> bool:
    return line.startswith("#")

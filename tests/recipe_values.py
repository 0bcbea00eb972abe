"""Recipes in tests: their values by key, and a recipe that ``ezsd init`` writes."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

from ezsd.commands.init import OwnFiles, make_recipe
from ezsd.recipe import Recipe, recipe_keys
from tiny import make_tiny_coco
from tiny_teacher import TEACHER


def by_key(recipe: Recipe) -> dict[str, Any]:
    """Return the JSON values of a recipe by full key."""
    values = recipe.model_dump(mode="json")
    return {key: reduce(lambda section, part: section[part], key.split("."), values) for key in recipe_keys()}


def written_by_init(folder: Path) -> Path:
    """Write a recipe for the images of tests/tiny.py, and return its path."""
    coco = make_tiny_coco(folder / "data")
    make_recipe(
        OwnFiles(images=coco.images, annotations=coco.annotations), ["bar"], folder / "own.yaml", TEACHER, "cpu"
    )
    return folder / "own.yaml"

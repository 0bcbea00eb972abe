"""Check a recipe and its data before anything runs: ``ezsd validate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ezsd.commands.anchors import LabeledBoxes, advice_on_anchors
from ezsd.data.categories import CategorySplit, load_split
from ezsd.data.formats.coco import PartReading, count_boxes, describe_part, read_part
from ezsd.data.samples import shared_notes
from ezsd.detector.initial_weights import check_detector
from ezsd.errors import DataError, EzsdError, RecipeError
from ezsd.pipeline.workload import describe_data
from ezsd.recipe import Part, Recipe, parse_recipe
from ezsd.recipe_files import find_recipe, read_values
from ezsd.teacher import check_teacher


def check_recipe(path: str | Path, changes: Sequence[str] = (), preset: str | None = None) -> str:
    """Check a recipe, its split and its data; every image is decoded.

    Args:
        path: See :func:`ezsd.recipe.load_recipe`.
        changes: See :func:`ezsd.recipe.load_recipe`.
        preset: See :func:`ezsd.recipe.load_recipe`.

    Returns:
        A summary to print.

    Raises:
        EzsdError: All problems together. Bad images and boxes are not problems if the recipe sets data.skip_bad.
    """
    path = find_recipe(path)
    values, problems = read_values(path, changes, preset)
    recipe = _readable(values, str(path), problems)
    for check in (_check_detector, check_teacher):
        try:
            check(recipe)
        except EzsdError as error:
            problems += error.problems
    split: CategorySplit | None = None
    try:
        split = load_split(recipe.split, recipe.data.train.annotations)
    except EzsdError as error:
        problems += error.problems
    trained, names = (split.trained, split.names) if split else ((), ())  # images can be checked without names
    train = _checked(recipe.data.train, trained, trained, recipe.data.skip_bad, problems)
    val = _checked(recipe.data.val, names, (), recipe.data.skip_bad, problems)
    if problems or train is None or val is None or split is None:
        raise EzsdError(list(dict.fromkeys(problems)))  # a file that cannot be read is one for the split and the part
    notes = [f"{name}: {note}" for name, part in (("train", train), ("val", val)) for note in part.images.notes]
    notes += [f"val: {note}" for note in shared_notes(train.images, val.images)]
    notes += advice_on_anchors(LabeledBoxes.of(train.images), recipe.detector)
    measurable = count_boxes(val.images)[0].total() > 0
    return "\n".join([
        *(f"skipped: {line}" for part in (train, val) for line in part.of_items.shown(part.where)),
        *(f"note: {note}" for note in notes),
        *(describe_part(name, part.images) for name, part in (("train", train), ("val", val))),
        f"{'OK' if measurable else 'Nothing to measure, the val part has no boxes'}: "
        f"{describe_data(split, {'train': train.images, 'val': val.images})}.",
    ])  # fmt: skip


def _check_detector(recipe: Recipe) -> None:
    check_detector(recipe.detector)


def _checked(
    part: Part, names: tuple[str, ...], required: tuple[str, ...], skip_bad: bool, problems: list[str]
) -> PartReading | None:
    try:
        found = read_part(part, names, required, decode=True)
    except DataError as error:
        problems += error.problems
        return None
    problems += found.problems(skip_bad)
    return found


def _readable(values: Mapping[str, Any], where: str, problems: list[str]) -> Recipe:
    """Return the recipe, or a recipe of split and data only if other keys have problems, so that both are checked."""
    try:
        return parse_recipe(values, where)
    except RecipeError as error:
        problems += error.problems
    try:
        return parse_recipe({"teacher": "", "split": values.get("split"), "data": values.get("data")}, where)
    except RecipeError:
        raise RecipeError(problems) from None

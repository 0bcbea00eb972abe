"""The user's own photos: a recipe for them, and all that is wrong with them, told before anything runs."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ezsd.data.annotations import read_annotations
from ezsd.data.categories import CategorySplit, load_split
from ezsd.data.coco import Photos, load_photos, validate_part
from ezsd.errors import ArtifactError, DataError, EzsdError, RecipeError
from ezsd.files import write_text
from ezsd.recipe import Part, Recipe, parse_recipe, read_values

_VAL_EVERY = 5  # one photo in five is kept for validation
_SMALLEST, _SHORT, _LONG = 256, 800, 1333  # pixels; the larger two are the published setting


def check_recipe(path: Path, changes: Sequence[str] = ()) -> str:
    """Check a recipe, its split and its data; every picture is decoded.

    Returns:
        what was found, for people.

    Raises:
        EzsdError: all faults at once. Bad photos and boxes are none where the recipe allows them (data.skip_bad).
    """
    values, faults = read_values(path, changes)
    recipe = _readable(values, str(path), faults)
    split: CategorySplit | None = None
    try:
        split = load_split(recipe.split, recipe.data.train.annotations)
    except EzsdError as error:
        faults += error.faults
    base, names = (split.base, split.names) if split else ((), ())  # pictures can be checked without names
    train = _checked(recipe.data.train, base, base, recipe.data.skip_bad, faults)
    val = _checked(recipe.data.val, names, (), recipe.data.skip_bad, faults)
    if faults or train is None or val is None or split is None:
        raise EzsdError(faults)
    boxes = [sum(len(photo.boxes) for photo in part.photos) for part in (train, val)]
    return "\n".join([
        *(f"left out: {fault}" for fault in train.skipped + val.skipped),
        f"Fine: {len(split.base)} base and {len(split.novel)} novel names; train {len(train.photos)} photos with "
        f"{boxes[0]} base boxes; val {len(val.photos)} photos with {boxes[1]} base and novel boxes.",
    ])  # fmt: skip


def make_recipe(
    images: Path,
    annotations: Path,
    novel: Sequence[str],
    out: Path,
    val_annotations: Path | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write a commented recipe for the user's photos: base names are the categories that have boxes.

    Args:
        images: folder of the photos.
        annotations: COCO JSON; without ``val_annotations`` its photos are parted, every fifth by id goes to val, and
            two files are written beside the recipe.
        novel: names to find without boxes.
        out: the recipe's file.
        val_annotations: COCO JSON of other photos in the same folder.
        overwrite: replace files that are there.

    Returns:
        the files that were written, the recipe last.

    Raises:
        DataError: the annotations cannot be used, or ``images`` holds none of their photos.
        RecipeError: no novel name, or no base name is left.
        ArtifactError: a file is there already, or cannot be written.
    """
    content = read_annotations(annotations)
    texts: dict[Path, str] = {}
    parts = {"train": annotations}
    try:
        counts = _boxes_by_name(content)
        sizes = [(entry["width"], entry["height"]) for entry in content["images"]]
        found = any((images / entry["file_name"]).is_file() for entry in content["images"])
        if val_annotations is None:
            for name, part in _parted(content, annotations).items():
                parts[name] = out.with_name(f"{out.stem}_{name}.json")
                texts[parts[name]] = json.dumps(part)
        else:
            parts["val"] = val_annotations
    except (KeyError, TypeError) as error:
        raise DataError(f"{annotations} is not COCO: an entry of its lists lacks a key ({error!r}).") from None
    if not novel:
        raise RecipeError('No novel name. Name what is to be found without boxes: --novel "traffic cone, umbrella"')
    load_split({"base": [name for name in counts if name not in novel], "novel": novel})
    if not found:
        raise DataError(f"{images} holds no photo of {annotations}. Give the folder that file_name starts in.")
    texts[out] = _recipe_text(images, parts, novel, counts, sizes, out)
    there = [str(path) for path in texts if path.exists()]
    if there and not overwrite:
        raise ArtifactError(f"{', '.join(there)} would be replaced. Give another --out, or --overwrite.")
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def _checked(
    part: Part, names: tuple[str, ...], required: tuple[str, ...], skip_bad: bool, faults: list[str]
) -> Photos | None:
    found = [] if skip_bad else validate_part(part, names, required)
    if not found:
        try:
            return load_photos(part, names, skip_bad, required)
        except DataError as error:
            found = list(error.faults)
    faults += found
    return None


def _readable(values: Mapping[str, Any], where: str, faults: list[str]) -> Recipe:
    """Return the recipe; beside faults elsewhere, one with its split and data alone, so that these can be checked."""
    try:
        return parse_recipe(values, where)
    except RecipeError as error:
        faults += error.faults
    try:
        return parse_recipe({"teacher": "", "split": values.get("split"), "data": values.get("data")}, where)
    except RecipeError:
        raise RecipeError(faults) from None


def _boxes_by_name(content: Mapping[str, list[Any]]) -> dict[str, int]:
    """Count the boxes of each category that has any, crowds apart; in the order of the category ids."""
    names = {entry["id"]: str(entry["name"]) for entry in sorted(content["categories"], key=lambda entry: entry["id"])}
    counts = Counter(entry["category_id"] for entry in content["annotations"] if not entry.get("iscrowd"))
    return {name: counts[key] for key, name in names.items() if counts[key]}


def _parted(content: Mapping[str, list[Any]], annotations: Path) -> dict[str, dict[str, list[Any]]]:
    ids = sorted(entry["id"] for entry in content["images"])
    if len(ids) < 2:
        raise DataError(f"{annotations} has {len(ids)} photo; at least 2 are needed, one for train and one for val.")
    val = {*ids[_VAL_EVERY - 1 :: _VAL_EVERY], ids[-1]}
    return {
        name: {
            "images": [entry for entry in content["images"] if (entry["id"] in val) == (name == "val")],
            "annotations": [entry for entry in content["annotations"] if (entry["image_id"] in val) == (name == "val")],
            "categories": content["categories"],
        }
        for name in ("train", "val")
    }


def _recipe_text(
    images: Path,
    parts: Mapping[str, Path],
    novel: Sequence[str],
    counts: Mapping[str, int],
    sizes: Sequence[tuple[int, int]],
    out: Path,
) -> str:
    short = round(min(_SHORT, max(_SMALLEST, statistics.median(min(size) for size in sizes))))
    long = round(min(_LONG, max(short, statistics.median(max(size) for size in sizes))))
    data = "\n".join(
        f"  {name}:\n    images: {json.dumps(str(images.absolute()), ensure_ascii=False)}\n"
        f"    annotations: {json.dumps(str(path.absolute()), ensure_ascii=False)}"
        for name, path in parts.items()
    )
    base = "\n".join(f"    - {json.dumps(name, ensure_ascii=False)}  # {count} boxes"
                     for name, count in counts.items() if name not in novel)  # fmt: skip
    names = "\n".join(f"    - {json.dumps(name, ensure_ascii=False)}" for name in novel)
    return f"""\
# Finds the novel names without boxes of them.
#   ezsd validate {out}
#   ezsd run {out} --out runs/{out.stem}
# gzsd AP50: not measured.
# docs/recipes.md lists all keys; those left out have their defaults.
split:
  base:  # boxes of these are learned
{base}
  novel:  # these are names only; boxes of them in the val photos are used for the figures alone
{names}
teacher: offline  # knows everyday things; open_clip:ViT-B-32/openai knows far more, and is downloaded once
seed: 0
data:
{data}
  skip_bad: false  # true leaves bad photos and boxes out instead of stopping
adapt:
  towers: [image]
  epochs: 2
  lr: 1.0e-3
  balance: 1.0  # frequent base names do not crowd out the others
detector:
  backbone: tf_efficientnet_lite0  # small enough for a CPU; resnet50 is the published one
  image_size: [{short}, {long}]  # photos are resized to this short side, at most this long side
  anchor_sides: {[32, 64, 128, 256, 512] if short > _SHORT / 2 else [16, 32, 64, 128, 256]}
  masks: auto  # learned when the annotations have them
train:
  epochs: 12  # passes over the photos; the first thing to raise when there are few
  batch_size: 4  # lower it when memory is short
  optimizer: adamw
  lr: 5.0e-4
  schedule: cosine
  warmup_steps: 200
"""

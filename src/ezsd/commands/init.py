"""Write a recipe for the user's own images: ``ezsd init``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ezsd.commands.advice import advice_on_data, advice_on_names, advice_on_teacher
from ezsd.commands.anchors import LabeledBoxes
from ezsd.commands.recipe_template import PROMPT, OwnData, choose_settings, recipe_text
from ezsd.data.categories import load_split
from ezsd.data.formats.coco_json import read_annotations
from ezsd.errors import ArtifactError, DataError, RecipeError
from ezsd.utils.files import write_text

_VAL_EVERY = 5  # every fifth image is used for validation


@dataclass(frozen=True)
class OwnRecipe:
    """The result of :func:`make_recipe`.

    Attributes:
        files: The written files, the recipe last.
        advice: Advice on names and boxes, one text per topic.
    """

    files: list[Path]
    advice: list[str]


@dataclass(frozen=True)
class OwnFiles:
    """The user's files.

    Attributes:
        images: The folder of the images.
        annotations: A COCO JSON file. Without ``val_annotations``, its images are split: every fifth image by id is
            used for validation, and two annotation files are written next to the recipe.
        val_annotations: A COCO JSON file of other images in the same folder.
    """

    images: Path
    annotations: Path
    val_annotations: Path | None = None


def make_recipe(
    files: OwnFiles,
    novel: Sequence[str],
    out: Path,
    teacher: str = "offline",
    device: str = "auto",
    overwrite: bool = False,
) -> OwnRecipe:
    """Write a commented recipe for the user's images. The base names are the categories that have boxes.

    Args:
        files: The images and their boxes.
        novel: The names to detect without boxes.
        out: The recipe file to write.
        teacher: The teacher, as in a recipe. It is also used to find names that it would confuse.
        device: ``cpu``, ``gpu``, or ``auto`` for a GPU if this machine has one.
        overwrite: Replace existing files.

    Raises:
        DataError: The annotations are invalid, or ``images`` contains none of their images.
        RecipeError: ``novel`` is empty, no base name remains, or the teacher is unknown.
        ArtifactError: A file already exists or cannot be written.
    """
    images, annotations, val_annotations = files.images, files.annotations, files.val_annotations
    content = read_annotations(annotations)
    texts: dict[Path, str] = {}
    parts = {"train": annotations}
    try:
        counts = _boxes_by_name(content)
        found = any((images / entry["file_name"]).is_file() for entry in content["images"])
        sizes = [(int(entry["width"]), int(entry["height"])) for entry in content["images"]]
        numbers, val_counts = {"train": len(sizes), "val": 0}, dict[str, int]()
        if val_annotations is None:
            for name, part in _split_images(content, annotations).items():
                parts[name], numbers[name] = out.with_name(f"{out.stem}_{name}.json"), len(part["images"])
                texts[parts[name]] = json.dumps(part)
        else:
            val = read_annotations(val_annotations)
            parts["val"], numbers["val"], val_counts = val_annotations, len(val["images"]), _boxes_by_name(val)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{annotations} is not valid COCO: an entry of its lists lacks a key ({error!r}).") from None
    if not novel:
        raise RecipeError('No novel name. Give names to detect without boxes, as in --novel "traffic cone, umbrella".')
    base = [name for name, count in counts.items() if count and name not in novel]
    split = load_split({"base": base, "novel": list(dict.fromkeys(novel))})
    if not found:
        raise DataError(f"{images} contains no image of {annotations}. Give the folder that file_name is relative to.")
    data = OwnData(images, parts, numbers, sizes, counts, _base_boxes(content, base))
    settings = choose_settings(data, device)
    texts[out] = recipe_text(data, split, teacher, out, settings)
    existing = [str(path) for path in texts if path.exists()]
    if existing and not overwrite:
        raise ArtifactError(f"{', '.join(existing)} already exists. Use another --out, or replace it with --overwrite.")
    advice = [
        *advice_on_data(split, counts, val_counts, numbers["train"], numbers["val"]),
        *advice_on_names(split, novel),
        *advice_on_teacher(teacher, split, PROMPT),
        settings.anchors.advice,
    ]
    for path, text in texts.items():
        write_text(path, text)
    return OwnRecipe(list(texts), advice)


def _boxes_by_name(content: Mapping[str, list[Any]]) -> dict[str, int]:
    """Count the boxes of each category, crowd boxes excluded, in the order of the category ids."""
    boxes = Counter(entry["category_id"] for entry in content["annotations"] if not entry.get("iscrowd"))
    counts: dict[str, int] = {}
    for entry in sorted(content["categories"], key=lambda entry: entry["id"]):
        counts[str(entry["name"])] = counts.get(str(entry["name"]), 0) + boxes[entry["id"]]
    return counts


def _base_boxes(content: Mapping[str, list[Any]], base: Sequence[str]) -> LabeledBoxes:
    """Return the boxes of base names, crowd boxes excluded. Invalid boxes are skipped; ezsd validate lists them."""
    names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
    sizes = {entry["id"]: (float(entry["width"]), float(entry["height"])) for entry in content["images"]}
    rows = [
        (*map(float, entry["bbox"]), *sizes[entry["image_id"]])
        for entry in content["annotations"]
        if names.get(entry["category_id"]) in base
        and not entry.get("iscrowd")
        and entry.get("image_id") in sizes
        and _is_box(entry.get("bbox"))
    ]
    table = torch.tensor(rows).reshape(-1, 6)
    return LabeledBoxes(torch.cat([table[:, :2], table[:, :2] + table[:, 2:4]], dim=1), table[:, 4:])


def _is_box(box: Any) -> bool:
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(value, (int, float)) for value in box)
    return numbers and min(box[2:]) > 0


def _split_images(content: Mapping[str, list[Any]], annotations: Path) -> dict[str, dict[str, list[Any]]]:
    ids = sorted(entry["id"] for entry in content["images"])
    if len(ids) < 2:
        raise DataError(f"{annotations} lists {len(ids)} image; at least 2 are needed, one for train and one for val.")
    val = {*ids[_VAL_EVERY - 1 :: _VAL_EVERY], ids[-1]}
    return {
        name: {
            "images": [entry for entry in content["images"] if (entry["id"] in val) == (name == "val")],
            "annotations": [entry for entry in content["annotations"] if (entry["image_id"] in val) == (name == "val")],
            "categories": content["categories"],
        }
        for name in ("train", "val")
    }

"""Write a recipe for the user's own images: ``ezsd init``."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ezsd.commands.advice import advice_on_data, advice_on_names, advice_on_teacher
from ezsd.commands.anchors import LabeledBoxes
from ezsd.commands.recipe_template import PROMPT, OwnData, choose_settings, recipe_text
from ezsd.data.categories import CategorySplit, load_split
from ezsd.data.formats.coco import OpenedPart, PartReading, count_boxes, describe_part, select_boxes
from ezsd.data.formats.coco_entries import entry_file_name
from ezsd.data.formats.coco_json import read_annotations
from ezsd.data.formats.coco_layout import holds_images
from ezsd.data.formats.recognize import DataSet, Source, open_dataset
from ezsd.data.formats.rewrite import divided, write_annotations
from ezsd.data.formats.sources import check_box_format, open_source
from ezsd.data.samples import ImageSet, shared_notes
from ezsd.data.val_split import choose_val
from ezsd.errors import ArtifactError, DataError, RecipeError
from ezsd.pipeline.workload import count_work
from ezsd.recipe import Part, Recipe, parse_recipe
from ezsd.recipe_files import parse_yaml
from ezsd.teacher import check_teacher
from ezsd.utils.files import write_text
from ezsd.utils.format import counted

_VAL_SHARE = 0.2


@dataclass(frozen=True)
class OwnRecipe:
    """The result of :func:`make_recipe`.

    Attributes:
        files: The written files, the recipe last.
        summary: What was found: the format, and the images and boxes of each part.
        advice: Advice on names, images and boxes, one text per topic.
        work: What each stage has to do, one text per stage.
    """

    files: list[Path]
    summary: list[str]
    advice: list[str]
    work: list[str]


@dataclass(frozen=True)
class OwnFiles:
    """The user's files: a data set, or images and annotations by themselves.

    Attributes:
        dataset: A folder or file in a format of :func:`ezsd.data.formats.recognize.open_dataset`.
        images: The folder of the images; replaces the folder that was found.
        annotations: A COCO JSON file.
        val_images: The folder of the val images; None for where they are found, or that of the train images.
        val_annotations: The val part in any of the formats, a folder or file; replaces that of the data set.
        val_share: The fraction of the images to use for validation if there is no val part; None for 0.2.
        box_format: What the boxes in the files are, one of ``BOX_FORMATS``; None for what the format of the data set
            says. Then boxes that are something else are refused.
        base: The base names; empty for all categories with boxes that are not novel.
    """

    dataset: Path | None = None
    images: Path | None = None
    annotations: Path | None = None
    val_images: Path | None = None
    val_annotations: Path | None = None
    val_share: float | None = None
    box_format: str | None = None
    base: Sequence[str] = ()


def make_recipe(
    files: OwnFiles,
    novel: Sequence[str],
    out: Path,
    teacher: str = "offline",
    device: str = "auto",
    overwrite: bool = False,
) -> OwnRecipe:
    """Write a commented recipe for the user's images.

    Annotations that are not COCO JSON, and parts that are split here, are written as COCO JSON next to the recipe. The
    user's files are not changed.

    Args:
        files: The images and their boxes.
        novel: The names to detect without boxes; empty for all categories with boxes that are not in ``files.base``.
        out: The recipe file to write.
        teacher: The teacher, as in a recipe. It is also used to find names that it would confuse.
        device: ``cpu``, ``gpu``, or ``auto`` for a GPU if this machine has one.
        overwrite: Replace existing files.

    Raises:
        DataError: The data set cannot be used.
        RecipeError: Neither base nor novel names are given, no base or novel name remains, or the teacher is unknown.
        ArtifactError: A file already exists or cannot be written.
    """
    if not novel and not files.base:
        raise RecipeError('No novel name. Give names to detect without boxes, as in --novel "traffic cone, umbrella", '
                          "or base names with --base: all other categories with boxes are then novel.")  # fmt: skip
    dataset = _opened(files)
    parts = _parts_of(dataset, files, out)
    split = _split(parts, files.base, novel)
    read = {name: _as_run(name, part, split) for name, part in parts.items()}
    train, val = read["train"].images, read["val"].images
    boxes, val_boxes = count_boxes(parts["train"].images)[0], count_boxes(parts["val"].images)[0]
    data = OwnData(
        parts["train"].opened.part.images,
        {name: part.opened.part.annotations for name, part in parts.items()},
        {"train": len(train), "val": len(val)},
        [(image.width, image.height) for image in train],
        boxes,
        LabeledBoxes.of(train),
        parts["val"].opened.part.images,
    )
    settings = choose_settings(data, device)
    text = recipe_text(data, split, teacher, out, settings)
    written = {part.opened.part.annotations: part.opened.content for part in parts.values() if part.is_new}
    _check_free([*written, out], files, overwrite)
    advice = [
        *dataset.notes,
        *(f"{name}: {note}" for name, part in parts.items() for note in [*read[name].images.notes, *part.notes]),
        *advice_on_data(split, boxes, val_boxes, len(train), len(val)),
        *advice_on_names(split, novel),
        *advice_on_teacher(teacher, split, PROMPT),
        settings.anchors.advice,
    ]
    recipe = parse_recipe(parse_yaml(text), str(out))
    _check_teacher(recipe)
    for path, content in written.items():
        write_annotations(path, content)
    write_text(out, text)
    summary = [*dataset.summary, *(describe_part(name, part.images) for name, part in read.items())]
    plans = count_work(recipe, split, {"train": train, "val": val})
    return OwnRecipe([*written, out], summary, advice, [str(plan) for plan in plans])


def _check_free(paths: Sequence[Path], files: OwnFiles, overwrite: bool) -> None:
    """Raise ArtifactError if files of the data set, or existing ones, would be replaced."""
    given = {path.resolve() for path in (files.dataset, files.annotations, files.val_annotations) if path is not None}
    if own := [str(path) for path in paths if path.resolve() in given]:
        raise ArtifactError(f"{', '.join(own)} is a file of the data set and would be replaced. Use another --out.")
    existing = [str(path) for path in paths if path.exists()]
    if existing and not overwrite:
        raise ArtifactError(f"{', '.join(existing)} already exists. Use another --out, or replace it with --overwrite.")


def _check_teacher(recipe: Recipe) -> None:
    """Raise RecipeError as ``validate`` and ``run`` do, and say how to get the recipe nevertheless."""
    try:
        check_teacher(recipe)
    except RecipeError as error:
        way = (
            f"Or write the recipe with --teacher offline, and set teacher: {recipe.teacher} and propose.scoring in it."
        )
        raise RecipeError([f"{problem} {way}" for problem in error.problems]) from None


@dataclass(frozen=True)
class _Part:
    """One part: its annotations, whether they have to be written, its images with the boxes of all names, and notes."""

    opened: OpenedPart
    is_new: bool
    images: ImageSet
    notes: list[str]


@dataclass(frozen=True)
class _Found:
    """The parts that are used, one line for each thing that was found, and notes."""

    parts: dict[str, Source]
    summary: list[str]
    notes: list[str]


def _opened(files: OwnFiles) -> _Found:
    if files.val_share is not None and not 0 < files.val_share < 1:
        raise RecipeError(f"--val-share {files.val_share}: expected a fraction between 0 and 1, such as 0.2.")
    if files.dataset is None and files.annotations is None:
        raise RecipeError("Give a data set, as in ezsd init DATASET, or --images and --annotations.")
    found = open_dataset(files.annotations or files.dataset or Path(), files.box_format)
    train = found.parts["train"]
    parts = {"train": replace(train, images=files.images or train.images)}
    notes, summary = [*found.part_notes, *found.notes], [f"found {found.description}"]
    if files.val_annotations is not None:
        val = open_dataset(files.val_annotations, files.box_format)
        parts["val"] = _val_source(val, files, parts["train"].images)
        notes += [f"val: {note}" for note in val.notes]
        summary.append(f"found {val.description}, for the val part")
    elif "val" in found.parts:
        parts["val"] = replace(found.parts["val"], images=files.val_images or found.parts["val"].images)
    elif files.val_images is not None:
        raise RecipeError(f"--val-images {files.val_images}: the data set has no val part, so the boxes of these "
                          "images are not known. Give them with --val-annotations: a folder or file in any of the "
                          "formats (for YOLO, a data.yaml whose train is this folder).")  # fmt: skip
    if "val" in parts and files.val_share is not None:
        notes.append(f"--val-share {files.val_share} is not used: there is a val part.")
    if "test" in found.parts:
        summary.append("found test: not used; a recipe has a train and a val part")
    return _Found(parts, summary, notes)


def _val_source(dataset: DataSet, files: OwnFiles, train_images: Path) -> Source:
    """Return the val part of a data set, or its only part, with the folder that has its images."""
    source = dataset.parts.get("val", dataset.parts["train"])
    if files.val_images is not None:
        return replace(source, images=files.val_images)
    content = source.content["images"] if source.content else read_annotations(source.annotations or Path()).images
    names = [name for entry in content if isinstance(entry, dict) and (name := entry_file_name(entry))]
    folders = [*([files.images] if files.images else []), source.images]
    return replace(source, images=next((folder for folder in folders if holds_images(folder, names)), train_images))


def _parts_of(dataset: _Found, files: OwnFiles, out: Path) -> dict[str, _Part]:
    """Read the parts, and split the train part if there is no val part."""
    parts = {name: _read(name, source, files.box_format, out) for name, source in dataset.parts.items()}
    if "val" in parts:
        shared = shared_notes(parts["train"].images, parts["val"].images)
        return {**parts, "val": replace(parts["val"], notes=[*parts["val"].notes, *shared])}
    opened, images = parts["train"].opened, parts["train"].images
    if len(images) < 2:
        raise DataError(f"{opened.part.annotations} lists {counted(len(images), 'usable image')}; at least 2 are "
                        "needed, one for train and one for val.")  # fmt: skip
    chosen = choose_val(images.images, _VAL_SHARE if files.val_share is None else files.val_share)
    return {
        name: _all_names(
            opened.with_content(Part(images=opened.part.images, annotations=_written(out, name)), content),
            is_new=True,
            notes=[chosen.note] if name == "val" else [],
        )
        for name, content in divided(opened.content, chosen.ids).items()
    }


def _written(out: Path, name: str) -> Path:
    return out.with_name(f"{out.stem}_{name}.json")


def _read(name: str, source: Source, box_format: str | None, out: Path) -> _Part:
    """Read one part with the boxes of all names, and raise the problems that would stop ``validate`` and ``run``."""
    opened = open_source(source, _written(out, name), box_format)
    is_new = source.content is not None or box_format is not None
    return _all_names(opened, is_new, box_format=box_format)


def _all_names(opened: OpenedPart, is_new: bool, notes: Sequence[str] = (), box_format: str | None = None) -> _Part:
    reading = select_boxes(opened)
    images = reading.images_or_error(skip_bad=True)
    check_box_format(reading, box_format)
    return _Part(opened, is_new, images, [*notes, *_problem_notes(reading)])


def _as_run(name: str, part: _Part, split: CategorySplit) -> PartReading:
    """Read a part with the names of the split, as ``validate`` and ``run`` do.

    Raises:
        DataError: The names do not fit the annotations, or no box is left to learn from.
    """
    names, required = (split.trained, split.trained) if name == "train" else (split.names, ())
    reading = select_boxes(part.opened, names, required)
    reading.images_or_error(skip_bad=True)
    return reading


def _problem_notes(reading: PartReading) -> list[str]:
    if not reading.of_items:
        return []
    stops = counted(len(reading.of_items), "problem stops", "problems stop")
    return [
        *reading.of_items.shown(reading.where),
        f"{stops} a run until fixed, or skipped with data.skip_bad: true in the recipe.",
    ]


def _split(parts: Mapping[str, _Part], base: Sequence[str], novel: Sequence[str]) -> CategorySplit:
    """Return the given names; those that are not given are all others with boxes."""
    train = parts["train"].images
    boxes, crowds = count_boxes(train)
    if unknown := [name for name in dict.fromkeys(base) if name not in train.names]:
        raise RecipeError([_not_a_category(name, train.names) for name in unknown])
    if not base:
        base = [name for name, count in boxes.items() if count and name not in novel]
    elif not novel:  # novel names are often labeled in the val part only
        everywhere = sum((count_boxes(part.images)[0] for part in parts.values()), Counter[str]())
        novel = [name for name, count in everywhere.items() if count and name not in base]
    if not base:
        raise RecipeError([
            f"No base name is left: {counted(boxes.total(), 'box', 'boxes')} and "
            f"{counted(crowds, 'crowd box', 'crowd boxes')} in the train part, and base names are the categories with "
            "boxes that are not novel.", *train.notes, *parts["train"].notes,
        ])  # fmt: skip
    if not novel:
        raise RecipeError("No novel name is left: --base has all categories with boxes. Give names to detect without "
                          "boxes with --novel.")  # fmt: skip
    return load_split({"base": list(dict.fromkeys(base)), "novel": list(dict.fromkeys(novel))})


def _not_a_category(name: str, names: Sequence[str]) -> str:
    plain = {other.casefold(): other for other in names}
    close = [plain[other] for other in difflib.get_close_matches(name.casefold().strip(), plain, n=3)]
    shown = ", ".join(f'"{other}"' for other in close or names[:10])
    return (f'--base: "{name}" is not a category of the train part; expected names as in the annotations. '
            f"{'The nearest are' if close else 'The first are'} {shown}.")  # fmt: skip

"""Commands before a run: doctor, validate, plan, init, convert."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ezsd.cli.options import BoxFormat, DeviceOption, Preset, RecipePath, Set, error_messages


class Target(str, Enum):
    """The devices that a recipe can be written for."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


class Layout(str, Enum):
    """The formats that a data set can be converted to."""

    coco = "coco"
    yolo = "yolo"
    voc = "voc"


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for a bug report.")] = False,
) -> None:
    """Check versions, devices, operators, disk, memory, extras and teachers, and say how to fix problems."""
    from ezsd.commands.doctor import as_text, examine

    found = examine()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        Console(highlight=False).print(as_text(found))
    if any(problem["stops"] for problem in found["problems"]):
        raise typer.Exit(1)


def validate(recipe: RecipePath, preset: Preset = None, changes: Set = None) -> None:
    """Check a recipe, its split and every image, and list all problems."""
    with error_messages():
        from ezsd.commands.validate import check_recipe

        typer.echo(check_recipe(recipe, changes or (), preset))


def plan(
    recipe: RecipePath,
    preset: Preset = None,
    changes: Set = None,
    device: DeviceOption = "auto",
    gpus: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Also project to COCO, LVIS and 10 million images on N such devices."),
    ] = None,
) -> None:
    """Count the work of a recipe and estimate its time by measuring for about a minute; no files are written."""
    with error_messages():
        from ezsd.recipe import load_recipe

        loaded = load_recipe(recipe, changes or (), preset)  # report typing errors before torch is imported
        from ezsd.commands.plan import make_plan
        from ezsd.utils.device import choose_device

        choose_device(device)
        Console(highlight=False).print(make_plan(loaded, str(recipe), gpus))


def init(
    dataset: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DATASET]",
            help="A folder or file: COCO, YOLO, Pascal VOC, CVAT, LVIS or LabelMe.",
        ),
    ] = None,
    novel: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help='Names to detect without boxes: "traffic cone, umbrella"; default: all categories that are not base.',
        ),
    ] = "",
    base: Annotated[
        str, typer.Option(metavar="NAMES", help="Base names; default: all categories with boxes that are not novel.")
    ] = "",
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of the images, if not found.")] = None,
    annotations: Annotated[Path | None, typer.Option(metavar="JSON", help="The boxes as COCO JSON.")] = None,
    val_images: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of the val images.")] = None,
    val_annotations: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The val part: a folder or file in any of the formats.")
    ] = None,
    val_share: Annotated[
        float | None,
        typer.Option(help="The fraction of the images used for validation, if there is no val part; default: 0.2."),
    ] = None,
    box_format: BoxFormat = None,
    out: Annotated[Path, typer.Option(metavar="RECIPE", help="The recipe file to write.")] = Path("recipe.yaml"),
    teacher: Annotated[
        str, typer.Option(metavar="TEACHER", help="offline, open_clip:ViT-B-32/openai or others, see docs/teachers.md.")
    ] = "offline",
    device: Annotated[
        Target, typer.Option("--for", help="The device to write the recipe for; auto: a GPU if there is one.")
    ] = Target.auto,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Write a recipe for your own images. Give --novel, --base, or both."""
    with error_messages():
        from ezsd.commands.init import OwnFiles, make_recipe
        from ezsd.data.categories import split_names
        from ezsd.utils.format import shell_quoted

        files = OwnFiles(
            dataset, images, annotations, val_images, val_annotations, val_share, box_format, split_names(base)
        )
        made = make_recipe(files, split_names(novel), out, teacher, device.value, overwrite)
        for text in made.summary:
            typer.echo(text)
        for path in made.files:
            typer.echo(f"wrote {path}")
        for text in made.advice:
            typer.echo(f"note: {text}")
        for text in made.work:
            typer.echo(f"work of {text}")
        recipe, run = shell_quoted(out), shell_quoted(Path("runs", out.stem))
        plan = f"plan {recipe}  # time, disk and memory on this machine"
        for command in (f"validate {recipe}", plan, f"run {recipe} --out {run}"):
            typer.echo(f"next: ezsd {command}")


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="A folder or file: COCO, YOLO, Pascal VOC, CVAT, LVIS or LabelMe.")
    ],
    out: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write.")],
    to: Annotated[Layout, typer.Option(help="The format to write.")],
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave invalid images and boxes out.")] = False,
    box_format: BoxFormat = None,
) -> None:
    """Copy a data set to a folder in another format."""
    with error_messages():
        from ezsd.commands.convert import FORMATS
        from ezsd.commands.convert import convert as convert_dataset

        made = convert_dataset(source, out, FORMATS[list(Layout).index(to)], skip_bad, box_format)
        for text in made.summary:
            typer.echo(text)
        for text in made.notes:
            typer.echo(f"note: {text}")
        typer.echo(f"wrote {out}")

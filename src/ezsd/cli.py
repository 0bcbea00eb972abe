"""The command line. Rooms are imported by the command that needs them, so that ``ezsd --help`` is quick."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ezsd._version import __version__
from ezsd.errors import EzsdError

if TYPE_CHECKING:
    from ezsd.run_folder import Metrics, Stage

app = typer.Typer(
    help="Zero-shot object detection: train a fast detector for objects you have only the names of.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Until(str, Enum):
    """The stages of a run."""

    adapt = "adapt"
    propose = "propose"
    train = "train"
    evaluate = "evaluate"
    report = "report"


RecipePath = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="A recipe (YAML), or the name of a shipped one: see ezsd recipes."),
]
RunFolder = Annotated[Path, typer.Argument(metavar="DIR", help="A run folder, made by ezsd run.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value: train.lr=0.01.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Redo what was made from another recipe or other data; it is removed.")
]


class Level(str, Enum):
    """What is shown of the log."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show details, as --log-level debug.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings only, as --log-level warning.")] = False,
    log_level: Annotated[Level, typer.Option(help="Show log messages from this level on.")] = Level.info,
) -> None:
    from ezsd.utils.log import show_log

    level = Level.debug if verbose else Level.warning if quiet else log_level
    show_log(getattr(logging, level.name.upper()))
    if version:
        typer.echo(f"ezsd {__version__}")
        raise typer.Exit


@app.command()
def run(
    recipe: RecipePath,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The run folder.")],
    changes: Set = None,
    until: Annotated[Until, typer.Option(help="The last stage to run.")] = Until.report,
    overwrite: Overwrite = False,
) -> None:
    """Run a recipe: adapt, propose, train, evaluate, report. Run again, it goes on where it was."""
    with _error_messages():
        from ezsd.recipe import load_recipe

        loaded = load_recipe(recipe, changes or ())  # a typing error is told before torch is loaded
        from ezsd.pipeline.run import run_recipe

        _show(run_recipe(loaded, out, until.value, overwrite))


@app.command()
def adapt(folder: RunFolder, overwrite: Overwrite = False) -> None:
    """Stage 1 of a run folder: the teacher's normalisation layers learn the images' domain."""
    _run_stage(folder, "adapt", overwrite)


@app.command()
def propose(folder: RunFolder, overwrite: Overwrite = False) -> None:
    """Stage 2 of a run folder: CLIP proposals and the teacher's embeddings."""
    _run_stage(folder, "propose", overwrite)


@app.command()
def train(folder: RunFolder, overwrite: Overwrite = False) -> None:
    """Stage 3 of a run folder: train the detector."""
    _run_stage(folder, "train", overwrite)


@app.command()
def evaluate(folder: RunFolder, overwrite: Overwrite = False) -> None:
    """Stage 4 of a run folder: zsd and gzsd figures on the val images."""
    _run_stage(folder, "evaluate", overwrite)


@app.command()
def report(
    folder: RunFolder,
    baseline: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Another run of the same split and val images, shown beside.")
    ] = None,
) -> None:
    """Write report.html of a finished run: figures, curves, categories and images in one file."""
    with _error_messages():
        from ezsd.report.page import write_report

        typer.echo(f"wrote {write_report(folder, baseline)}")


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, made by ezsd run.")],
    mean: Annotated[
        bool, typer.Option("--mean", help="Runs that differ in nothing but their seed: mean and standard deviation.")
    ] = False,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Compare runs of different settings, splits or val images all the same.")
    ] = False,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the table as CSV too.")] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the table as a page too.")] = None,
) -> None:
    """Show the figures of runs side by side."""
    with _error_messages():
        from ezsd.report.compare import as_csv, as_html, as_text
        from ezsd.report.compare import compare as compare_runs
        from ezsd.utils.files import write_text

        table = compare_runs(folders, mixed, mean)
        console = Console(highlight=False)
        console.print(as_text(table, console.width))
        for path, write in ((csv, as_csv), (html, as_html)):
            if path is not None:
                write_text(path, write(table))
                typer.echo(f"wrote {path}")


@app.command()
def recipes() -> None:
    """List the shipped recipes: what they are for, their command, and the figures they gave."""
    from ezsd.recipe_files import recipe_header, shipped_recipes

    for name, path in shipped_recipes().items():
        header = recipe_header(path).replace("\n", "\n    ")
        typer.echo(f"{name}\n    {header}\n")


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for a bug report.")] = False,
) -> None:
    """Check the installation: versions, devices, operators, disk, memory, extras, teachers; say how to fix problems."""
    from ezsd.commands.doctor import as_text, examine

    found = examine()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        Console(highlight=False).print(as_text(found))
    if any(problem["stops"] for problem in found["problems"]):
        raise typer.Exit(1)


@app.command()
def validate(recipe: RecipePath, changes: Set = None) -> None:
    """Check a recipe, its split and every image; all problems are told at once."""
    with _error_messages():
        from ezsd.commands.validate import check_recipe

        typer.echo(check_recipe(recipe, changes or ()))


@app.command()
def plan(recipe: RecipePath, changes: Set = None) -> None:
    """Count what a recipe asks for, and measure for a minute how long it will take here; nothing is run."""
    with _error_messages():
        from ezsd.recipe import load_recipe

        loaded = load_recipe(recipe, changes or ())  # a typing error is told before torch is loaded
        from ezsd.commands.plan import make_plan

        Console(highlight=False).print(make_plan(loaded, str(recipe)))


@app.command()
def init(
    images: Annotated[Path, typer.Option(metavar="DIR", help="Folder of your images.")],
    annotations: Annotated[Path, typer.Option(metavar="JSON", help="Their boxes, COCO JSON.")],
    novel: Annotated[str, typer.Option(metavar="NAMES", help='What to find without boxes: "traffic cone, umbrella".')],
    val_annotations: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Boxes of other images, to validate on; else a fifth is kept.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="RECIPE", help="The recipe to write.")] = Path("recipe.yaml"),
    teacher: Annotated[
        str, typer.Option(metavar="TEACHER", help="offline, open_clip:ViT-B-32/openai, or another of docs/recipes.md.")
    ] = "offline",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Write a recipe for your own images; base names are the categories that have boxes."""
    with _error_messages():
        from ezsd.commands.init import make_recipe

        names = [name.strip() for name in novel.split(",") if name.strip()]
        made = make_recipe(images, annotations, names, out, val_annotations, teacher, overwrite)
        for path in made.files:
            typer.echo(f"wrote {path}")
        for text in made.advice:
            typer.echo(f"note: {text}")
        for command in (f"validate {out}", f"plan {out}", f"run {out} --out runs/{out.stem}"):
            typer.echo(f"next: ezsd {command}")


@app.command()
def detect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder, or the run folder it is in.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where drawn images and detections.json go.")],
    vocabulary: Annotated[
        str | None, typer.Option(metavar="NAMES", help='Names to look for: "cat, traffic cone"; else the model\'s own.')
    ] = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Detections with a lower score are left out.")] = 0.3,
) -> None:
    """Find objects by their names: drawn images and detections.json."""
    with _error_messages():
        from ezsd.commands.detect import detect_files

        path = detect_files(model, images, vocabulary, threshold, out)
        typer.echo(f"wrote {path}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Gets data, run folders and the report.")] = Path(
        "runs/demo"
    ),
    fast: Annotated[bool, typer.Option("--fast", help="Minutes less: fewer scenes, shorter trainings.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """See it work: EZSD and its baseline on the pocket data, figures side by side, and a report."""
    with _error_messages():
        from ezsd.commands.demo import run_demo

        for path in run_demo(out, fast, overwrite).values():
            typer.echo(f"wrote {path}")


@app.command()
def pocket(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where images and annotations go.")],
    images: Annotated[int, typer.Option("--images", metavar="N", help="Scenes: 70% train, 15% val, 15% test.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other scenes.")] = 0,
) -> None:
    """Build the pocket data set: small scenes of OpenMoji pictograms in COCO format."""
    with _error_messages():
        from ezsd.pocket.dataset import make_pocket

        for path in make_pocket(out, images, seed).values():
            typer.echo(f"wrote {path}")


@app.command("pocket-teacher")
def pocket_teacher(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The weights, .safetensors.")],
    seed: Annotated[int, typer.Option(min=0, help="Of weights, images and captions.")] = 0,
) -> None:
    """Train the Pocket CLIP anew, as its packaged weights were made; run again, it goes on."""
    with _error_messages():
        from ezsd.pocket.train_teacher import train_pocket_teacher

        train_pocket_teacher(out, seed)
        typer.echo(f"wrote {out} and {out.with_suffix('.json')}")


def _run_stage(folder: Path, stage: Stage, overwrite: bool) -> None:
    with _error_messages():
        from ezsd.pipeline.run import run_stage

        _show(run_stage(folder, stage, overwrite))


def _show(metrics: Mapping[Stage, Metrics]) -> None:
    """Print the summary of stage evaluate; of several processes, only the first one prints."""
    from ezsd.evaluation.summary import summary
    from ezsd.run_folder import EvaluateMetrics
    from ezsd.utils.log import is_first_process

    evaluated = metrics.get("evaluate")
    if isinstance(evaluated, EvaluateMetrics) and is_first_process():
        Console(highlight=False).print(summary(evaluated))


@contextmanager
def _error_messages() -> Iterator[None]:
    """Turn problems the user can mend into messages and exit code 2, and Ctrl-C into exit code 130."""
    try:
        yield
    except EzsdError as error:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print("Error:" if len(error.problems) > 1 else "Error: ", style="bold red", end="")
        for problem in error.problems:
            console.print(f"\n  {problem}" if len(error.problems) > 1 else problem, markup=False, end="")
        console.print()
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("\nInterrupted. Run the same command again to go on.", err=True)
        raise typer.Exit(130) from None


def main() -> None:
    """Run the command line; a teacher ``module:function`` is looked for in the working directory too."""
    sys.path.append(os.getcwd())
    app()

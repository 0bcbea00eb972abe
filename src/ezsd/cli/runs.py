"""Commands of a run and its results: run, the stages, report, compare, recipes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ezsd.cli.options import (
    DeviceOption,
    Overwrite,
    Preset,
    RecipePath,
    RunFolder,
    Set,
    error_messages,
    with_engine,
)
from ezsd.run_metrics import Metrics
from ezsd.utils.ray_engine import RayEngine

if TYPE_CHECKING:
    from ezsd.run_folder import Stage


class Until(str, Enum):
    """The stages of a run."""

    adapt = "adapt"
    propose = "propose"
    train = "train"
    evaluate = "evaluate"
    report = "report"


@with_engine
def run(
    recipe: RecipePath,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The run folder to write.")],
    preset: Preset = None,
    changes: Set = None,
    until: Annotated[Until, typer.Option(help="The last stage to run.")] = Until.report,
    overwrite: Overwrite = False,
    device: DeviceOption = "auto",
    engine: RayEngine | None = None,
) -> None:
    """Run a recipe: adapt, propose, train, evaluate, report. Running it again resumes an interrupted run."""
    with error_messages():
        from ezsd.recipe import load_recipe

        loaded = load_recipe(recipe, changes or (), preset)  # report typing errors before torch is imported
        from ezsd.pipeline.run import run_recipe
        from ezsd.utils.device import choose_device

        choose_device(device)
        _show(run_recipe(loaded, out, until.value, overwrite, engine))


def adapt(folder: RunFolder, overwrite: Overwrite = False, device: DeviceOption = "auto") -> None:
    """Run stage 1 in a run folder: adapt the teacher's normalization layers to the images."""
    _run_stage(folder, "adapt", overwrite, device)


@with_engine
def propose(
    folder: RunFolder,
    overwrite: Overwrite = False,
    device: DeviceOption = "auto",
    engine: RayEngine | None = None,
) -> None:
    """Run stage 2 in a run folder: compute CLIP proposals and their teacher embeddings."""
    _run_stage(folder, "propose", overwrite, device, engine)


def train(folder: RunFolder, overwrite: Overwrite = False, device: DeviceOption = "auto") -> None:
    """Run stage 3 in a run folder: train the detector."""
    _run_stage(folder, "train", overwrite, device)


@with_engine
def evaluate(
    folder: RunFolder,
    overwrite: Overwrite = False,
    device: DeviceOption = "auto",
    engine: RayEngine | None = None,
) -> None:
    """Run stage 4 in a run folder: compute the zsd and gzsd figures on the val images."""
    _run_stage(folder, "evaluate", overwrite, device, engine)


def report(
    folder: RunFolder,
    baseline: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A run of the same split and val images to compare with.")
    ] = None,
) -> None:
    """Write report.html of a finished run: figures, curves, categories and images in one file."""
    with error_messages():
        from ezsd.report.page import write_report

        typer.echo(f"wrote {write_report(folder, baseline)}")


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders written by ezsd run.")],
    mean: Annotated[
        bool, typer.Option("--mean", help="Average runs that differ only in their seed: mean and standard deviation.")
    ] = False,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Allow runs with different settings, splits or val images.")
    ] = False,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write the table as CSV.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write the table as an HTML page.")
    ] = None,
) -> None:
    """Print the figures of several runs in one table."""
    with error_messages():
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


def recipes() -> None:
    """List the shipped recipes with their purpose, command and measured figures, and the presets."""
    from ezsd.recipe_files import recipe_header, shipped_presets, shipped_recipes

    presets = {f"--preset {name}": path for name, path in shipped_presets().items()}
    for name, path in (shipped_recipes() | presets).items():
        header = recipe_header(path).replace("\n", "\n    ")
        typer.echo(f"{name}\n    {header}\n")


def _run_stage(folder: Path, stage: Stage, overwrite: bool, device: str, engine: RayEngine | None = None) -> None:
    with error_messages():
        from ezsd.pipeline.run import run_stage
        from ezsd.utils.device import choose_device

        choose_device(device)
        _show(run_stage(folder, stage, overwrite, engine))


def _show(metrics: Mapping[Stage, Metrics]) -> None:
    """Print the summary of stage evaluate, in the first process only."""
    from ezsd.evaluation.summary import summary
    from ezsd.run_metrics import EvaluateMetrics
    from ezsd.utils.log import is_first_process

    evaluated = metrics.get("evaluate")
    if isinstance(evaluated, EvaluateMetrics) and is_first_process():
        Console(highlight=False).print(summary(evaluated))

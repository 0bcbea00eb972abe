"""Commands of the pocket data set: demo, pocket, pocket-teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ezsd.cli.options import Overwrite, error_messages


def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The output folder for data, runs and report.")
    ] = Path("runs/demo"),
    fast: Annotated[
        bool, typer.Option("--fast", help="Use fewer scenes and shorter trainings; saves minutes.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Run EZSD and its baseline on the pocket data set, compare their figures, and write a report."""
    with error_messages():
        from ezsd.commands.demo import run_demo

        for path in run_demo(out, fast, overwrite).values():
            typer.echo(f"wrote {path}")


def pocket(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The output folder for images and annotations.")],
    images: Annotated[
        int, typer.Option("--images", metavar="N", help="Number of scenes: 70% train, 15% val, 15% test.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the scenes.")] = 0,
) -> None:
    """Build the pocket data set: small scenes of OpenMoji pictograms in COCO format."""
    with error_messages():
        from ezsd.pocket.dataset import make_pocket

        for path in make_pocket(out, images, seed).values():
            typer.echo(f"wrote {path}")


def pocket_teacher(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The weights file to write (.safetensors).")],
    seed: Annotated[int, typer.Option(min=0, help="The seed of weights, images and captions.")] = 0,
) -> None:
    """Train the Pocket CLIP as its packaged weights were. Running it again resumes an interrupted training."""
    with error_messages():
        from ezsd.pocket.train_teacher import train_pocket_teacher

        train_pocket_teacher(out, seed)
        typer.echo(f"wrote {out} and {out.with_suffix('.json')}")

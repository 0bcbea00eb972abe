"""What several commands share: types of their arguments, and messages for errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ezsd.errors import EzsdError

RecipePath = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="A recipe file (YAML) or the name of a shipped recipe, see ezsd recipes."),
]
RunFolder = Annotated[Path, typer.Argument(metavar="DIR", help="A run folder written by ezsd run.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe, as in train.lr=0.01. Repeatable."),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Apply a preset to the recipe, before --set: paper, baseline or short, see ezsd recipes."
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Remove and recompute results of a different recipe or different data.")
]

BoxFormat = Annotated[
    str | None,
    typer.Option(
        "--box-format", metavar="FORMAT", help="What the boxes are, if not recognized: xywh, xyxy-fraction..."
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]


@contextmanager
def error_messages() -> Iterator[None]:
    """Turn errors that the user can fix into messages and exit code 2, and Ctrl-C into exit code 130."""
    try:
        yield
    except EzsdError as error:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print("Error:" if len(error.problems) > 1 else "Error: ", style="bold red", end="")
        for problem in error.problems:
            console.print(f"\n  {problem}" if len(error.problems) > 1 else problem, markup=False, end="")
        console.print()
        raise typer.Exit(2) from None
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "torchvision", "safetensors", "huggingface_hub"):
            raise
        typer.echo(
            f"Error: {error.name} is not installed, and this needs it: pip install ezsd. Without it, only ONNX files "
            "can be used.",
            err=True,
        )
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("\nInterrupted. Run the same command again to resume.", err=True)
        raise typer.Exit(130) from None

"""What several commands share: types of their arguments, and messages for errors."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ezsd.errors import EzsdError, RecipeError
from ezsd.utils.ray_engine import LOCAL, RayEngine

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


class Engine(str, Enum):
    """Where images are shared out."""

    local = "local"
    ray = "ray"


EngineOption = Annotated[
    Engine, typer.Option("--engine", help="ray shares the images among actors of Ray, on one machine or a cluster.")
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="With --engine ray: local starts Ray here (the default), auto or HOST:PORT connects to a cluster.",
    ),
]
ActorsOption = Annotated[
    int | None,
    typer.Option("--actors", min=1, metavar="N", help="With --engine ray: actors; by default one a GPU or CPU core."),
]
GpusOption = Annotated[
    float | None,
    typer.Option("--gpus-per-actor", min=0, metavar="G", help="With --engine ray: GPUs of an actor, also 0.5 or 0."),
]


def with_engine(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options --engine, --address, --actors and --gpus-per-actor in place of ``engine``.

    Args:
        command: Takes ``engine``, which is None for this process.
    """

    @functools.wraps(command)
    def called(**given: Any) -> None:
        with error_messages():
            engine = _chosen_engine(**{name: given.pop(name) for name in options})
        command(**given, engine=engine)

    options = inspect.signature(_chosen_engine, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True)
    kept = [each for each in own.parameters.values() if each.name != "engine"]
    called.__signature__ = own.replace(parameters=[*kept, *options.values()])  # type: ignore[attr-defined]
    return called


def _chosen_engine(
    engine: EngineOption = Engine.local,
    address: AddressOption = None,
    actors: ActorsOption = None,
    gpus_per_actor: GpusOption = None,
) -> RayEngine | None:
    """Return the engine of a command; None is this process.

    Raises:
        RecipeError: An option of Ray is given without Ray.
    """
    if engine is Engine.ray:
        return RayEngine(address or LOCAL, actors, gpus_per_actor)
    if (address, actors, gpus_per_actor) != (None, None, None):
        raise RecipeError("--address, --actors and --gpus-per-actor belong to --engine ray. Add it, or leave them out.")
    return None


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

"""The command line. Commands import what they need inside the function, so that ``ezsd --help`` is fast."""

from __future__ import annotations

import logging
import os
import sys
from enum import Enum
from typing import Annotated

import typer

from ezsd._version import __version__
from ezsd.cli import demos, models, preparation, runs

app = typer.Typer(
    help="Zero-shot object detection: train a fast detector for objects that have a name but no training boxes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_COMMANDS = (  # in the order of ezsd --help
    runs.run, runs.adapt, runs.propose, runs.train, runs.evaluate, runs.report, runs.compare, runs.recipes,
    preparation.doctor, preparation.validate, preparation.plan, preparation.init, preparation.convert,
    models.detect, models.label, models.export, models.push, models.serve,
    demos.demo, demos.pocket, demos.pocket_teacher,
)  # fmt: skip
for _command in _COMMANDS:
    app.command()(_command)


class Level(str, Enum):
    """The log levels."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show details; same as --log-level debug.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show warnings only; same as --log-level warning.")
    ] = False,
    log_level: Annotated[Level, typer.Option(help="Show log messages of this level and above.")] = Level.info,
) -> None:
    from ezsd.utils.log import show_log
    from ezsd.utils.memory import keep_freed_memory

    keep_freed_memory()
    level = Level.debug if verbose else Level.warning if quiet else log_level
    show_log(getattr(logging, level.name.upper()))
    if version:
        typer.echo(f"ezsd {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; a teacher ``module:function`` is also searched for in the working directory."""
    sys.path.append(os.getcwd())
    app()

"""The Slurm script in docs/scaling.md is bash, and torchrun and ezsd understand its command."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser
from typer.main import get_command

from ezsd.cli import app

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "scaling.md").read_text()
# Options of sbatch 25.05 that a script like this can need; sbatch refuses others.
OPTIONS = {
    "job-name", "nodes", "ntasks", "ntasks-per-node", "gpus", "gpus-per-node", "gpus-per-task", "cpus-per-task", "mem",
    "time", "partition", "account", "output", "error", "requeue", "signal", "exclusive", "array", "dependency",
}  # fmt: skip


@pytest.fixture(scope="module")
def script() -> str:
    found = re.search(r"```text\n(#!/bin/bash\n#SBATCH.*?)```", PAGE, re.DOTALL)
    assert found
    return found[1]


def test_script_is_bash(script: str) -> None:
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_options_are_those_of_sbatch_and_come_first(script: str) -> None:
    lines = script.splitlines()[1:]
    options = [line for line in lines if line.startswith("#SBATCH")]
    assert lines[: len(options)] == options  # sbatch ignores options after the first command
    names = [re.fullmatch(r"#SBATCH --([a-z-]+)(=\S+)?", line) for line in options]
    assert all(names) and {name[1] for name in names if name} <= OPTIONS


def test_command_is_understood(script: str) -> None:
    words = shlex.split(script.replace("\\\n", " ").splitlines()[-1])
    assert words[:2] == ["srun", "torchrun"]
    given = get_args_parser().parse_args(words[2:])
    assert (given.module, given.training_script) == (True, "ezsd")
    assert f"--gpus-per-node={given.nproc_per_node}" in script and "--ntasks-per-node=1" in script
    name, *rest = given.training_script_args
    get_command(app).commands[name].make_context(name, rest)  # type: ignore[attr-defined]

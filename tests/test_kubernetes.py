"""The Kubernetes examples have only fields that exist, and commands that ezsd understands."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.main import get_command

from ezsd.cli import app

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "kubernetes"
VERSION = "1.34"


def _read(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text())


def test_job_is_valid() -> None:
    kubernetes_validate.validate(_read("job.yaml"), VERSION, strict=True)


@pytest.mark.parametrize("group", ["head", "worker"])
def test_pods_of_the_ray_job_are_valid(group: str) -> None:
    spec = _read("rayjob.yaml")["spec"]["rayClusterSpec"]
    part = spec["headGroupSpec"] if group == "head" else spec["workerGroupSpecs"][0]
    pods = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": group}, "template": part["template"]}
    kubernetes_validate.validate(pods, VERSION, strict=True)


def test_commands_are_understood() -> None:
    job = _read("job.yaml")["spec"]["template"]["spec"]["containers"][0]["command"]
    ray_job = shlex.split(_read("rayjob.yaml")["spec"]["entrypoint"])
    for words in (job[job.index("ezsd") :], ray_job):
        command = get_command(app).commands[words[1]]  # type: ignore[attr-defined]
        command.make_context(words[1], words[2:])


def test_ray_version_is_the_tested_one() -> None:
    constraints = (FOLDER.parents[1] / "constraints.txt").read_text().splitlines()
    assert f"ray=={_read('rayjob.yaml')['spec']['rayClusterSpec']['rayVersion']}" in constraints

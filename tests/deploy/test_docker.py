"""Tests of the Dockerfiles and the compose file; docker/run_steps.py runs the steps themselves."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from few_packages import listed_packages, packages_of_extra
from run_steps import instructions

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "docker").glob("*Dockerfile"))
ONNX = ROOT / "docker" / "onnx.Dockerfile"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_hadolint_finds_nothing(file: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    result = subprocess.run([hadolint, file], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_container_has_no_root_and_gets_only_what_it_needs(file: Path) -> None:
    steps = instructions(file.read_text())
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ("USER", "10001") in steps
    copied = [source for word, rest in steps if word == "COPY" for source in rest.split()[:-1]]
    assert copied and all((ROOT / source).exists() and f"!{source}" in ignored for source in copied)


def test_the_image_of_onnx_files_has_the_listed_packages_and_those_of_the_service() -> None:
    (run,) = [rest for word, rest in instructions(ONNX.read_text()) if word == "RUN"]
    installed = re.split(r"\s+", run.split("constraints.txt")[1].split("&&")[0].strip())
    assert sorted(installed) == sorted([*listed_packages(), *packages_of_extra("serve")])
    assert "--no-deps ." in run


def test_the_compose_file_opens_ports_on_this_machine_only() -> None:
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    for service in compose["services"].values():
        assert service["ports"] and all(port.startswith("127.0.0.1:") for port in service["ports"])
    build = compose["services"]["ezsd"]["build"]
    assert (ROOT / "docker" / build["context"] / build["dockerfile"]).samefile(ONNX)


def test_prometheus_reads_the_service_with_its_token() -> None:
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    (scrape,) = yaml.safe_load((ROOT / "docker" / "prometheus.yml").read_text())["scrape_configs"]
    (given,) = compose["services"]["prometheus"]["configs"]
    assert scrape["static_configs"] == [{"targets": ["ezsd:8000"]}]
    assert scrape["authorization"]["credentials_file"] == given["target"]
    assert "${EZSD_TOKEN:-" in compose["configs"][given["source"]]["content"]
    assert compose["services"]["ezsd"]["environment"]["EZSD_TOKEN"] == "${EZSD_TOKEN:-}"

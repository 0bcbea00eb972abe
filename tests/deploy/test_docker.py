"""Tests of the Dockerfile and the compose file; docker/run_steps.py runs the steps themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from run_steps import instructions

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker" / "Dockerfile"


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    result = subprocess.run([hadolint, FILE], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_container_has_no_root_and_gets_only_what_it_needs() -> None:
    steps = instructions(FILE.read_text())
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ("USER", "10001") in steps
    copied = [source for word, rest in steps if word == "COPY" for source in rest.split()[:-1]]
    assert copied and all((ROOT / source).exists() and f"!{source}" in ignored for source in copied)


def test_the_compose_file_opens_ports_on_this_machine_only() -> None:
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    for service in compose["services"].values():
        assert service["ports"] and all(port.startswith("127.0.0.1:") for port in service["ports"])
    build = compose["services"]["ezsd"]["build"]
    assert (ROOT / "docker" / build["context"] / build["dockerfile"]).samefile(FILE)
    targets = yaml.safe_load((ROOT / "docker" / "prometheus.yml").read_text())["scrape_configs"][0]["static_configs"]
    assert targets == [{"targets": ["ezsd:8000"]}]

"""Every code block of the pages about ONNX and hubs runs, except what installs packages or logs in."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from ezsd.cli import app
from finished_run import make_finished_run
from stub_hub import running_hub
from tiny import make_tiny_coco
from tiny_run import make_model_folder

DOCS = Path(__file__).parents[1] / "docs"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ELSEWHERE = ("pip", "hf")  # commands that need the network

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra export)")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files that the pages name, and a hub on localhost."""
    coco = make_tiny_coco(tmp_path / "data")
    make_model_folder(make_finished_run(tmp_path / "runs/my", coco) / "train/model")
    (coco.images / "000011.jpg").rename(tmp_path / "street.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        yield tmp_path


@pytest.mark.parametrize("page", [pytest.param("onnx", marks=pytest.mark.slow), "hub"])
def test_the_code_of_a_page_runs(page: str, place: Path) -> None:
    blocks = _BLOCK.findall((DOCS / f"{page}.md").read_text())
    assert blocks and {kind for kind, _ in blocks} <= {"bash", "python"}
    names: dict[str, Any] = {}
    for kind, text in blocks:
        if kind == "python":
            exec(text, names)
            continue
        for line in text.splitlines():
            command = shlex.split(line, comments=True)
            if command[0] not in _ELSEWHERE:
                assert command[0] == "ezsd"
                result = CliRunner().invoke(app, command[1:])
                assert result.exit_code == 0, f"{line}: {result.output}"

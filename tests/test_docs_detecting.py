"""Every code block of the pages about detecting runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from ezsd.cli import app
from ezsd.inference.sources import open_source
from ezsd.inference.video import video_writer
from ezsd.inference.vocabulary import parse_vocabulary
from tiny import make_tiny_coco
from tiny_run import make_model_folder

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("sources", "outputs", "vocabularies", "thresholds", "tiling")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages name, with an untrained model."""
    root = tmp_path_factory.mktemp("docs")
    make_model_folder(root / "runs/my/train/model")
    images = make_tiny_coco(root).images
    street = Image.open(images / "000004.jpg")
    street.save(root / "street.jpg")
    Image.fromarray(np.tile(np.asarray(street), (8, 11, 1))).save(root / "large.jpg")
    (root / "frames").mkdir()
    for number in range(3):
        street.save(root / "frames" / f"{number:04d}.png")
    with video_writer(root / "clip.mp4", 10, (96, 64)) as write:
        for frame in open_source([images / "000011.jpg"] * 4):
            write(frame.pixels)
    return root


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("EZSD_CACHE", str(place / "cache"))
    blocks = _BLOCK.findall((DOCS / f"{page}.md").read_text())
    assert blocks and {kind for kind, _ in blocks} <= {"bash", "python", "yaml"}
    names: dict[str, Any] = {}
    for kind, text in sorted(blocks, key=lambda block: block[0] != "yaml"):  # files first
        if kind == "yaml":
            (place / "names.yaml").write_text(text)
            assert yaml.safe_load(text) and parse_vocabulary("names.yaml", ()).names
        elif kind == "python":
            exec(text, names)
        else:
            for line in text.splitlines():
                command = shlex.split(line, comments=True)
                assert command[0] == "ezsd"
                result = CliRunner().invoke(app, command[1:])
                assert result.exit_code == 0, f"{line}: {result.output}"

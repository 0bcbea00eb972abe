"""Every code block of README and docs runs, or says in a comment above it why not; then its commands are checked."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from huggingface_hub import constants
from PIL import Image

from docs_pages import PAGES, ROOT, Block, Reader, blocks_of
from ezsd.cli import app
from ezsd.inference.sources import open_source
from ezsd.inference.video import video_writer
from ezsd.teacher import origin
from finished_run import make_finished_run
from stub_hub import running_hub
from tiny import make_tiny_coco
from tiny_run import make_model_folder
from tiny_teacher import TEACHER

TRAINING = ("README", "data", "index", "recipes")  # their blocks make my.yaml or runs/my
SLOW = (*TRAINING, "onnx", "service")
RUN = [page for page in PAGES if any(not block.not_run and block.language != "text" for block in blocks_of(page))]
_CODE = re.compile(r"`([^`\n]+)`")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files that the pages name, and a hub on localhost."""
    coco = make_tiny_coco(tmp_path)
    street = Image.open(coco.images / "000004.jpg")
    street.save(tmp_path / "street.jpg")
    Image.fromarray(np.tile(np.asarray(street), (8, 11, 1))).save(tmp_path / "large.jpg")
    (tmp_path / "frames").mkdir()
    for number in range(3):
        street.save(tmp_path / "frames" / f"{number:04d}.png")
    with video_writer(tmp_path / "clip.mp4", 10, (96, 64)) as write:
        for frame in open_source([coco.images / "000011.jpg"] * 4):
            write(frame.pixels)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(origin, "SHIPPED", (*origin.SHIPPED, TEACHER))  # it stands for a teacher of a package
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        yield tmp_path


@pytest.mark.parametrize("page", [pytest.param(page, marks=[pytest.mark.slow] * (page in SLOW)) for page in RUN])
def test_the_code_of_a_page_runs(page: str, place: Path) -> None:
    with Reader(place) as reader:
        if page in TRAINING:
            make_tiny_coco(place / "my_export")
        else:
            make_model_folder(make_finished_run(place / "runs/my", make_tiny_coco(place / "data")) / "train/model")
        if page in ("index", "recipes"):  # README and data begin with this command
            reader.follow(Block("", "bash", "ezsd init my_export --novel 'traffic cone, umbrella' --out my.yaml"))
        for block in sorted(blocks_of(page), key=lambda block: block.language != "yaml"):  # files first
            if not block.not_run:
                reader.follow(block)


def test_every_block_has_a_language_and_a_reason_is_given_for_what_is_not_run() -> None:
    for page in PAGES:
        for block in blocks_of(page):
            where = f"{PAGES[page].name}: {block.text[:60]!r}"
            assert block.language in ("bash", "python", "yaml", "json", "text"), where
            assert not block.not_run or block.language == "bash", f"{where}: only commands may be left out"


def test_the_commands_that_the_pages_name_exist() -> None:
    """Those of blocks that are not run, and those in the text."""
    checked = 0
    for page, path in PAGES.items():
        commands = [words for block in blocks_of(page) if block.not_run for words in block.commands]
        for code in _CODE.findall(path.read_text()):
            if code.startswith(("ezsd ", "make ", "python ", "torchrun ", "EZSD_")):
                commands.append(code.replace('"', "").replace("'", "").split())
        for words in commands:
            checked += 1
            assert not (problem := _problem(words)), f"{path.name}: {shlex.join(words)}: {problem}"
    assert checked > 40


def _problem(words: list[str]) -> str | None:
    """Return what is wrong with a command of this package, of make, or of a script; others are not checked."""
    if "ezsd" in words[:-1] and words[0] in ("ezsd", "torchrun"):
        return _problem_of_ezsd(words[words.index("ezsd") + 1 :])
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return None if words[1] in targets else f"make has no target {words[1]}"
    if words[0] == "python" and words[1].endswith(".py"):
        script = ROOT / words[1]
        unknown = [word for word in words if word.startswith("--") and f'"{word}"' not in script.read_text()]
        return f"the script has no {unknown}" if unknown else None
    return None


def _problem_of_ezsd(words: list[str]) -> str | None:
    group: Any = typer.main.get_command(app)
    known = _options(group)
    command = None
    for word in words:
        if word.startswith("-") and not word.strip("-."):
            continue
        if word.startswith("-"):
            if word.split("=")[0] not in known:
                return f"there is no {word}"
        elif command is None:
            if word not in group.commands:
                return f"there is no command {word}"
            command = group.commands[word]
            known = _options(command)
    return None


def _options(command: Any) -> set[str]:
    return {"--help", *(option for parameter in command.params for option in parameter.opts)}

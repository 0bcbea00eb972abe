"""The code blocks of README and docs, and a reader who does what they say in a folder of their own."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ezsd.cli import app
from ezsd.data.categories import load_split
from ezsd.inference.vocabulary import parse_vocabulary
from ezsd.recipe import load_recipe
from tiny_teacher import tiny_values

ROOT = Path(__file__).resolve().parents[1]
_FOLDERS = ("docs", "examples")
PAGES = {
    path.stem: path
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(path for folder in _FOLDERS for path in sorted((ROOT / folder).glob("*.md"))),
    )
}
_BLOCK = re.compile(r"(?:^<!-- not run: ([^\n]+) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PORT = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Block:
    """A code block; ``not_run`` is the reason in the comment above it, or empty."""

    not_run: str
    language: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a bash block."""
        lines = [shlex.split(line, comments=True) for line in self.text.splitlines()]
        return [words for words in lines if words] if self.language == "bash" else []


def blocks_of(page: str) -> list[Block]:
    text = PAGES[page].read_text()
    found = [Block(*parts) for parts in _BLOCK.findall(text)]
    assert text.count("```") == 2 * len(found), f"{PAGES[page]}: code blocks start at the beginning of a line"
    return found


class Reader:
    """Runs the blocks of a page one after the other in a folder; services run until the end of ``with``.

    Recipes that ``ezsd init`` writes train for 2,000 steps. They are checked and replaced by a tiny training.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.url = ""
        self.answer: Any = None
        self._services = ExitStack()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._services.close()

    def follow(self, block: Block) -> None:
        if block.language == "python":
            exec(block.text, self.names)
        elif block.language == "yaml":
            self._use_yaml(block.text)
        elif block.language == "json":
            assert set(json.loads(block.text)) == set(self.answer)
        for words in block.commands:
            if words[0] == "curl":
                self._ask(words)
            elif words[:2] == ["ezsd", "serve"]:
                self._serve(words[2:])
            else:
                assert words[0] == "ezsd", f"{words[0]} is not run; say why in a comment above the block"
                self._ezsd(words[1:])

    def _ezsd(self, words: list[str]) -> None:
        if words[0] == "export":
            pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra export)")
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, f"ezsd {shlex.join(words)}: {result.output}"
        if words[0] == "init":
            make_small(self.place / words[words.index("--out") + 1])

    def _serve(self, words: list[str]) -> None:
        pytest.importorskip("uvicorn", reason="uvicorn is not installed (extra serve)")
        from service import process

        *_, self.url = self._services.enter_context(process(self.place / words[0], *words[1:]))

    def _ask(self, words: list[str]) -> None:
        asked = [word.replace(_PORT, self.url) for word in words]
        answer = subprocess.run([*asked, "--silent", "--show-error"], check=True, capture_output=True, text=True)
        self.answer = json.loads(answer.stdout)
        assert self.answer["images"], self.answer

    def _use_yaml(self, text: str) -> None:
        values = yaml.safe_load(text)
        if "names" in values:
            (self.place / "names.yaml").write_text(text)
            assert parse_vocabulary("names.yaml", ()).names
        else:
            assert load_split(values["split"]).few_shot


def make_small(recipe: Path) -> None:
    """Give a recipe the teacher and the sizes of tests/tiny_teacher.py; its data and names stay."""
    load_recipe(recipe)
    values = yaml.safe_load(recipe.read_text())
    tiny = {key: value for key, value in tiny_values("", "").items() if key not in ("split", "data")}
    values["data"]["workers"] = 0
    recipe.write_text(yaml.safe_dump({**values, **tiny}))

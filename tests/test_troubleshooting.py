"""The page Troubleshooting has an entry for every error that the package raises, and no entry for others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import ezsd.errors
from ezsd.errors import EzsdError

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
SOURCES = [ast.parse(path.read_text()) for path in sorted((ROOT / "src" / "ezsd").rglob("*.py"))]
KINDS = [kind.__name__ for kind in EzsdError.__subclasses__() if kind.__module__ == ezsd.errors.__name__]
_VALUE = "\0"  # stands for a value in a message


@pytest.mark.parametrize("kind", KINDS)
def test_every_message_of_an_error_has_an_entry(kind: str) -> None:
    entries = [_pattern(entry) for entry in _entries(kind)]
    calls = [node for tree in SOURCES for node in ast.walk(tree) if isinstance(node, ast.Call)]
    raised = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == kind and call.args]
    messages = [text for call in raised if (text := _text(call.args[0])) is not None]
    assert messages
    for message in messages:
        assert any(re.search(entry, message) for entry in entries), message.replace(_VALUE, "...")


def test_every_entry_is_the_message_of_an_error() -> None:
    texts = [text for tree in SOURCES for node in ast.walk(tree) if (text := _text(node))]
    for kind in KINDS:
        for entry in _entries(kind):
            assert any(re.search(_pattern(entry), text) for text in texts), entry


def _entries(kind: str) -> Iterator[str]:
    """Yield the messages in the first column of the section of a kind of error."""
    section = re.search(rf"^## [^\n]*: {kind}\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
    assert section, f"no section for {kind}"
    for row in re.findall(r"^\| (`.*?) \| ", section[1], re.MULTILINE):
        yield from re.findall(r"`([^`]+)`", row)


def _pattern(entry: str) -> str:
    return ".*".join(re.escape(part.strip()) for part in entry.split("..."))


def _text(node: ast.AST) -> str | None:
    """Return the text of an expression, with values replaced; None if it is not a text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else _VALUE for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (_text(node.left) or _VALUE) + (_text(node.right) or _VALUE)
    return None

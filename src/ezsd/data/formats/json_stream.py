"""Parse a large JSON object piece by piece, because its text and its parsed form together take too much memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

_PIECE = 1 << 22  # bytes that are read at once
_SPACE = re.compile(r"[ \t\n\r]*")
_REST_OF_NUMBER = re.compile(r"[\d.eE+-]*")
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")


class Irregular(Exception):
    """The file is not one JSON object in UTF-8; whoever reads it as a whole can say why."""


def parse_object(path: Path, hook: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Return the JSON object in a file, as ``json.loads`` does with ``object_hook``.

    The hook can see an object inside of an element of the outer lists twice, if the element is cut by the end of a
    piece; it does not see the outer object.

    Raises:
        OSError: The file cannot be read.
        Irregular: The file is something else, or damaged.
    """
    with path.open("rb") as file:
        if json.detect_encoding(file.read(4)) not in ("utf-8", "utf-8-sig"):
            raise Irregular
        file.seek(0)
        try:
            text = _Text(file, hook)
            content = dict(_members(text))
            if text.next_character():
                raise Irregular
        except (ValueError, RecursionError):
            raise Irregular from None
    return content


class _Text:
    """The text of a file from a position on; what was parsed is forgotten."""

    def __init__(self, file: BinaryIO, hook: Callable[[dict[str, Any]], Any]) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogatepass")
        self._scan = json.JSONDecoder(object_hook=hook).raw_decode
        self._text, self._place, self._ended = "", 0, False

    def next_character(self) -> str:
        """Return the next character that is no space, without taking it; empty at the end of the file."""
        while True:
            match = _SPACE.match(self._text, self._place)
            self._place = match.end() if match else self._place
            if self._place < len(self._text):
                return self._text[self._place]
            if self._ended:
                return ""
            self._read(_PIECE)

    def take(self, *wanted: str) -> str:
        """Take the next character; raise Irregular if it is another one."""
        found = self.next_character()
        if found not in wanted or not found:
            raise Irregular
        self._place += 1
        return found

    def value(self) -> Any:
        """Take the next value."""
        self.next_character()
        size = _PIECE
        while True:
            try:
                value, end = self._scan(self._text, self._place)
            except ValueError:
                if self._ended:
                    raise Irregular from None
            else:
                if self._ended or not _REST_OF_NUMBER.fullmatch(self._text, end):
                    self._place = end
                    return value
            self._read(size)
            size *= 2  # so that a value that is longer than a piece is not parsed again for each piece

    def elements(self) -> list[Any]:
        """Take a list, of which each element is a value."""
        found: list[Any] = []
        self.take("[")
        if self.next_character() == "]":
            self.take("]")
            return found
        while True:
            found.append(self.value())
            self._take_whole(found)
            if self.take(",", "]") == "]":
                return found

    def _take_whole(self, found: list[Any]) -> None:
        """Take the next elements that end before the text does."""
        text, scan, size = self._text, self._scan, len(self._text)
        try:
            while (match := _COMMA.match(text, self._place)) is not None:
                value, end = scan(text, match.end())
                if end == size or value.__class__ in (int, float):
                    return
                found.append(value)
                self._place = end
        except ValueError:  # the end is not read yet, or the file is damaged
            return

    def _read(self, size: int) -> None:
        data = self._file.read(size)
        self._ended = not data
        self._text = self._text[self._place :] + self._decoder.decode(data, final=self._ended)
        self._place = 0


def _members(text: _Text) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of the outer object; values that are lists are parsed element by element."""
    text.take("{")
    if text.next_character() == "}":
        text.take("}")
        return
    separator = ","
    while separator == ",":
        if text.next_character() != '"':
            raise Irregular
        key = text.value()
        text.take(":")
        yield key, text.elements() if text.next_character() == "[" else text.value()
        separator = text.take(",", "}")

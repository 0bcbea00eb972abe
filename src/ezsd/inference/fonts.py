"""Find a font that can write a text: the packaged one, or one of the system."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

logger = logging.getLogger(__name__)

PACKAGED = Path(__file__).parent / "fonts" / "DejaVuSans.ttf"  # Latin, Greek, Cyrillic, Arabic, Georgian, Armenian
FOLDERS = (
    "/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts",
    "/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts",
    "${WINDIR}/Fonts", "${LOCALAPPDATA}/Microsoft/Windows/Fonts",
)  # fmt: skip
_SUFFIXES = (".ttf", ".otf", ".ttc")
_SIDE = 16
_NO_LETTER = "\U0010ffff"  # a code point that no font has a glyph for


def font_for(text: str) -> Path:
    """Return the packaged font if it has all letters of a text, else the system font that has the most of them.

    Letters that no font has are noted once in the log; they are drawn as empty boxes.
    """
    letters = frozenset(letter for letter in text if letter.isprintable() and not letter.isspace())
    return _font_for(letters) if _missing(PACKAGED, letters) else PACKAGED


@lru_cache(maxsize=256)
def _font_for(letters: frozenset[str]) -> Path:
    best, fewest = PACKAGED, len(_missing(PACKAGED, letters))
    for path in _system_fonts():
        missing = len(_missing(path, letters))
        if missing < fewest:
            best, fewest = path, missing
        if not missing:
            break
    if fewest:
        unknown = "".join(sorted(_missing(best, letters)))
        logger.warning(f"No font of this system has the letters {unknown}; install one, such as Noto Sans.")
    return best


@lru_cache(maxsize=4096)
def _missing(path: Path, letters: frozenset[str]) -> frozenset[str]:
    """Return the letters that a font has no glyph for; all of them if it cannot be read."""
    try:
        font = ImageFont.truetype(path, _SIDE)
        empty = bytes(font.getmask(_NO_LETTER))
        return frozenset(letter for letter in letters if bytes(font.getmask(letter)) == empty)
    except (OSError, ValueError):
        return letters


def _system_fonts() -> Iterator[Path]:
    for folder in FOLDERS:
        place = Path(os.path.expandvars(folder)).expanduser()
        yield from (path for path in sorted(place.rglob("*")) if path.suffix.lower() in _SUFFIXES)

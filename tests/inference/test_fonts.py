"""Names in any script are written with a font that has their letters."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ezsd.inference import fonts
from ezsd.inference.fonts import PACKAGED, font_for


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    fonts.font_for.cache_clear()
    yield
    fonts.font_for.cache_clear()


@pytest.mark.parametrize("name", ["traffic cone", "Ägäis", "акула", "γάτα", "", "a\nb"])
def test_packaged_font_writes_alphabets_of_europe(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "FOLDERS", ())
    assert font_for(name) == PACKAGED


def test_system_font_is_used_if_it_has_more_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "a" / "broken.ttf"
    broken.parent.mkdir()
    broken.write_bytes(b"no font")
    good = shutil.copy(PACKAGED, tmp_path / "z.TTF")
    monkeypatch.setattr(fonts, "PACKAGED", broken)
    monkeypatch.setattr(fonts, "FOLDERS", (str(tmp_path / "missing"), str(tmp_path)))
    assert font_for("акула") == Path(good)


def test_names_without_a_font_are_noted_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(fonts, "FOLDERS", ())
    with caplog.at_level(logging.WARNING):
        assert font_for("魚 fish") == PACKAGED
        font_for("魚 fish")
        font_for("fish")
    assert len(caplog.records) == 1
    assert caplog.records[0].message.startswith("No font of this system can write 魚 fish: 魚 is missing. Install one")

"""Names in a drawing are readable: in a font that has them, inside the image, on one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from PIL import ImageFont

from ezsd.inference import drawing
from ezsd.inference.drawing import draw
from ezsd.inference.fonts import PACKAGED

GRAY = np.full((480, 640, 3), 128, np.uint8)


def named(*names: str, box: tuple[float, ...] = (100, 100, 200, 200)) -> sv.Detections:
    count = len(names)
    return sv.Detections(
        xyxy=np.array([box] * count, dtype=float),
        confidence=np.linspace(0.9, 0.5, count),
        class_id=np.arange(count),
        data={"class_name": np.array(names)},
    )


def test_every_name_has_a_font_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Path(shutil.copy(PACKAGED, tmp_path / "other.ttf"))
    used: dict[str, str] = {}
    written = drawing._fitting

    def noted(before: str, name: str, after: str, font: ImageFont.FreeTypeFont, width: int) -> str:
        used[name] = str(font.path)
        return written(before, name, after, font, width)

    monkeypatch.setattr(drawing, "font_for", lambda name: other if name == "猫" else PACKAGED)
    monkeypatch.setattr(drawing, "_fitting", noted)
    draw(GRAY, named("cat", "猫", "кошка"))
    assert used == {"cat": str(PACKAGED), "猫": str(other), "кошка": str(PACKAGED)}


@pytest.mark.parametrize("place", [(600, 2, 638, 30), (600, 440, 638, 478), (2, 2, 638, 478)])
def test_a_long_name_at_the_border_is_inside_the_image(
    place: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = []
    place_labels = drawing.place_labels

    def noted(boxes: np.ndarray, sizes: list[tuple[int, int]], image: tuple[int, int]) -> list[tuple[int, int]]:
        places = place_labels(boxes, sizes, image)
        placed.extend(zip(places, sizes, strict=True))
        return places

    monkeypatch.setattr(drawing, "place_labels", noted)
    draw(GRAY, named("a very long name " * 10, "scuba diver with a yellow tank", box=place))
    assert len(placed) == 2
    for (left, top), (width, height) in placed:
        assert left >= 0 and left + width <= 640 and top >= 0 and top + height <= 480


def test_the_end_of_a_name_that_is_too_long_is_cut_off_and_the_score_kept() -> None:
    font = ImageFont.truetype(PACKAGED, 16)
    label = drawing._fitting("#3 ", "long " * 40, " 0.71", font, 200)
    assert label.startswith("#3 long") and label.endswith("\N{HORIZONTAL ELLIPSIS} 0.71")
    assert font.getlength(label) <= 200
    assert drawing._fitting("", "two\nlines", " 0.50", font, 400) == "two lines 0.50"


def test_drawings_without_numbers_of_classes_or_scores_have_labels() -> None:
    plain = sv.Detections(
        xyxy=np.array([[10.0, 40, 60, 90]]), class_id=np.array([0]), data={"class_name": np.array(["cat"])}
    )
    assert (np.asarray(draw(GRAY, plain))[20:40, 10:60] != 128).any()

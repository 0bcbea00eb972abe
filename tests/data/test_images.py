"""What an image file may be, and what is told of one that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ezsd.data.images import decode_image, image_problems
from ezsd.errors import DataError


def _gradient(width: int = 48, height: int = 32) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 5, y * 5, np.full_like(x, 90)], axis=-1).astype(np.uint8))


def test_a_image_becomes_rgb_planes(tmp_path: Path) -> None:
    _gradient().save(tmp_path / "a.png")
    image = decode_image(tmp_path / "a.png")
    assert image.dtype == torch.uint8 and image.shape == (3, 32, 48) and image.is_contiguous()
    assert image[:, 4, 10].tolist() == [50, 20, 90]


@pytest.mark.parametrize(
    ("mode", "name"),
    [("L", "a.jpg"), ("CMYK", "a.jpg"), ("RGBA", "a.png"), ("P", "a.gif"), ("1", "a.png"), ("LA", "a.png")],
)
def test_other_modes_become_rgb(mode: str, name: str, tmp_path: Path) -> None:
    _gradient().convert(mode).save(tmp_path / name)
    assert decode_image(tmp_path / name).shape == (3, 32, 48)
    assert image_problems([(tmp_path / name, 48, 32)], decode=True) == [None]


def test_a_image_taken_upright_is_turned_as_viewers_turn_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    _gradient().save(tmp_path / "a.png", exif=exif)
    image = decode_image(tmp_path / "a.png")
    assert image.shape == (3, 48, 32)
    assert image[:, 10, 31 - 4].tolist() == [50, 20, 90]
    assert image_problems([(tmp_path / "a.png", 32, 48)], decode=False) == [None]
    assert "32 x 48" in str(image_problems([(tmp_path / "a.png", 48, 32)], decode=False)[0])


def _broken(folder: Path) -> dict[str, Path]:
    _gradient().save(folder / "whole.jpg")
    _gradient().save(folder / "whole.png")
    Image.fromarray(np.full((32, 48), 3000, dtype=np.uint16)).save(folder / "deep.png")
    jpeg, png = (folder / "whole.jpg").read_bytes(), (folder / "whole.png").read_bytes()
    contents = {
        "cut.jpg": jpeg[:-40], "cut.png": png[: len(png) // 2], "text.jpg": b"<html>not found</html>",
        "empty.jpg": b"",
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.jpg").mkdir()
    return {name: folder / name for name in [*contents, "deep.png", "missing.jpg", "folder.jpg"]}


def test_images_that_cannot_be_read_are_told_with_their_path(tmp_path: Path) -> None:
    for path in _broken(tmp_path).values():
        with pytest.raises(DataError, match=path.name):
            decode_image(path)
    with pytest.raises(DataError, match="no such image"):
        decode_image(tmp_path / "missing.jpg")
    with pytest.raises(DataError, match="8 bits a channel"):
        decode_image(tmp_path / "deep.png")


def test_checking_finds_every_broken_image_and_keeps_the_order(tmp_path: Path) -> None:
    broken = list(_broken(tmp_path).values())
    images = [path for bad in broken for path in (tmp_path / "whole.jpg", bad, tmp_path / "whole.png")] * 7
    problems = image_problems([(path, 48, 32) for path in images], decode=True)
    assert [problem is not None for problem in problems] == [path in broken for path in images]
    assert all(problem is None or str(path) in problem for problem, path in zip(problems, images, strict=True))


def test_without_decoding_only_the_header_is_read(tmp_path: Path) -> None:
    broken = _broken(tmp_path)
    assert image_problems([(broken["cut.jpg"], 48, 32)], decode=False) == [None]
    unreadable = [(broken[name], 48, 32) for name in ("text.jpg", "missing.jpg", "deep.png")]
    assert None not in image_problems(unreadable, decode=False)


def test_a_size_unlike_the_annotations_is_told(tmp_path: Path) -> None:
    _gradient().save(tmp_path / "a.jpg")
    for decode in (False, True):
        problem = image_problems([(tmp_path / "a.jpg", 96, 64)], decode)[0]
        assert problem is not None and "48 x 32" in problem and "96 x 64" in problem

"""What rows of YOLO label files are is told from all of them: other layouts are never read as YOLO's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ezsd.commands.convert import convert
from ezsd.data.formats.box_formats import Numbers
from ezsd.data.formats.recognize import open_dataset
from ezsd.data.formats.yolo_rows import RowFormat, recognize_rows
from ezsd.errors import DataError

_SEEDS = st.integers(0, 2**32 - 1)
_NO = RowFormat()


def _random_corners(count: int, seed: int, smallest: float, largest: float, spread: float) -> Numbers:
    """Return boxes (corners as fractions) in images; those of ``spread`` 0 all have their centers in the middle."""
    numbers = np.random.default_rng(seed)
    sides = numbers.uniform(smallest, max(smallest, largest), (count, 2))
    low, high = sides / 2, 1 - sides / 2
    centers = 0.5 + spread * (low + numbers.uniform(0, 1, (count, 2)) * (high - low) - 0.5)
    return np.concatenate([centers - sides / 2, centers + sides / 2], axis=1)


def _layout(corners: Numbers, layout: str) -> list[list[float]]:
    first, last = corners[:, :2], corners[:, 2:]
    pair = {
        "cxcywh": ((first + last) / 2, last - first),
        "xyxy": (first, last),
        "yxyx": (first[:, ::-1], last[:, ::-1]),
        "xywh": (first, last - first),
    }[layout]
    return np.concatenate(pair, axis=1).round(6).tolist()


def _recognized(rows: Sequence[Sequence[float]], side: int = 640) -> tuple[RowFormat, list[str]]:
    notes: list[str] = []
    sizes = np.full((len(rows), 2), float(side))
    return recognize_rows(rows, sizes, _NO, lambda place: f"row {place}", notes), notes


@given(st.integers(1, 80), _SEEDS, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.integers(16, 4000))
@settings(max_examples=500, deadline=None)
def test_boxes_as_yolo_has_them_are_never_refused(
    count: int, seed: int, smallest: float, largest: float, spread: float, side: int
) -> None:
    rows = _layout(_random_corners(count, seed, smallest, largest, spread), "cxcywh")
    assert _recognized(rows, side) == (_NO, [])


@given(st.integers(2, 80), _SEEDS, st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_some_boxes_that_stick_out_do_not_make_others_corners(count: int, seed: int, every: int) -> None:
    corners = _random_corners(count, seed, 0.05, 0.9, 1)
    shifts = np.random.default_rng(seed).uniform(-0.3, 0.3, (count, 2))
    corners[:: 5 * every] += np.tile(shifts, 2)[:: 5 * every]
    rows = np.clip(_layout(corners, "cxcywh"), 0, 1).tolist()
    assert _recognized(rows) == (_NO, [])


@given(st.integers(30, 80), _SEEDS, st.sampled_from(["xyxy", "yxyx", "xywh"]), st.integers(0, 1))
@settings(max_examples=200, deadline=None)
def test_other_layouts_are_recognized_from_all_boxes(count: int, seed: int, layout: str, wrong: int) -> None:
    rows = _layout(_random_corners(count, seed, 0.02, 0.8, 1), layout)
    rows[:wrong] = [[0.9, 0.9, 0.1, 0.1]]
    with pytest.raises(DataError, match=rf"--box-format ({layout}-fraction|.* or --box-format {layout}-fraction)"):
        _recognized(rows)


def _yolo(folder: Path, rows: Sequence[Sequence[float]], size: tuple[int, int] = (400, 200)) -> Path:
    """Write a data set with one row an image, after an empty line."""
    for number, row in enumerate(rows):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "labels").mkdir(exist_ok=True)
        Image.new("RGB", size, (number, 0, 0)).save(folder / "images" / f"{number:02d}.png")
        text = "\n" + " ".join(f"{value:g}" for value in (0, *row)) + "\n"
        (folder / "labels" / f"{number:02d}.txt").write_text(text)
    (folder / "data.yaml").write_text("train: images\nnames: [cat]\n")
    return folder


def test_corners_are_refused_with_a_line_that_shows_it_and_read_as_the_message_says(tmp_path: Path) -> None:
    corners = _random_corners(30, 0, 0.1, 0.5, 1)
    corners[0] = (0.4, 0.4, 0.5, 0.5)  # fits as center and size, too
    corners[1] = (0.6, 0.7, 0.8, 0.9)
    folder = _yolo(tmp_path / "set", _layout(corners, "xyxy"))
    with pytest.raises(DataError) as raised:
        open_dataset(folder)
    assert f"{folder}/labels/01.txt, line 2: 0.6 0.7 0.8 0.9 as the center" in str(raised.value)
    assert "--box-format xyxy-fraction or --box-format yxyx-fraction of ezsd init and ezsd" in str(raised.value)
    assert "--box-format cxcywh-fraction keeps them" in str(raised.value)
    convert(folder, tmp_path / "out", "yolo", box_format="xyxy-fraction")
    written = [float(value) for value in (tmp_path / "out/train/labels/01.txt").read_text().split()]
    assert np.allclose(written, [0, 0.7, 0.8, 0.2, 0.2])
    kept = open_dataset(folder, "cxcywh-fraction").parts["train"].content or {}
    assert kept["annotations"][1]["bbox"] == [80, 50, 320, 180]


def _with_keypoints(corners: Numbers, count: int, each: int, seed: int) -> list[list[float]]:
    """Return rows of a box, and of keypoints inside; some are not labelled."""
    numbers = np.random.default_rng(seed)
    shares = numbers.uniform(0, 1, (len(corners), count, 2))
    points = corners[:, None, :2] + shares * (corners[:, None, 2:] - corners[:, None, :2])
    labelled = numbers.uniform(0, 1, (len(corners), count, 1)) > 0.2
    flags = np.where(labelled, numbers.integers(1, 3, labelled.shape), 0)
    values = np.concatenate([points * labelled, flags][: each - 1], axis=2).reshape(len(corners), -1)
    boxes = np.array(_layout(corners, "cxcywh"))
    return np.concatenate([boxes, values], axis=1).round(6).tolist()


@given(st.integers(20, 60), _SEEDS, st.integers(4, 20), st.sampled_from([2, 3]), st.booleans())
@settings(max_examples=200, deadline=None)
def test_keypoints_are_recognized_from_all_rows(count: int, seed: int, points: int, each: int, mixed: bool) -> None:
    corners = _random_corners(count, seed, 0.05, 0.9, 1)
    rows = _with_keypoints(corners, points, each, seed)
    rows[:mixed] = [row[:4] for row in rows[:mixed]]
    found, notes = _recognized(rows)
    assert found == RowFormat(keypoints=each * points)
    assert f"{points} keypoints of {each} numbers, as row {int(mixed)}; the boxes are read" in notes[0]
    shape = found.shape_of(rows[-1], (1, 1))
    assert np.allclose(shape.corners, corners[-1], atol=1e-5) and not shape.polygons


@given(st.integers(1, 60), _SEEDS, st.integers(3, 12), st.floats(0.01, 0.4), st.floats(0, 1), st.booleans())
@settings(max_examples=500, deadline=None)
def test_polygons_with_the_same_number_of_points_are_no_keypoints(
    count: int, seed: int, points: int, radius: float, spread: float, turned: bool
) -> None:
    numbers = np.random.default_rng(seed)
    angles = np.sort(numbers.uniform(0, 2 * np.pi, (count, points)), axis=1)[:, :: -1 if turned else 1]
    radii = radius * numbers.uniform(0.5, 1, (count, points))
    circles = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=2)
    centers = 0.5 + spread * numbers.uniform(-1, 1, (count, 1, 2)) * (0.5 - radius)
    assert _recognized((centers + circles).reshape(count, -1).round(6).tolist()) == (_NO, [])


@pytest.mark.parametrize("start", range(4))
@pytest.mark.parametrize("turned", [1, -1])
def test_rotated_boxes_and_upright_rectangles_are_polygons(start: int, turned: int) -> None:
    x1, y1, x2, y2 = _random_corners(40, 0, 0.05, 0.9, 1).T
    points = np.stack([x1, y1, x2, y1, x2, y2, x1, y2], axis=1).reshape(-1, 4, 2)[:, ::turned]
    assert _recognized(np.roll(points, start, axis=1).reshape(-1, 8).tolist()) == (_NO, [])

"""The val split: near-duplicates stay together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ezsd.data.near_duplicates import near_duplicate_groups
from ezsd.data.samples import AnnotatedImage
from ezsd.data.val_split import choose_val


def _noise(path: Path, seed: int, change: int = 0) -> Path:
    """Write an image of large random cells; a change moves all values a little, as in the next frame of a video."""
    cells = np.random.default_rng(seed).integers(0, 200, (8, 9), dtype=np.uint8) + np.uint8(change)
    Image.fromarray(cells).resize((90, 80), Image.Resampling.NEAREST).save(path)
    return path


@pytest.mark.parametrize(
    "first, second, together",
    [
        ("a_jpg.rf.0123abcd.png", "a_jpg.rf.ffff0000.png", True),  # augmented copies of Roboflow
        ("a_jpg.rf.0123abcd.png", "b_jpg.rf.0123abcd.png", False),
        ("IMG_1_MOV-3.png", "IMG_1_MOV-12.png", True),  # frames of a video with a moving camera
        ("v_mp4-3_jpg.rf.0123.png", "v_mp4-4_jpg.rf.4567.png", True),
        ("IMG_1_MOV-3.png", "IMG_2_MOV-3.png", False),
        ("model-1.png", "model-2.png", False),
        ("frame_000012.png", "frame_000345.png", True),  # CVAT, ffmpeg
        ("day/Frame12_jpg.rf.01.png", "day/Frame13_jpg.rf.23.png", True),
        ("day/frame_000012.png", "night/frame_000012.png", False),
        ("clip.mp4_0012.png", "clip.mp4_0345.png", True),
        ("IMG_0012.png", "IMG_0013.png", False),
    ],
)
def test_names_of_copies_and_frames_are_known(first: str, second: str, together: bool, tmp_path: Path) -> None:
    for name in (first, second):
        (tmp_path / name).parent.mkdir(exist_ok=True)
    groups = near_duplicate_groups([_noise(tmp_path / first, 1), _noise(tmp_path / second, 2)])
    assert (groups[0] == groups[1]) == together


def test_images_that_look_the_same_are_one_group(tmp_path: Path) -> None:
    paths = [_noise(tmp_path / "a.png", 1), _noise(tmp_path / "b.png", 1, change=9), _noise(tmp_path / "c.png", 2)]
    first, second, other = near_duplicate_groups(paths).tolist()
    assert first == second != other


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=12), st.data())
def test_hashes_are_joined_as_by_comparing_all_pairs(hashes: list[int], data: st.DataObject) -> None:
    for _ in range(len(hashes)):  # random hashes are never near each other
        changed = data.draw(st.sets(st.integers(0, 63), min_size=4, max_size=9))
        hashes.append(data.draw(st.sampled_from(hashes)) ^ sum(1 << bit for bit in changed))
    expected = list(range(len(hashes)))
    for first, one in enumerate(hashes):
        for second, other in enumerate(hashes):
            if (one ^ other).bit_count() <= 6:
                both = {expected[first], expected[second]}
                expected = [min(both) if label in both else label for label in expected]
    assert _groups_of(hashes).tolist() == expected


def test_near_duplicates_are_found_among_many_images_however_they_are_named() -> None:
    numbers = np.random.default_rng(0).integers(0, 2**64, 30_000, dtype=np.uint64)
    numbers[-1] = numbers[0] ^ np.uint64(0b10110)
    assert np.flatnonzero(_groups_of(numbers.tolist()) == 0).tolist() == [0, 29_999]


def test_thousands_of_images_of_one_color_are_compared_once() -> None:
    numbers = np.random.default_rng(0).integers(0, 2**64, 40_000, dtype=np.uint64)
    numbers[::2] = 0
    groups = _groups_of(numbers.tolist())
    assert (groups[::2] == 0).all() and len(np.unique(groups)) == 20_001


def _groups_of(hashes: list[int]) -> np.ndarray[Any, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ezsd.data.near_duplicates._hashes", lambda _: np.array(hashes, dtype=np.uint64))
        return near_duplicate_groups([Path(f"{place:06d}.png") for place in range(len(hashes))])


def _images(paths: list[Path]) -> list[AnnotatedImage]:
    box, label = torch.tensor([[1.0, 1, 9, 9]]), torch.tensor([1])
    crowd = torch.zeros(1, dtype=torch.bool)
    return [AnnotatedImage(n, path, 90, 80, box, label, crowd, None) for n, path in enumerate(paths)]


def test_no_group_is_on_both_sides_and_the_note_counts_them(tmp_path: Path) -> None:
    paths = [_noise(tmp_path / f"{seed}_{copy}.png", seed, copy) for seed in range(10) for copy in range(2)]
    images = _images(paths)
    chosen = choose_val(images, 0.2)
    assert len(chosen.ids) == 4 and all((number ^ 1) in chosen.ids for number in chosen.ids)
    assert chosen.note == "20 of 20 images have near-duplicates, in 10 groups; each group is in one part."
    assert choose_val(images[::2], 0.2).note == "none of 10 images has a near-duplicate."


def test_a_video_that_is_larger_than_the_share_is_taken_as_a_whole(tmp_path: Path) -> None:
    names = [f"{name}_mp4-{frame}.png" for name, frames in (("a", 6), ("b", 8)) for frame in range(frames)]
    paths = [_noise(tmp_path / name, place) for place, name in enumerate(names)]
    chosen = choose_val(_images(paths), 0.2)
    assert {paths[number].name[0] for number in chosen.ids} == {"a"} and len(chosen.ids) == 6
    assert chosen.note.endswith("in 2 groups; each group is in one part, so the val part has 6 images, not 3.")


def test_only_a_single_video_is_divided_between_its_frames_and_not_their_copies(tmp_path: Path) -> None:
    names = [f"frame_{frame}_jpg.rf.{copy}.png" for frame in range(1, 12) for copy in "ab"]
    paths = [_noise(tmp_path / name, place) for place, name in enumerate(names)]
    chosen = choose_val(_images(paths), 0.16)
    assert sorted(paths[number].name for number in chosen.ids) == sorted(names[-4:])  # frames 10 and 11
    assert "in 1 group; all that could be taken is one of 22 images, so its last 4 by name" in chosen.note
    assert len(choose_val(_images(paths[:2]), 0.5).ids) == 1

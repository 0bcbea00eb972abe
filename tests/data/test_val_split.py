"""The val split: near-duplicates stay together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
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
    ],
)
def test_names_of_copies_and_frames_are_known(first: str, second: str, together: bool, tmp_path: Path) -> None:
    groups = near_duplicate_groups([_noise(tmp_path / first, 1), _noise(tmp_path / second, 2)])
    assert (groups[0] == groups[1]) == together


def test_images_that_look_the_same_are_one_group(tmp_path: Path) -> None:
    paths = [_noise(tmp_path / "a.png", 1), _noise(tmp_path / "b.png", 1, change=9), _noise(tmp_path / "c.png", 2)]
    first, second, other = near_duplicate_groups(paths).tolist()
    assert first == second != other


def test_no_group_is_on_both_sides_and_the_note_counts_them(tmp_path: Path) -> None:
    paths = [_noise(tmp_path / f"{seed}_{copy}.png", seed, copy) for seed in range(10) for copy in range(2)]
    box, label, crowd = (
        torch.tensor([[1.0, 1, 9, 9]]),
        torch.ones(1, dtype=torch.int64),
        torch.zeros(1, dtype=torch.bool),
    )
    images = [AnnotatedImage(n, path, 90, 80, box, label, crowd, None) for n, path in enumerate(paths)]
    chosen = choose_val(images, 0.2)
    assert len(chosen.ids) == 4 and all((number ^ 1) in chosen.ids for number in chosen.ids)
    assert chosen.note == "20 of 20 images have near-duplicates, in 10 groups; each group is in one part."
    assert choose_val(images[::2], 0.2).note == "none of 10 images has a near-duplicate."

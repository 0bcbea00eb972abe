"""Selection of boxes by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ezsd.data.samples import AnnotatedImage, ImageSet, images_with, labels_among, with_names

NAMES = ("cat", "dog", "cow", "cup")


def _image(labels: list[int], crowd: list[bool], image_id: int = 1, masks: bool = True) -> AnnotatedImage:
    boxes = torch.arange(4 * len(labels), dtype=torch.float32).reshape(-1, 4)
    return AnnotatedImage(
        image_id, Path("image.jpg"), 64, 64, boxes, torch.tensor(labels, dtype=torch.int64),
        torch.tensor(crowd, dtype=torch.bool), [[[float(row)] * 6] for row in range(len(labels))] if masks else None,
        boxes[:, 0].clone(),
    )  # fmt: skip


@given(
    st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=8),
    st.lists(st.sampled_from(NAMES), unique=True, max_size=4),
)
def test_selected_boxes_keep_their_order_names_masks_and_areas(rows: list[tuple[int, bool]], wanted: list[str]) -> None:
    labels, crowd = [label for label, _ in rows], [is_crowd for _, is_crowd in rows]
    image = _image(labels, crowd)
    selected = with_names(image, NAMES, wanted)
    expected = [row for row, (label, is_crowd) in enumerate(rows) if NAMES[label - 1] in wanted and not is_crowd]
    assert torch.equal(selected.boxes, image.boxes[expected])
    assert [wanted[label - 1] for label in selected.labels.tolist()] == [NAMES[labels[row] - 1] for row in expected]
    assert not selected.crowd.any() and len(selected.crowd) == len(expected)
    assert [entry[0][0] for entry in selected.segmentations or []] == expected
    assert selected.areas is not None and torch.equal(selected.areas, image.boxes[expected][:, 0])
    assert labels_among(image, NAMES, wanted).tolist() == [
        wanted.index(NAMES[label - 1]) + 1 if NAMES[label - 1] in wanted else 0 for label in labels
    ]


def test_an_image_without_boxes_is_supported() -> None:
    selected = with_names(_image([], []), NAMES, ["cat"])
    assert selected.boxes.shape == (0, 4) and selected.labels.dtype == torch.int64


def test_an_image_without_masks_and_areas_is_supported() -> None:
    selected = with_names(replace(_image([1, 2], [False, False], masks=False), areas=None), NAMES, ["dog"])
    assert selected.segmentations is None and selected.areas is None and selected.labels.tolist() == [1]


def test_images_with_ignores_crowd_boxes() -> None:
    images = ImageSet([_image([1], [True], 1), _image([1, 2], [True, False], 2), _image([3], [False], 3)], NAMES, True)
    assert [image.image_id for image in images_with(images, ["cat", "dog"])] == [2]


@pytest.mark.parametrize("index, expected", [(0, 5), (-1, 7)])
def test_an_image_set_is_a_sequence(index: int, expected: int) -> None:
    images = ImageSet([_image([1], [False], key) for key in (5, 6, 7)], NAMES, True)
    assert len(images) == 3 and [image.image_id for image in images] == [5, 6, 7]
    assert images[index].image_id == expected and [image.image_id for image in images[1:]] == [6, 7]

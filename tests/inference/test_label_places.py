"""Labels do not cover each other and stay inside the image."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from ezsd.inference.label_places import place_labels

IMAGE = (640, 480)


def rectangles(boxes: list[list[float]], sizes: list[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    places = place_labels(np.array(boxes, dtype=float).reshape(-1, 4), sizes, IMAGE)
    return [(left, top, left + w, top + h) for (left, top), (w, h) in zip(places, sizes, strict=True)]


def meet(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    across = min(first[2], second[2]) > max(first[0], second[0])
    return across and min(first[3], second[3]) > max(first[1], second[1])


def test_a_label_is_above_its_box_where_there_is_room() -> None:
    assert rectangles([[100, 100, 200, 200]], [(80, 20)]) == [(100, 80, 180, 100)]


@pytest.mark.parametrize("box", [[0, 0, 640, 480], [600, 0, 640, 40], [630, 470, 640, 480], [-5, 300, 20, 490]])
def test_a_label_at_the_border_stays_inside(box: list[float]) -> None:
    (left, top, right, bottom) = rectangles([box], [(200, 20)])[0]
    assert left >= 0 and right <= IMAGE[0] and top >= 0 and bottom <= IMAGE[1]


def test_labels_of_boxes_on_each_other_are_apart() -> None:
    placed = rectangles([[100, 100, 200, 200]] * 20, [(150, 22)] * 20)
    assert not any(meet(first, second) for first, second in combinations(placed, 2))
    assert placed[0] == (100, 78, 250, 100)  # the most important one has the best place


def test_more_labels_than_fit_stay_inside() -> None:
    placed = rectangles([[10, 10, 600, 400]] * 60, [(600, 30)] * 60)
    assert all(left >= 0 and right <= 640 and top >= 0 and bottom <= 480 for left, top, right, bottom in placed)


def test_a_label_larger_than_the_image_begins_at_its_corner() -> None:
    assert rectangles([[300, 200, 400, 300]], [(900, 600)])[0][:2] == (0, 0)


def test_no_labels() -> None:
    assert place_labels(np.zeros((0, 4)), [], IMAGE) == []

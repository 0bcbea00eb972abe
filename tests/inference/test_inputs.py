"""Images are read in parts that fit into memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from ezsd.inference.inputs import in_parts


def test_a_part_ends_with_the_number_of_images_or_of_pixels() -> None:
    read: list[int] = []

    def image(side: int) -> np.ndarray[Any, Any]:
        read.append(side)
        return np.zeros((side, side, 3), np.uint8)

    parts = in_parts(map(image, [10, 10, 10, 2, 20, 1, 1, 1]), lambda pixels: pixels, 3, 300)
    assert len(next(parts)) == 3 and read == [10, 10, 10]  # later images are not read yet
    assert [[len(each) for each in part] for part in parts] == [[2, 20], [1, 1, 1]]
    assert list(in_parts(iter(()), lambda pixels: pixels, 3)) == []

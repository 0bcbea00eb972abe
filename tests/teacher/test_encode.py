from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ezsd.data.formats.coco import load_images
from ezsd.data.prefetch import ImageCache, read_ahead
from ezsd.data.samples import read_image
from ezsd.teacher.encode import encode_regions
from ezsd.teacher.regions import crop_regions
from tiny import CATEGORIES, TinyCoco
from tiny_teacher import ColourTeacher


class _Counting(ColourTeacher):
    """Records the number of crops of each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: list[int] = []

    def encode_crops(self, crops: Tensor) -> Tensor:
        self.passes.append(len(crops))
        return super().encode_crops(crops)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_boxes_are_embedded_in_full_batches_and_returned_by_image(batch_size: int) -> None:
    torch.manual_seed(0)
    counts = [3, 0, 11, 1, 0, 0, 5, 0]
    images = [torch.rand(3, 40, 50) for _ in counts]
    boxes = []
    for count in counts:
        corner = torch.rand(count, 2) * 20
        boxes.append(torch.cat([corner, corner + 5 + torch.rand(count, 2) * 20], dim=1))
    teacher = _Counting()
    found = list(encode_regions(teacher, zip(images, boxes, strict=True), batch_size, "cpu", "fp32"))
    assert teacher.passes == [batch_size] * (20 // batch_size) + [20 % batch_size] * (20 % batch_size > 0)
    assert [len(part) for part in found] == counts
    for image, own, embeddings in zip(images, boxes, found, strict=True):
        expected = ColourTeacher().encode_crops(crop_regions(image, own, 16))
        torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=0)


def test_no_images_or_no_boxes_run_no_forward_pass() -> None:
    teacher = _Counting()
    assert list(encode_regions(teacher, [], 4, "cpu", "fp32")) == []
    nothing = list(encode_regions(teacher, [(torch.rand(3, 8, 8), torch.zeros(0, 4))], 4, "cpu", "fp32"))
    assert [part.shape for part in nothing] == [(0, 16)] and teacher.passes == []


def test_prefetched_images_keep_their_order(tmp_path: Path, tiny_coco: Callable[..., TinyCoco]) -> None:
    images = load_images(tiny_coco(tmp_path).part(), list(CATEGORIES.values())).images
    for image, pixels in zip(images, read_ahead(images), strict=True):
        assert torch.equal(pixels, read_image(image))
    cache = ImageCache(images, size=2)
    for places in ([0, 1, 2], [2, 3], [0]):
        cache.ask(places)
        for place in places:
            assert torch.equal(cache.get(place), read_image(images[place]))
    assert cache.get(0) is cache.get(0)

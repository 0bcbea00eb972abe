from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as vision

from ezsd.teacher.regions import box_means, crop_regions, read_at_scales

HEIGHT, WIDTH = 90, 120


def _smooth_image(seed: int = 0) -> Tensor:
    coarse = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic", align_corners=False)[0].clamp(0, 1)


def _slow_crop(image: Tensor, box: Tensor, size: int) -> Tensor:
    """Crop the square around the center of the box from a zero-padded image, then resize it with torchvision."""
    margin = 400
    side = int((box[2:] - box[:2]).max())
    left, top = ((box[:2] + box[2:] - side) / 2 + margin).round().int().tolist()
    padded = F.pad(image, (margin,) * 4)
    return vision.resize(padded[:, top : top + side, left : left + side], [size, size], antialias=True)


@st.composite
def _even_boxes(draw: st.DrawFn) -> Tensor:
    """Draw boxes whose squares have integer corners, inside the image or partly outside."""
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        width, height = (2 * draw(st.integers(4, 50)) for _ in range(2))
        x, y = draw(st.integers(-20, WIDTH - 10)), draw(st.integers(-20, HEIGHT - 10))
        rows.append([x, y, x + width, y + height])
    return torch.tensor(rows, dtype=torch.float32)


@st.composite
def _boxes_on_a_map(draw: st.DrawFn, shortest: float) -> Tensor:
    """Draw boxes on a map of 9 x 12 cells of 8 pixels."""
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        x, y = draw(st.floats(0, 95 - shortest)), draw(st.floats(0, 71 - shortest))
        rows.append([x, y, draw(st.floats(x + shortest, 96)), draw(st.floats(y + shortest, 72))])
    return torch.tensor(rows, dtype=torch.float32)


@settings(max_examples=40)
@given(boxes=_even_boxes(), size=st.sampled_from([16, 24, 32]))
def test_crops_equal_padded_and_resized_crops(boxes: Tensor, size: int) -> None:
    image = _smooth_image()
    crops = crop_regions(image, boxes, size)
    for crop, box in zip(crops, boxes, strict=True):
        inside = _slow_crop(torch.ones_like(image), box, size)  # between 0 and 1: on the image border
        difference = (crop - _slow_crop(image, box, size)).abs()
        enlarged = (box[2:] - box[:2]).max() <= size
        away_from_edges = difference[:, 2:-2, 2:-2][inside[:, 2:-2, 2:-2] == 1]
        assert away_from_edges.sum() <= (1e-4 if enlarged else 0.05) * away_from_edges.numel()
        assert difference[inside == 0].sum() == 0


def test_shrunk_crops_are_antialiased() -> None:
    noise = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(4))
    crop = crop_regions(noise, torch.tensor([[0.0, 0, 250, 250]]), 32)
    assert crop.std() < 0.06  # 0.29 for the noise, 0.04 for the mean of 64 pixels


@settings(max_examples=25)
@given(boxes=_even_boxes(), x=st.integers(0, 30), y=st.integers(0, 30))
def test_crops_are_translation_invariant(boxes: Tensor, x: int, y: int) -> None:
    image = F.pad(_smooth_image(), (50, 50, 50, 50))
    boxes = boxes + 50
    moved = F.pad(image, (x, 0, y, 0))
    before = crop_regions(image, boxes, 128)
    after = crop_regions(moved, boxes + torch.tensor([x, y, x, y]), 128)
    assert torch.allclose(before, after, atol=1e-3)


def test_crops_are_zero_only_outside_the_image() -> None:
    white = torch.ones(3, HEIGHT, WIDTH)
    crop = crop_regions(white, torch.tensor([[-40.0, 0, 40, 80]]), 16)[0]
    assert torch.equal(crop[:, :, :8], torch.zeros(3, 16, 8))
    assert torch.allclose(crop[:, :, 8:], torch.ones(3, 16, 8))
    (tall,) = crop_regions(white, torch.tensor([[0.0, 0, 30, HEIGHT]]), 90)  # the square extends 30 px outside
    assert tall[0, 45].round().tolist() == [0.0] * 30 + [1.0] * 60
    assert crop_regions(white, torch.tensor([[500.0, 500, 600, 600]]), 16).abs().max() == 0


def test_downsampled_crops_stay_white_up_to_an_odd_border() -> None:
    white = torch.ones(3, 333, 517)
    crop = crop_regions(white, torch.tensor([[0.0, 0, 517, 333]]), 32)[0]
    rows = torch.arange(32) * 517 / 32 - (517 - 333) / 2 + 517 / 64
    inside = ((rows > 0) & (rows < 333)).float()
    assert torch.allclose(crop, inside[:, None].expand(3, 32, 32))


def test_crops_of_uint8_and_float_images_are_equal() -> None:
    image = (_smooth_image() * 255).to(torch.uint8)
    boxes = torch.tensor([[3.0, 4, 50, 40], [0, 0, 120, 90]])
    assert torch.equal(crop_regions(image, boxes, 16), crop_regions(image / 255, boxes, 16))


def test_crops_of_no_boxes_are_empty_and_crops_of_a_point_are_finite() -> None:
    assert crop_regions(_smooth_image(), torch.zeros(0, 4), 16).shape == (0, 3, 16, 16)
    assert crop_regions(_smooth_image(), torch.tensor([[20.0, 20, 20, 20]]), 16).isfinite().all()


def test_batched_crops_equal_single_crops() -> None:
    boxes = torch.tensor([[0.0, 0, 8, 8], [5, 5, 100, 90], [30, 20, 60, 52], [1, 1, 119, 89]])
    together = crop_regions(_smooth_image(), boxes, 16)
    alone = torch.cat([crop_regions(_smooth_image(), box[None], 16) for box in boxes])
    assert torch.equal(together, alone)


def _slow_means(features: Tensor, boxes: Tensor, stride: float) -> Tensor:
    """Average cells, weighted by the area of their intersection with the box."""
    _, height, width = features.shape
    columns, rows = torch.arange(width) * stride, torch.arange(height) * stride
    means = []
    for x1, y1, x2, y2 in boxes:
        across = (torch.minimum(columns + stride, x2) - torch.maximum(columns, x1)).clamp(min=0)
        down = (torch.minimum(rows + stride, y2) - torch.maximum(rows, y1)).clamp(min=0)
        weights = down[:, None] * across
        means.append((features * weights).sum((1, 2)) / weights.sum())
    return torch.stack(means)


@settings(max_examples=60)
@given(boxes=_boxes_on_a_map(1), seed=st.integers(0, 1000))
def test_box_means_equal_area_weighted_means(boxes: Tensor, seed: int) -> None:
    features = torch.randn(5, 9, 12, generator=torch.Generator().manual_seed(seed)) + 3
    assert torch.allclose(box_means(features, boxes, 8), _slow_means(features, boxes, 8.0), atol=1e-3)


def test_box_mean_of_the_full_map_is_the_mean_of_the_map() -> None:
    features = torch.randn(4, 9, 12, generator=torch.Generator().manual_seed(2))
    whole = torch.tensor([[0.0, 0, 96, 72], [-50, -50, 500, 500]])
    assert torch.allclose(box_means(features, whole, 8), features.mean((1, 2)).expand(2, 4), atol=1e-5)


@settings(max_examples=30)
@given(boxes=_boxes_on_a_map(8), part=st.floats(0.2, 0.8))
def test_weighted_means_of_two_parts_give_the_mean_of_the_box(boxes: Tensor, part: float) -> None:
    features = torch.randn(3, 9, 12, generator=torch.Generator().manual_seed(1))
    cut = boxes[:, 0] + (boxes[:, 2] - boxes[:, 0]) * part
    left, right = boxes.clone(), boxes.clone()
    left[:, 2], right[:, 0] = cut, cut
    joined = part * box_means(features, left, 8) + (1 - part) * box_means(features, right, 8)
    assert torch.allclose(joined, box_means(features, boxes, 8), atol=2e-3)


def test_box_means_outside_the_map_and_of_empty_boxes_are_finite() -> None:
    features = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(2))
    boxes = torch.tensor([[500.0, 500, 600, 600], [8, 8, 8, 8], [-9, -9, -5, -5]])
    means = box_means(features, boxes, 8)
    assert means.isfinite().all()
    assert torch.allclose(means[1], features[:, 1, 1], atol=1e-3)


def test_each_box_uses_the_scale_closest_to_the_input_size() -> None:
    seen: dict[int, list[list[float]]] = {}

    def read(image: Tensor, boxes: Tensor) -> Tensor:
        seen[image.shape[2]] = boxes.tolist()
        return torch.cat([torch.full((len(boxes), 1), image.shape[2]), boxes[:, :1]], dim=1)

    boxes = torch.tensor([[8.0, 0, 108, 10], [16, 0, 26, 20], [4, 10, 24, 110], [12, 0, 62, 50]])
    result = read_at_scales(torch.rand(3, 100, 200), boxes, (200, 400, 800), 100, read)
    assert result[:, 0].tolist() == [200, 800, 200, 400]
    assert result[:, 1].tolist() == [8, 64, 4, 24]
    assert seen[400] == [[24.0, 0.0, 124.0, 100.0]]


def test_no_boxes_give_no_embeddings() -> None:
    result = read_at_scales(torch.rand(3, 10, 10), torch.zeros(0, 4), (20, 40), 10, lambda _, boxes: boxes[:, :1])
    assert result.shape == (0, 1)


def test_boxes_narrower_than_a_pixel_are_cropped_as_one_pixel() -> None:
    ramp = torch.arange(100.0).div(100).expand(3, 50, 100)
    crop = crop_regions(ramp, torch.tensor([[20.0, 30, 20, 30]]), 16)[0, 0]
    assert torch.allclose(crop[:, -1] - crop[:, 0], torch.tensor(15 / 16 / 100), atol=1e-4)
    assert torch.allclose(crop.mean(), torch.tensor(19.5 / 100), atol=1e-4)


def test_crops_are_white_on_the_border_of_a_white_image() -> None:
    white = torch.ones(3, 4, 4)
    enlarged = crop_regions(white, torch.tensor([[0.0, 0, 4, 4]]), 16)
    assert torch.allclose(enlarged, torch.ones(1, 3, 16, 16))
    on_the_border = torch.tensor([[-1.0, -1, 3, 3], [1, 1, 5, 5]])  # pixel centers at 0 and 2, and at 2 and 4
    assert torch.equal(crop_regions(white, on_the_border, 2), torch.ones(2, 3, 2, 2))


def test_odd_last_column_and_row_count_in_a_downsampled_crop() -> None:
    image, box = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(3)), torch.tensor([[0.0, 0, 9, 9]])
    even = F.pad(image[None], (0, 1, 0, 1), mode="replicate")[0]
    assert torch.equal(crop_regions(image, box, 4), crop_regions(even, box, 4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_box_dtype_does_not_change_the_result(dtype: torch.dtype) -> None:
    image, boxes = _smooth_image(), torch.tensor([[3.0, 5, 44, 60], [10, 20, 31, 27]])
    features = image[:, :9, :12]
    assert torch.equal(crop_regions(image, boxes.to(dtype), 16), crop_regions(image, boxes, 16))
    assert torch.equal(box_means(features, boxes.to(dtype), 8), box_means(features, boxes, 8))
    read = [read_at_scales(image, each, (100, 250), 30, lambda _, boxes: boxes) for each in (boxes, boxes.to(dtype))]
    assert torch.equal(*read)


def test_scales_without_a_box_are_skipped_and_a_point_counts_as_one_pixel() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 4, 4, 4], [0, 0, 1.3, 1.3]])
    sides: list[int] = []

    def read(image: Tensor, boxes: Tensor) -> Tensor:
        sides.append(image.shape[1])
        return boxes[:, 2:3] / image.shape[1]

    result = read_at_scales(torch.rand(3, 10, 10), boxes, (10, 30, 45, 80), 10, read)
    assert sides == [10, 80] and torch.allclose(result[:, 0], torch.tensor([1, 0.4, 0.13]))


def test_images_are_resized_with_antialiasing_to_at_least_one_pixel() -> None:
    noise = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(4))
    seen: list[Tensor] = []

    def read(image: Tensor, boxes: Tensor) -> Tensor:
        seen.append(image)
        return boxes

    for image in (noise, torch.rand(3, 1, 200), torch.rand(3, 200, 1)):
        read_at_scales(image, torch.tensor([[0.0, 0, 9, 9]]), (16,), 16, read)
    assert [tuple(image.shape[1:]) for image in seen] == [(16, 16), (1, 16), (16, 1)]
    assert seen[0].std() < 0.06 and abs(float(seen[0].mean()) - float(noise.mean())) < 0.02

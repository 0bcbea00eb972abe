"""Crop boxes from images and average feature maps over boxes, batched on the device of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def crop_regions(image: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crop boxes from an image. Each box is extended to a square around its center and resized; outside is zero.

    Downsampling is antialiased: each box is sampled (bilinear) from the level of an average-pooled pyramid whose pixel
    size is closest to that of the crop. One ``grid_sample`` per level, no loop over boxes.

    Args:
        image: ``[3, H, W]``, uint8 (0..255) or float (0..1), any device.
        boxes: ``[N, 4]`` xyxy, pixels. Boxes narrower than one pixel are treated as one pixel wide.
        size: Side of the crops, in pixels.

    Returns:
        Float crops ``[N, 3, size, size]``, values 0..1.
    """
    level = image.float().div_(255) if image.dtype == torch.uint8 else image
    boxes = boxes.to(level)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    lengths = (boxes[:, 2:] - boxes[:, :2]).amax(1).clamp(min=1)
    steps = (torch.arange(size, device=level.device, dtype=level.dtype) + 0.5) / size - 0.5
    points = centers[:, :, None] + lengths[:, None, None] * steps  # [N, 2, size]: x and y of the crop's pixel centers
    height, width = image.shape[1:]
    inside = (points >= 0) & (points <= points.new_tensor([width, height])[:, None])
    octaves = (lengths / size).log2().round().clamp(min=0).long()
    crops = level.new_zeros(len(boxes), 3, size, size)
    for octave in range(int(octaves.max()) + 1 if len(boxes) else 0):
        if octave:
            level = _halved(level)
        chosen = (octaves == octave).nonzero()[:, 0]
        if len(chosen):
            crops[chosen] = _sampled(level, points[chosen] / 2**octave)
    return crops * (inside[:, 0, None, :] & inside[:, 1, :, None])[:, None]


def _halved(image: Tensor) -> Tensor:
    height, width = image.shape[1:]
    even = F.pad(image[None], (0, width % 2, 0, height % 2), mode="replicate")
    return F.avg_pool2d(even, 2)[0]


def _sampled(image: Tensor, points: Tensor) -> Tensor:
    count, _, size = points.shape
    scaled = points / points.new_tensor([image.shape[2], image.shape[1]])[:, None] * 2 - 1
    grid = torch.stack(
        [scaled[:, 0, None, :].expand(-1, size, -1), scaled[:, 1, :, None].expand(-1, -1, size)], dim=-1
    ).reshape(1, count * size, size, 2)
    samples = F.grid_sample(image[None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return samples.view(image.shape[0], count, size, size).transpose(0, 1)


def box_means(features: Tensor, boxes: Tensor, stride: float) -> Tensor:
    """Return the mean of a feature map over each box, with fractional edges.

    The map is constant within a cell. Its integral is evaluated at the four corners of each box (bilinear between
    nodes, which is exact), so the cost does not depend on the size of the boxes.

    Args:
        features: ``[F, h, w]``; cell (i, j) covers pixels ``[j * stride, (j + 1) * stride]`` in x and
            ``[i * stride, (i + 1) * stride]`` in y.
        boxes: ``[N, 4]`` xyxy, pixels of the image that the map was computed from. Boxes are clipped to the map; sides
            shorter than a tenth of a cell are extended to a tenth.
        stride: Pixels per cell.

    Returns:
        ``[N, F]`` float32.
    """
    channels, height, width = features.shape
    features = features.float()
    middle = features.mean((1, 2), keepdim=True)  # small sums keep the rounding error small
    nodes = F.pad((features - middle).cumsum(1).cumsum(2), (1, 0, 1, 0)).flatten(1).T.contiguous()
    limits = features.new_tensor([width, height])
    cells = boxes.to(features) / stride
    low = torch.minimum(cells[:, :2].clamp(min=0), limits - 0.1)
    high = torch.maximum(torch.minimum(cells[:, 2:], limits), low + 0.1)
    x_nodes, x_weights = _integral_taps(low[:, 0], high[:, 0], width)
    y_nodes, y_weights = _integral_taps(low[:, 1], high[:, 1], height)
    indices = (y_nodes[:, :, None] * (width + 1) + x_nodes[:, None, :]).flatten(1)
    weights = (y_weights[:, :, None] * x_weights[:, None, :]).flatten(1)
    means = F.embedding_bag(indices, nodes, per_sample_weights=weights, mode="sum")
    return means + middle.view(1, channels)


def _integral_taps(low: Tensor, high: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Return four nodes of a running sum and the weights that give the mean between ``low`` and ``high``."""
    ends = torch.stack([low, high], dim=1)
    before = ends.floor().clamp(max=cells - 1)
    part = ends - before
    signs = ends.new_tensor([-1.0, 1.0]) / (high - low)[:, None]
    nodes = torch.stack([before, before + 1], dim=2).flatten(1).long()
    return nodes, torch.stack([(1 - part) * signs, part * signs], dim=2).flatten(1)


def read_at_scales(
    image: Tensor,
    boxes: Tensor,
    sides: Sequence[int],
    input_size: int,
    read: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Resize an image to each long side and embed every box at the scale that fits it best.

    Args:
        image: ``[3, H, W]``, values 0..1.
        boxes: ``[N, 4]`` xyxy, pixels of ``image``.
        sides: Long sides, in pixels.
        input_size: Each box uses the scale where its longer side is closest (as a ratio) to this many pixels.
        read: Resized image and the boxes of that scale (in its pixels) -> ``[n, D]``.

    Returns:
        ``[N, D]``, in the order of ``boxes``.
    """
    height, width = image.shape[1:]
    boxes = boxes.to(image.device, torch.float32)
    scales = torch.tensor([side / max(height, width) for side in sides], device=image.device)
    lengths = (boxes[:, 2:] - boxes[:, :2]).amax(1).clamp(min=1)
    nearest = (lengths[:, None] * scales / input_size).log().abs().argmin(1)
    order, parts = [], []
    for index, side in enumerate(sides):
        chosen = (nearest == index).nonzero()[:, 0]
        if not len(chosen) and len(boxes):
            continue
        scale = side / max(height, width)
        new_size = (max(1, round(height * scale)), max(1, round(width * scale)))
        resized = F.interpolate(image[None].float(), new_size, mode="bilinear", antialias=True)[0].clamp(0, 1)
        factors = boxes.new_tensor([new_size[1] / width, new_size[0] / height]).repeat(2)
        order.append(chosen)
        parts.append(read(resized, boxes[chosen] * factors))
        if not len(boxes):
            break
    return torch.cat(parts)[torch.cat(order).argsort()]

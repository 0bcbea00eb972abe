"""Embeddings of many boxes from one pass of an open_clip image tower; one method per kind of tower."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import Tensor, nn
from torch.nn import functional as F

from ezsd.teacher.base import DEFAULT_READING
from ezsd.teacher.regions import box_means
from ezsd.teacher.vit_readings import Read, vit_reader, vit_readings, vit_tower

Reader = Callable[[Tensor, Tensor], Tensor]  # normalized image [3, H, W] and boxes [N, 4] xyxy -> [N, D]
MULTIPLE = 64  # images are padded to multiples of this, so that strided layers do not drop the border
BOX_BATCH = 4096
TILE_BATCH = 32
STEP = 0.75  # step between tiles, as a fraction of their side


def readings_of_tower(visual: nn.Module) -> tuple[str, ...]:
    """Return the dense readings of an image tower, the default first. Convolutional towers have only that one."""
    tower = vit_tower(visual)
    return (DEFAULT_READING,) if tower is None else vit_readings(tower)


def reader_of(visual: nn.Module, input_size: int, reading: str = DEFAULT_READING) -> tuple[Reader, str]:
    """Return the function that embeds boxes with an image tower, and why it cannot be used; empty if it can.

    - ModifiedResNet: the feature map, passed through the value path of the attention pool.
    - timm model with a convolutional trunk: the mean of the feature map over each box, then the head.
    - vision transformer: the patches of overlapping tiles; see :func:`read_tiles`.
    - others, such as Swin or towers with relative positions for one input size: none.

    Args:
        visual: The image tower.
        input_size: The side of its input, in pixels.
        reading: One of :func:`readings_of_tower`.
    """
    tower: Any = visual
    vit = vit_tower(visual)
    if vit is not None:
        early, end = vit_reader(vit, reading)
        return partial(read_tiles, size=input_size, grid=vit.grid, early=early, end=end), ""
    if isinstance(visual, ModifiedResNet):
        return partial(read_map, features=partial(_resnet_values, tower), head=nn.Identity()), ""
    if isinstance(visual, TimmModel):
        reader = partial(read_map, features=tower.trunk.forward_features, head=partial(_timm_head, tower))
        return reader, _problem_of_map(tower)
    kind, reader = type(visual).__name__, partial(read_map, features=nn.Identity(), head=nn.Identity())
    return reader, f"the image tower {kind} is neither a vision transformer, a ModifiedResNet nor a timm model"


def problem_of_timm(vision: Mapping[str, Any]) -> str:
    """Return why the timm tower of a config cannot embed many boxes in one pass; empty if it can.

    The tower is built without memory for its weights, so this takes a second for any size.

    Args:
        vision: The section ``vision_cfg`` of open_clip, with the key ``timm_model_name``.
    """
    side = vision.get("image_size", 224)
    with torch.device("meta"):
        tower = TimmModel(
            vision["timm_model_name"], embed_dim=1, image_size=side, pool=vision.get("timm_pool", "avg"),
            proj=vision.get("timm_proj", "linear"), pretrained=False,
        ).eval()  # fmt: skip
    return reader_of(tower, side)[1]


@torch.no_grad()
def _problem_of_map(tower: Any) -> str:
    """Return why a timm trunk gives no feature map for images of other sizes; empty if it does."""
    kind = type(tower.trunk).__name__
    sides = 3 * MULTIPLE, 5 * MULTIPLE  # images are padded to any multiples
    try:
        device = next(tower.trunk.parameters()).device
        cells = tower.trunk.forward_features(torch.zeros(1, 3, *sides, device=device))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        return f"the trunk {kind} takes only images of its input size, as with relative positions ({reason})"
    if cells.ndim != 4 or cells.shape[1] != tower.trunk.num_features or 5 * cells.shape[2] != 3 * cells.shape[3]:
        return (
            f"the trunk {kind} gives features of shape {list(cells.shape)}, which are no map [1, F, h, w] of the image"
        )
    return ""


def read_map(image: Tensor, boxes: Tensor, features: Read, head: Read) -> Tensor:
    """Embed boxes with a convolutional feature map: the mean over each box, then the head.

    Args:
        image: Normalized image ``[3, H, W]``.
        boxes: ``[N, 4]`` xyxy, pixels of ``image``.
        features: ``[1, 3, H', W']`` -> ``[1, F, h, w]``.
        head: ``[n, F]`` -> ``[n, D]``.

    Returns:
        ``[N, D]``, unit length.
    """
    height, width = image.shape[1:]
    padded = F.pad(image, (0, -width % MULTIPLE, 0, -height % MULTIPLE))
    cells = features(padded[None].contiguous(memory_format=torch.channels_last))[0]
    stride = padded.shape[2] / cells.shape[2]
    parts = [head(box_means(cells, part, stride)).float() for part in torch.split(boxes, BOX_BATCH)]
    return F.normalize(torch.cat(parts), dim=-1)


def read_tiles(image: Tensor, boxes: Tensor, size: int, grid: int, early: Read, end: Read) -> Tensor:
    """Embed boxes with the patches of a vision transformer that processes the image in overlapping tiles.

    Tiles have the input size of the tower, so position embeddings stay valid. Unit patch embeddings are averaged where
    tiles overlap. See :mod:`ezsd.teacher.vit_readings` for what is read from a tile.

    Args:
        image: Normalized image ``[3, H, W]``.
        boxes: ``[N, 4]`` xyxy, pixels of ``image``.
        size: Side of a tile, in pixels.
        grid: Number of patches along the side of a tile.
        early: Tiles ``[n, 3, size, size]`` -> states of their patches ``[n, C, grid, grid]``.
        end: States ``[m, C]`` -> ``[m, D]``.

    Returns:
        ``[N, D]``, unit length.
    """
    patch = size // grid
    height, width = image.shape[1:]
    places = [(row, column) for row in tile_starts(height, patch, grid) for column in tile_starts(width, patch, grid)]
    rows, columns = places[-1][0] + grid, places[-1][1] + grid
    spare = size - patch * grid  # input pixels beyond the last full patch
    padded = F.pad(image, (0, max(0, columns * patch + spare - width), 0, max(0, rows * patch + spare - height)))
    parts = []
    for start in range(0, len(places), TILE_BATCH):
        tiles = [
            padded[:, y * patch : y * patch + size, x * patch : x * patch + size]
            for y, x in places[start : start + TILE_BATCH]
        ]
        tokens = early(torch.stack(tiles)).permute(0, 2, 3, 1)
        parts.append(F.normalize(end(tokens.flatten(0, 2)).float(), dim=-1).view(*tokens.shape[:3], -1))
    means = _stitched(torch.cat(parts), places).permute(2, 0, 1)
    return F.normalize(torch.cat([box_means(means, part, patch) for part in torch.split(boxes, BOX_BATCH)]), dim=-1)


def _stitched(tiles: Tensor, places: list[tuple[int, int]]) -> Tensor:
    """Stitch tiles ``[T, g, g, D]`` into one map ``[rows, columns, D]``; overlapping tiles are averaged."""
    grid = tiles.shape[1]
    rows, columns = places[-1][0] + grid, places[-1][1] + grid
    sums, counts = tiles.new_zeros(rows, columns, tiles.shape[-1]), tiles.new_zeros(rows, columns, 1)
    for (y, x), tile in zip(places, tiles, strict=True):
        sums[y : y + grid, x : x + grid] += tile
        counts[y : y + grid, x : x + grid] += 1
    return sums / counts


def tile_starts(length: int, patch: int, grid: int) -> list[int]:
    """Return the first patch of each tile along a side of ``length`` pixels; the last tile ends at the image border."""
    spare = max(0, -(-length // patch) - grid)
    count = 1 + -(-spare // max(1, int(grid * STEP)))
    return [round(index * spare / max(1, count - 1)) for index in range(count)]


def _resnet_values(tower: Any, images: Tensor) -> Tensor:
    features = tower.stem(images)
    for layer in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
        features = layer(features)
    pool = tower.attnpool  # both projections are linear: their mean output is their output for the mean
    values: Tensor = pool.c_proj(pool.v_proj(features.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    return values


def _timm_head(tower: Any, features: Tensor) -> Tensor:
    values: Tensor = tower.head(tower.trunk.forward_head(features[:, :, None, None]))
    return values

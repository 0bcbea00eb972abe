"""Two operators of the exported graph whose intermediate sizes depend on the data, in PyTorch and in ONNX.

The sizes of their outputs are known, so the rest of the graph has fixed ranks and needs no loop over images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms, roi_align

_BOOL = 9  # onnx.TensorProto.BOOL


def kept_by_nms(boxes: Tensor, scores: Tensor, iou: float, least: float, most: int) -> Tensor:
    """Return which boxes non-maximum suppression keeps, [B, N] bool.

    Args:
        boxes: [B, N, 4] xyxy.
        scores: [B, G, N], the score of a box in each group; boxes of different groups do not suppress each other.
        iou: The IoU above which the lower-scored of two boxes of a group is removed.
        least: Boxes with this score or less do not belong to the group.
        most: The maximum number of boxes kept in a group.
    """
    kept: Tensor = _Nms.apply(  # type: ignore[no-untyped-call]
        boxes, scores, iou, least, most
    )
    return kept


def pool_regions(levels: list[Tensor], boxes: Tensor, places: Tensor, bins: tuple[int, int], stride: int) -> Tensor:
    """Pool each region from one pyramid level (RoIAlign), [R, F, S, S].

    Args:
        levels: Pyramid levels, each [B, F, h, w]; the stride doubles from level to level.
        boxes: [R, 4] xyxy, pixels of the batched image.
        places: [R, 2] int64, the image in the batch and the level of each region.
        bins: S, and the number of samples per bin and axis.
        stride: Stride of the first level.
    """
    pooled: Tensor = _Pool.apply(  # type: ignore[no-untyped-call]
        boxes, places, bins, stride, *levels
    )
    return pooled


class _Nms(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, boxes: Tensor, scores: Tensor, iou: float, least: float, most: int) -> Tensor:
        kept = torch.zeros(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
        for image, own in enumerate(boxes):
            for group in scores[image]:
                members = (group > least).nonzero()[:, 0]
                kept[image, members[nms(own[members], group[members], iou)[:most]]] = True
        return kept

    @staticmethod
    def symbolic(graph: Any, boxes: Any, scores: Any, iou: float, least: float, most: int) -> Any:
        found = graph.op(
            "NonMaxSuppression", boxes, scores, _integers(graph, most), _floats(graph, iou), _floats(graph, least)
        )
        places = graph.op("Gather", found, _integers(graph, 0, 2), axis_i=1)  # image and box, without the group
        ones = graph.op("Expand", _integers(graph, 1), graph.op("Shape", found, start_i=0, end_i=1))
        nothing = graph.op("Expand", _integers(graph, 0), graph.op("Shape", boxes, start_i=0, end_i=2))
        return graph.op("Cast", graph.op("ScatterND", nothing, places, ones), to_i=_BOOL)


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, boxes: Tensor, places: Tensor, bins: tuple[int, int], stride: int, *levels: Tensor) -> Tensor:
        pooled = levels[0].new_zeros(len(boxes), levels[0].shape[1], bins[0], bins[0])
        regions = torch.cat([places[:, :1].to(boxes.dtype), boxes], dim=1)
        for level, features in enumerate(levels):
            chosen = (places[:, 1] == level).nonzero()[:, 0]
            pooled[chosen] = roi_align(features, regions[chosen], bins[0], 1 / (stride * 2**level), bins[1])
        return pooled

    @staticmethod
    def symbolic(graph: Any, boxes: Any, places: Any, bins: tuple[int, int], stride: int, *levels: Any) -> Any:
        count = graph.op("Shape", boxes, start_i=0, end_i=1)
        channels = graph.op("Shape", levels[0], start_i=1, end_i=2)
        shape = graph.op("Concat", count, channels, _integers(graph, bins[0], bins[0]), axis_i=0)
        pooled = graph.op("Expand", _floats(graph, 0.0), shape)
        image, own_level = (
            graph.op("Squeeze", graph.op("Gather", places, _integers(graph, column), axis_i=1), _integers(graph, 1))
            for column in (0, 1)
        )
        for level, features in enumerate(levels):
            is_here = graph.op("Equal", own_level, _integers(graph, level))
            chosen = graph.op("Squeeze", graph.op("NonZero", is_here), _integers(graph, 0))
            part = graph.op(
                "RoiAlign",
                features,
                graph.op("Gather", boxes, chosen),
                graph.op("Gather", image, chosen),
                coordinate_transformation_mode_s="output_half_pixel",
                output_height_i=bins[0],
                output_width_i=bins[0],
                sampling_ratio_i=bins[1],
                spatial_scale_f=1 / (stride * 2**level),
            )
            pooled = graph.op("ScatterND", pooled, graph.op("Unsqueeze", chosen, _integers(graph, 1)), part)
        return pooled


def _integers(graph: Any, *values: int) -> Any:
    return graph.op("Constant", value_t=torch.tensor(values))


def _floats(graph: Any, *values: float) -> Any:
    return graph.op("Constant", value_t=torch.tensor(values, dtype=torch.float32))

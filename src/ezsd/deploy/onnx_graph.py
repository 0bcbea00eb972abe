"""The detector as one graph of tensors with fixed ranks, for export: a batch in, padded detections out.

It computes what :meth:`ezsd.detector.rcnn.Rcnn.detect` computes, for all images of a batch at once: where the detector
selects a number of boxes that depends on the image, the graph keeps a fixed number and marks those that do not count.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torchvision.models.detection.rpn import permute_and_flatten

from ezsd.deploy.onnx_operators import kept_by_nms, pool_regions
from ezsd.detector.detections import CANDIDATES, decayed
from ezsd.detector.rcnn import Rcnn

_OUT = -1.0  # the score of what does not count


class Found(NamedTuple):
    """The outputs of the graph; N is the maximum number of detections per image.

    Attributes:
        boxes: [B, N, 4] xyxy, pixels of the batched image.
        labels: [B, N] int64, index of the text embedding; -1 = no detection.
        scores: [B, N] in descending order.
        masks: [B, N, S, S] probabilities inside the box, or None.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor | None


class DetectionGraph(nn.Module):
    """The network of a detector with everything between the batched images and the detections.

    Args:
        model: The detector; it is copied.
        text: [P, D], the text embeddings of a fixed vocabulary; None: they are an input.
        phrases: [C, K], the rows of ``text`` that belong to each name; None: one row for each name.
    """

    def __init__(self, model: Rcnn, text: Tensor | None = None, phrases: Tensor | None = None) -> None:
        super().__init__()
        self.model = with_fixed_padding(copy.deepcopy(model).eval())
        self.text: Tensor | None
        self.phrases: Tensor | None
        self.register_buffer("text", text)
        self.register_buffer("phrases", phrases)

    def to_half(self) -> None:
        """Compute the network in float16; proposals, names and boxes stay in float32."""
        heads = self.model.roi_heads
        for part in (self.model.backbone, self.model.rpn.head, heads.box_head, heads.mask_head, heads.mask_predictor):
            if part is not None:
                part.half()

    def forward(
        self, images: Tensor, sizes: Tensor, text_embeddings: Tensor | None = None, phrases: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return boxes, labels, scores and, with a mask branch, masks; see :class:`Found`.

        Args:
            images: [B, 3, H, W] uint8, padded at the right and bottom; H and W are multiples of 32.
            sizes: [B, 2] int64, height and width of each image without padding.
            text_embeddings: [P, D], unit length; without a fixed vocabulary.
            phrases: [C, K] int64, the rows of ``text_embeddings`` that belong to each name; the best gives its score.
        """
        text = self.text if text_embeddings is None else text_embeddings
        phrases = self.phrases if phrases is None else phrases
        if text is None:
            raise ValueError("there are no text embeddings")
        dtype = next(self.model.backbone.parameters()).dtype
        features = self.model.backbone((images.float() / 255).to(dtype))
        limits = sizes.flip(1).repeat(1, 2).float()[:, None]  # [B, 1, 4]: width, height, width, height
        proposals, objectness = self._propose(images, list(features.values()), limits)
        levels = [features[name].float() for name in self.model.roi_heads.box_roi_pool.featmap_names]
        found = self._detect(levels, proposals, objectness, limits, (text, phrases))
        return tuple(part for part in found if part is not None)

    def _propose(self, images: Tensor, levels: list[Tensor], limits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the proposals [B, P, 4] and their objectness [B, P]; -1 = no proposal."""
        rpn = self.model.rpn
        objectness, deltas, quality = rpn.head(levels)
        boxes, scores, level_of = [], [], []
        count = rpn.pre_nms_top_n()
        for level, anchors in enumerate(self._anchors(images, levels)):
            own = _flat(objectness[level], 1)[..., 0]
            if quality is not None:
                both = (own.sigmoid() * _flat(quality[level], 1)[..., 0].sigmoid()).sqrt()
                own = both.logit(eps=1e-6)
            best, place = F.pad(own, (0, count), value=-torch.inf).topk(count, dim=1)
            place = place.clamp(max=own.shape[1] - 1)
            shifts = _rows(_flat(deltas[level], 4), place)
            decoded = rpn.box_coder.decode_single(shifts.flatten(0, 1), anchors[place].flatten(0, 1))
            boxes.append(decoded.reshape(shifts.shape))
            scores.append(torch.where(best > -torch.inf, best.sigmoid(), _OUT))
            level_of += [level] * count
        joined = _clip(torch.cat(boxes, dim=1), limits)
        ranks = torch.where(_large(joined, rpn.min_size), torch.cat(scores, dim=1), _OUT)
        groups = torch.tensor(level_of, device=ranks.device) == torch.arange(len(levels), device=ranks.device)[:, None]
        kept = kept_by_nms(
            joined, torch.where(groups, ranks[:, None], _OUT), rpn.nms_thresh, _OUT / 2, rpn.post_nms_top_n()
        )
        best, place = torch.where(kept, ranks, _OUT).topk(rpn.post_nms_top_n(), dim=1)
        return _rows(joined, place), best

    def _anchors(self, images: Tensor, levels: list[Tensor]) -> list[Tensor]:
        """Return the anchors [A, 4] of each level."""
        generator = self.model.rpn.anchor_generator
        generator.set_cell_anchors(torch.float32, images.device)
        height, width = images.shape[-2:]
        grids = [list(level.shape[-2:]) for level in levels]
        anchors = []
        for (rows, columns), cells in zip(grids, generator.cell_anchors, strict=True):
            y = torch.arange(rows, device=images.device) * (height // rows)
            x = torch.arange(columns, device=images.device) * (width // columns)
            y, x = torch.meshgrid(y.float(), x.float(), indexing="ij")
            shifts = torch.stack([x, y, x, y], dim=2).reshape(-1, 1, 4)
            anchors.append((shifts + cells).reshape(-1, 4))
        return anchors

    def _detect(
        self,
        levels: list[Tensor],
        proposals: Tensor,
        objectness: Tensor,
        limits: Tensor,
        vocabulary: tuple[Tensor, Tensor | None],
    ) -> Found:
        heads, scoring = self.model.roi_heads, self.model.roi_heads.scoring
        head = heads.box_head
        batch, count = proposals.shape[:2]
        text, phrases = vocabulary
        shared = head.shared(self._pool(levels, proposals, heads.box_roi_pool).to(_dtype(head)))
        logits, rows = _of_names(heads.box_predictor(head.embed(shared), text), phrases)
        scores = logits.softmax(dim=1)[:, 1:]
        features = head.to_box_features(shared)
        factors = objectness.flatten().clamp(min=0) ** scoring.objectness_power
        if head.to_quality is not None:
            factors = factors * head.quality(features).sigmoid() ** scoring.quality_power
        weighted = torch.where(objectness.flatten()[:, None] >= 0, scores * factors[:, None], _OUT)
        pairs = F.pad(weighted.reshape(batch, -1), (0, CANDIDATES), value=_OUT)
        confidence, place = pairs.topk(CANDIDATES, dim=1)
        names = scores.shape[1]
        region, name = (place // names).clamp(max=count - 1), place % names
        row = (region + count * torch.arange(batch, device=region.device)[:, None]).flatten()
        of_row = row, name.flatten()
        boxes = self._regress(features, scores, proposals.flatten(0, 1), of_row, text, rows)
        boxes = _clip(boxes.reshape(batch, -1, 4), limits)
        confidence = torch.where(confidence > heads.score_thresh, confidence, _OUT)
        confidence = self._thin_out(boxes, confidence, name)
        best, place = confidence.topk(min(heads.detections_per_img, CANDIDATES), dim=1)
        boxes = _rows(boxes, place)
        labels = torch.where(best >= 0, name.gather(1, place), -1)
        return Found(boxes, labels, best.clamp(min=0), self._masks(levels, boxes))

    def _thin_out(self, boxes: Tensor, confidence: Tensor, name: Tensor) -> Tensor:
        """Return the scores [B, K] after soft-NMS, or with -1 for those that NMS removes."""
        heads = self.model.roi_heads
        counts = confidence >= 0
        if heads.scoring.soft_nms:
            lowered = decayed(_pairwise_iou(boxes), confidence, name, heads.scoring.soft_nms)
            return torch.where(counts, lowered, _OUT)
        # Boxes of different names are moved apart, as torchvision's batched_nms does it.
        farthest = torch.where(counts[..., None], boxes, 0.0).amax(dim=(1, 2))
        apart = boxes + (name * (farthest[:, None] + 1))[..., None]
        kept = kept_by_nms(apart, confidence[:, None], heads.nms_thresh, _OUT / 2, heads.detections_per_img)
        return torch.where(kept, confidence, _OUT)

    def _regress(
        self,
        features: Tensor,
        scores: Tensor,
        proposals: Tensor,
        pairs: tuple[Tensor, Tensor],
        text: Tensor,
        rows: Tensor | None,
    ) -> Tensor:
        """Return boxes [P, 4] of pairs of a region (its row) and a name; see ``ZeroShotRoIHeads``."""
        heads = self.model.roi_heads
        row, name = pairs
        top_k = heads.scoring.semantic_top_k
        top = F.pad(scores, (0, top_k - 1), value=_OUT).topk(top_k, dim=1).indices[row]
        guide = torch.where((top == name[:, None]).any(dim=1), name, top[:, 0])
        phrase = guide if rows is None else rows[row, guide]
        deltas = heads.box_head.deltas_of_pairs(features, text, row, phrase)
        boxes: Tensor = heads.box_coder.decode_single(deltas, proposals[row])
        return boxes

    def _masks(self, levels: list[Tensor], boxes: Tensor) -> Tensor | None:
        heads = self.model.roi_heads
        if not heads.has_mask():
            return None
        pooled = self._pool(levels, boxes, heads.mask_roi_pool).to(_dtype(heads.mask_head))
        masks = heads.mask_predictor(heads.mask_head(pooled)).float().sigmoid()
        return masks.reshape(*boxes.shape[:2], *masks.shape[-2:])

    def _pool(self, levels: list[Tensor], boxes: Tensor, pool: Any) -> Tensor:
        """Pool regions [B, P, 4] from the pyramid level of their size (FPN, eq. 1), [B * P, F, S, S]."""
        flat = boxes.flatten(0, 1)
        first = self.model.backbone.first_level + 2  # strides are powers of two
        side = ((flat[:, 2] - flat[:, 0]) * (flat[:, 3] - flat[:, 1])).sqrt()
        level = (pool.canonical_level + (side / pool.canonical_scale).log2() + 1e-6).floor()
        level = level.clamp(first, first + len(levels) - 1).long() - first
        image = torch.arange(boxes.shape[0], device=flat.device).repeat_interleave(boxes.shape[1])
        places = torch.stack([image, level], dim=1)
        return pool_regions(levels, flat, places, (pool.output_size[0], pool.sampling_ratio), 2**first)


def with_fixed_padding(model: Rcnn) -> Rcnn:
    """Replace convolutions whose padding depends on the image; its sides are multiples of 32 here."""
    for path, module in list(model.backbone.named_modules()):
        if isinstance(module, Conv2dSame):
            parent, _, name = path.rpartition(".")
            setattr(model.backbone.get_submodule(parent), name, _with_fixed_padding(module))
    return model


def _with_fixed_padding(conv: Any) -> nn.Module:
    totals = [
        max(0, dilation * (side - 1) + 1 - stride)
        for side, stride, dilation in zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
    ]
    top, left = (total // 2 for total in totals)
    plain = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, 0, conv.dilation, conv.groups,
        conv.bias is not None,
    )  # fmt: skip
    plain.weight, plain.bias = conv.weight, conv.bias
    if all(total % 2 == 0 for total in totals):
        plain.padding = (top, left)
        return plain
    return nn.Sequential(nn.ZeroPad2d((left, totals[1] - left, top, totals[0] - top)), plain)


def _of_names(logits: Tensor, phrases: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return the logits [N, 1 + C] of names by their best phrase, and the row [N, C] of that phrase."""
    if phrases is None:
        return logits, None
    best, place = logits[:, 1:][:, phrases].max(dim=2)
    names = torch.arange(phrases.shape[0], device=phrases.device)  # not len, which the tracer fixes
    return torch.cat([logits[:, :1], best], dim=1), phrases[names, place]


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def _flat(level: Tensor, values: int) -> Tensor:
    """Reshape the output [B, A * values, h, w] of an RPN layer to [B, h * w * A, values]."""
    batch, channels, height, width = level.shape
    return permute_and_flatten(level, batch, channels // values, values, height, width)


def _rows(values: Tensor, place: Tensor) -> Tensor:
    """Return the rows [B, K, 4] of values [B, N, 4] at [B, K]."""
    return values.gather(1, place[..., None].expand(-1, -1, 4))


def _clip(boxes: Tensor, limits: Tensor) -> Tensor:
    return boxes.clamp(min=0).minimum(limits)


def _large(boxes: Tensor, side: float) -> Tensor:
    return ((boxes[..., 2:] - boxes[..., :2]) >= side).all(dim=-1)


def _pairwise_iou(boxes: Tensor) -> Tensor:
    """Return the IoU [B, N, N] of all pairs of boxes [B, N, 4]; 0 for boxes without area."""
    corner = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    common = (torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:]) - corner).clamp(min=0).prod(dim=3)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=2)
    union = area[:, :, None] + area[:, None] - common
    return torch.where(union > 0, common / union, 0.0)

"""Detections as JSON values; without torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import supervision as sv

from ezsd.inference.drawing import names_of, scores_of


def encode_mask(mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Encode a mask [H, W] as a compressed COCO RLE that can be written as JSON."""
    return {"size": [int(side) for side in mask.shape], "counts": sv.mask_to_rle(mask.astype(bool), compressed=True)}


def detections_json(detections: sv.Detections) -> list[dict[str, Any]]:
    """Convert detections to JSON values: name, score, box (xyxy, absolute pixels), and mask (COCO RLE) if available."""
    masks = [None] * len(detections) if detections.mask is None else list(detections.mask)
    columns = zip(names_of(detections), scores_of(detections), detections.xyxy, masks, strict=True)
    return [
        {"name": str(name), "score": round(float(score), 4), "box": [round(float(side), 2) for side in box]}
        | ({} if mask is None else {"mask": encode_mask(mask)})
        for name, score, box, mask in columns
    ]

"""Detectors of `transformers` with the shape of published ones and random weights, for measurements of speed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TOKENS = 256  # most tokens of a text of Grounding DINO; about 85 names of two tokens and a full stop


def load_transformers() -> Any:
    """Import transformers, an optional package."""
    try:
        import transformers
    except ImportError:
        raise SystemExit("transformers is not installed. Install it with: pip install 'ezsd[offline]'") from None
    transformers.logging.set_verbosity_error()
    return transformers


def owl_vit_base(images: Tensor, names: int) -> Callable[[], Any]:
    """Return a function that detects with OWL-ViT-base (patches of 32). The names are embedded before, as ours are.

    Args:
        images: [B, 3, H, W], values 0..1; H and W are multiples of 32.
        names: The number of names.
    """
    transformers = load_transformers()
    model = transformers.OwlViTForObjectDetection(transformers.OwlViTConfig()).eval()
    queries = torch.randn(len(images), names, model.config.projection_dim)

    @torch.inference_mode()
    def detect() -> Any:
        maps, _ = model.image_embedder(images, interpolate_pos_encoding=True)
        features = maps.flatten(1, 2)
        logits, _ = model.class_predictor(features, queries)
        return logits.sigmoid(), model.box_predictor(features, maps, interpolate_pos_encoding=True)

    return detect


def grounding_dino_tiny(images: Tensor, names: int) -> Callable[[], Any]:
    """Return a function that detects with Grounding-DINO-tiny (Swin-T), whose text is a part of every pass.

    Args:
        images: [B, 3, H, W], values 0..1.
        names: The number of names, of two tokens and a full stop each; those that one text cannot hold are left out.
    """
    transformers = load_transformers()
    model = transformers.GroundingDinoForObjectDetection(transformers.GroundingDinoConfig()).eval()
    begin, stop, end = 101, 1012, 102  # of BERT's vocabulary
    held = min(names, (TOKENS - 2) // 3)
    tokens = torch.tensor([begin, *([2003, 2004, stop] * held), end]).expand(len(images), -1)

    @torch.inference_mode()
    def detect() -> Any:
        return model(pixel_values=images, input_ids=tokens)

    return detect

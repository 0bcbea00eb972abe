"""Tiny open_clip models with random weights, saved to a file and loaded as users load theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.eva import Eva
from timm.models.fastvit import FastVit
from torch import nn

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
TOWERS: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 32, "layers": 3, "width": 32, "head_width": 32, "patch_size": 8},
    "vit_avg": {
        "image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8, "pool_type": "avg",
        "final_ln_after_pool": True,
    },
    "vit_quick": {"image_size": 32, "layers": 3, "width": 32, "head_width": 32, "patch_size": 8},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8},
    "timm_cnn": {
        "image_size": 64, "timm_model_name": "resnet10t", "timm_model_pretrained": False, "timm_pool": "",
        "timm_proj": "linear",
    },
    "timm_convnext": {
        "image_size": 160, "timm_model_name": "test_convnext", "timm_model_pretrained": False, "timm_pool": "",
        "timm_proj": "linear",
    },
    "timm_mobileclip": {
        "image_size": 64, "timm_model_name": "ezsd_tiny_mobileclip", "timm_model_pretrained": False,
        "timm_pool": "avg", "timm_proj": None,
    },
    "timm_map": {
        "image_size": 160, "timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "map",
        "timm_proj": "none",
    },
    "timm_token": {
        "image_size": 160, "timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "token",
        "timm_proj": None,
    },
    "timm_eva": {
        "image_size": 32, "timm_model_name": "ezsd_tiny_eva", "timm_model_pretrained": False, "timm_pool": "token",
        "timm_proj": None,
    },
}  # fmt: skip


@register_model
def ezsd_tiny_eva(pretrained: bool = False, **settings: Any) -> Eva:
    """Return a tiny trunk like those of EVA02-CLIP: separate projections, rotary positions and an inner norm."""
    model = Eva(
        img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, mlp_ratio=2, qkv_fused=False, swiglu_mlp=True,
        scale_mlp=True, scale_attn_inner=True, use_rot_pos_emb=True, ref_feat_shape=(4, 4),
        global_pool=settings["global_pool"], num_classes=settings["num_classes"],
    )  # fmt: skip
    model.default_cfg = {}
    return model


@register_model
def ezsd_tiny_mobileclip(pretrained: bool = False, **settings: Any) -> FastVit:
    """Return a tiny trunk like those of MobileCLIP."""
    model = FastVit(
        layers=(1, 1, 1, 1), embed_dims=(16, 32, 64, 128), mlp_ratios=(2, 2, 2, 2),
        se_downsamples=(False, False, True, True),
        token_mixers=("repmixer", "repmixer", "repmixer", "attention"), global_pool=settings["global_pool"],
        num_classes=settings["num_classes"],
    )  # fmt: skip
    model.default_cfg = {}
    return model


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Return a function that saves a tiny model of a tower and returns the spec that loads it."""
    folder = tmp_path_factory.mktemp("open_clip")

    def make(tower: str) -> str:
        name = f"ezsd_tiny_{tower}"
        checkpoint = folder / f"{name}.safetensors"
        if not checkpoint.is_file():
            width = 64 if tower == "timm_map" else 24
            config = {"embed_dim": width, "vision_cfg": TOWERS[tower], "text_cfg": TEXT}
            config["quick_gelu"] = tower == "vit_quick"
            (folder / f"{name}.json").write_text(json.dumps(config))
            open_clip.add_model_config(folder / f"{name}.json")
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = _random(open_clip.create_model(name, pretrained=None))
            tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
            save_file(tensors, checkpoint)
        return f"open_clip:{name}/{checkpoint}"

    return make


def _random(model: nn.Module) -> nn.Module:
    """Randomize weights, norms and statistics, so that omitting any of them changes the output."""
    generator = torch.Generator().manual_seed(0)
    for key, value in model.state_dict().items():
        if value.is_floating_point() and value.ndim <= 1 and "logit_scale" not in key:
            value += 0.3 * torch.rand(value.shape, generator=generator)
        elif value.is_floating_point() and value.ndim > 1:
            value.copy_(torch.randn(value.shape, generator=generator) * max(value[0].numel(), 1) ** -0.5)
    return model

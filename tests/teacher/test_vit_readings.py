"""Dense readings of vision transformers, compared with a slow computation from their definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from torch import Tensor, nn
from torch.nn import functional as F

from ezsd.errors import RecipeError
from ezsd.teacher import load_teacher
from ezsd.teacher.base import dense_readings, with_dense_reading
from ezsd.teacher.vit_readings import READINGS
from tiny_teacher import ColourTeacher

Spec = Callable[..., str]
VITS = ("vit", "vit_avg", "timm_map", "timm_token", "timm_eva")


def _linear(x: Tensor, layer: Any) -> Tensor:
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def _projections(attention: Any, x: Tensor) -> list[Tensor]:
    """Queries, keys and values ``[T, C]`` of tokens ``[T, C]``."""
    if isinstance(attention, nn.MultiheadAttention):
        return list((x @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, dim=1))
    if attention.qkv is not None:
        return list(_linear(x, attention.qkv).chunk(3, dim=1))
    return [_linear(x, layer) for layer in (attention.q_proj, attention.k_proj, attention.v_proj)]


def _similarities(x: Tensor) -> Tensor:
    return torch.stack([torch.stack([(one * other).sum() for other in x]) for one in x]) / x.shape[1] ** 0.5


def _attention(visual: Any, block: Any, tokens: Tensor, reading: str) -> Tensor:
    """The output of the attention branch ``[T, C]`` for all tokens of a tile."""
    attention, rope = block.attn, None
    output = attention.proj if hasattr(attention, "proj") else attention.out_proj
    projections = _projections(attention, (block.ln_1 if hasattr(block, "ln_1") else block.norm1)(tokens))
    if hasattr(visual, "trunk") and hasattr(visual.trunk, "rope"):
        rope = visual.trunk.rope.get_embed()
    tied: list[int | None] = {"value": [None], "self_self": [0], "self_self_block": [0, 1]}[reading]
    outputs = output.bias
    for which in tied:
        heads = []
        chunks = [part.chunk(attention.num_heads, dim=1) for part in projections]
        for queries, keys, values in zip(*chunks, strict=True):
            if which is None:
                heads.append(values)
                continue
            same = (queries, keys)[which]
            if rope is not None:
                same = torch.cat([same[:1], apply_rot_embed_cat(same[1:], rope)])
            heads.append(_similarities(same).softmax(1) @ values)
        joined = torch.cat(heads, dim=1)
        joined = attention.norm(joined) if hasattr(attention, "norm") else joined
        outputs = outputs + joined @ output.weight.T
    return outputs


@torch.no_grad()
def _slow(teacher: Any, image: Tensor, reading: str) -> Tensor:
    """Embed every patch of an image of the input size, from the definition of the reading: ``[grid * grid, D]``."""
    visual, tiles = teacher._model.visual, teacher._normalized(image)[None]
    is_timm = hasattr(visual, "trunk")
    blocks = visual.trunk.blocks if is_timm else visual.transformer.resblocks
    caught: list[Tensor] = []
    handle = blocks[-1].register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0][0]))
    visual(tiles)
    handle.remove()
    block, tokens = blocks[-1], caught[0]
    states = _attention(visual, block, tokens, reading)
    if reading == "self_self_block":
        states = tokens + states
        states = states + block.mlp((block.ln_2 if hasattr(block, "ln_2") else block.norm2)(states))
    rows = []
    for state in states[visual.trunk.num_prefix_tokens if is_timm else 1 :]:
        alone = state.repeat(1, 3, 1)  # all tokens are equal, so any pooling returns the same
        if is_timm:
            rows.append(visual.head(visual.trunk.forward_head(visual.trunk.norm(alone)))[0])
        else:
            rows.append((visual._pool(alone)[0] @ visual.proj)[0])
    return F.normalize(torch.stack(rows), dim=1)


def _patches(side: int, patch: int) -> Tensor:
    starts = torch.arange(0, side, patch)
    y, x = (part.flatten() for part in torch.meshgrid(starts, starts, indexing="ij"))
    return torch.stack([x, y, x + patch, y + patch], dim=1).float()


@pytest.mark.parametrize("tower", VITS)
@pytest.mark.parametrize("reading", READINGS[1:])
def test_reading_equals_its_definition(tiny_clip: Spec, tower: str, reading: str) -> None:
    teacher: Any = load_teacher(tiny_clip(tower))
    assert dense_readings(teacher) == READINGS
    side = teacher.input_size
    coarse = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(3))
    image = F.interpolate(coarse, (side, side), mode="bilinear")[0]
    boxes = _patches(side, 8 if side == 32 else 16)
    dense = with_dense_reading(teacher, reading).dense_embeddings(image, boxes, (side,))
    assert torch.allclose(dense, _slow(teacher, image, reading), atol=1e-4)


@pytest.mark.parametrize("tower", VITS)
def test_readings_differ_and_the_teacher_keeps_its_own(tiny_clip: Spec, tower: str) -> None:
    teacher: Any = load_teacher(tiny_clip(tower))
    image, side = torch.rand(3, 90, 150, generator=torch.Generator().manual_seed(0)), teacher.input_size
    boxes = torch.tensor([[0.0, 0, 150, 90], [10, 20, 70, 80]])
    sides = (side, 2 * side)
    before = teacher.dense_embeddings(image, boxes, sides)
    found = [with_dense_reading(teacher, reading).dense_embeddings(image, boxes, sides) for reading in READINGS]
    assert torch.equal(found[0], before) and torch.equal(teacher.dense_embeddings(image, boxes, sides), before)
    assert all(not torch.allclose(found[a], found[b], atol=1e-3) for a in range(4) for b in range(a))


def test_reading_follows_adapted_norms(tiny_clip: Spec) -> None:
    teacher: Any = load_teacher(tiny_clip("vit"))
    other = with_dense_reading(teacher, "self_self")
    image, boxes = torch.rand(3, 32, 32), torch.tensor([[0.0, 0, 32, 32]])
    before = other.dense_embeddings(image, boxes, (32,))
    with torch.no_grad():
        teacher.norm_parameters()["image.transformer.resblocks.2.ln_1.weight"][:16] *= 3
    assert other.fingerprint == teacher.fingerprint
    assert not torch.allclose(other.dense_embeddings(image, boxes, (32,)), before, atol=1e-3)


@pytest.mark.parametrize("tower", ["resnet", "timm_cnn", "custom"])
def test_teachers_with_one_reading_refuse_others(tiny_clip: Spec, tower: str) -> None:
    teacher: Any = ColourTeacher() if tower == "custom" else load_teacher(tiny_clip(tower))
    assert dense_readings(teacher) == ("block",)
    with_dense_reading(teacher, "block")
    with pytest.raises(RecipeError, match="dense_reading: the teacher .* has no reading self_self. Set it to block"):
        with_dense_reading(teacher, "self_self")

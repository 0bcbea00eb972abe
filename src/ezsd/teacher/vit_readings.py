"""Dense readings of a vision transformer: how its last block computes the embedding of each patch.

All blocks except the last run as usual. The last one is read in one of these ways; then every patch passes the final
norm, the pooling and the projection on its own, so its embedding is comparable with text embeddings.

- ``block``: each patch passes the block alone, as if it were the entire image. Attention over equal tokens returns
  their value.
- ``value``: the same without residual connections and MLP, as in MaskCLIP (Zhou et al. 2022, "Extract Free Dense Labels
  from CLIP").
- ``self_self``: patches attend to patches with similar queries; no residual connections and no MLP, as in ClearCLIP
  (Lan et al. 2024).
- ``self_self_block``: the sum of the attentions between queries and between keys, with residual connections and MLP, as
  in SCLIP (Wang et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from timm.layers.attention import Attention, AttentionRope
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Block
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn
from torch.func import functional_call

from ezsd.teacher.base import DEFAULT_READING

Read = Callable[[Tensor], Tensor]
READINGS = (DEFAULT_READING, "value", "self_self", "self_self_block")
_JOINED = ("in_proj_weight", "in_proj_bias", "qkv.weight", "qkv.bias")  # rows of queries, keys and values


class OpenClipTower:
    """The parts of an open_clip vision transformer with C channels.

    Args:
        visual: The image tower.
    """

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        self.block = visual.transformer.resblocks[-1]
        self.attention = self.block.attn
        self.grid = visual.grid_size[0]
        self.has_known_block = type(self.block) is ResidualAttentionBlock and bool(visual.transformer.batch_first)

    def tokens(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens before the last block: patches ``[n, C, grid, grid]`` and others ``[n, P, C]``."""
        before_last = [len(self.visual.transformer.resblocks) - 2]
        found = self.visual.forward_intermediates(
            tiles, indices=before_last, intermediates_only=True, stop_early=True, output_extra_tokens=True
        )
        return found["image_intermediates"][0], found["image_intermediates_prefix"][0]

    def block_alone(self, tokens: Tensor) -> Tensor:
        """Pass each token ``[m, C]`` through the last block, the pooling and the projection alone: ``[m, D]``."""
        return self._pooled(self.block(_repeated(tokens, 2)))

    def pooled(self, states: Tensor) -> Tensor:
        """Pass the output ``[m, C]`` of the last block through the pooling and the projection alone: ``[m, D]``."""
        return self._pooled(_repeated(states, 2))

    def attended(self, tokens: Tensor, attention: Callable[..., Any]) -> Tensor:
        """Return the attention branch of the last block for ``[n, T, C]``, with ``attention`` as its attention."""
        normed = self.block.ln_1(tokens)
        attended: Tensor = self.block.ls_1(attention(normed, normed, normed, need_weights=False)[0])
        return attended

    def mlp(self, states: Tensor) -> Tensor:
        """Return the MLP branch of the last block."""
        branch: Tensor = self.block.ls_2(self.block.mlp(self.block.ln_2(states)))
        return branch

    def bias(self) -> Tensor:
        """Return what the attention branch adds to every token, whatever it attends to: ``[C]``."""
        bias: Tensor = self.block.ls_1(self.attention.out_proj.bias)
        return bias

    def _pooled(self, states: Tensor) -> Tensor:
        values: Tensor = self.visual._pool(states)[0] @ self.visual.proj
        return values


class TimmTower:
    """The parts of a timm vision transformer in open_clip; see :class:`OpenClipTower`.

    Args:
        visual: The image tower; its trunk is a ``VisionTransformer`` or an ``Eva``.
    """

    def __init__(self, visual: Any) -> None:
        self.visual, self.trunk = visual, visual.trunk
        self.block = self.trunk.blocks[-1]
        self.attention = self.block.attn
        self.grid = self.trunk.patch_embed.grid_size[0]
        self.has_known_block = type(self.block) in (Block, EvaBlock) and not getattr(self.trunk, "rope_mixed", False)
        self.has_known_block &= type(self.attention) in (Attention, EvaAttention) or (
            type(self.attention) is AttentionRope and self.attention.num_kv_groups == 1
        )

    def tokens(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens before the last block: patches ``[n, C, grid, grid]`` and others ``[n, P, C]``."""
        has_others = self.trunk.num_prefix_tokens > 0
        found = self.trunk.forward_intermediates(
            tiles, indices=[len(self.trunk.blocks) - 2], intermediates_only=True, stop_early=True,
            return_prefix_tokens=has_others,
        )[0]  # fmt: skip
        return found if has_others else (found, found.new_zeros(len(found), 0, found.shape[1]))

    def block_alone(self, tokens: Tensor) -> Tensor:
        """Pass each token ``[m, C]`` through the last block, the pooling and the projection alone: ``[m, D]``."""
        return self._pooled(self.block(_repeated(tokens, self.trunk.num_prefix_tokens + 1)))

    def pooled(self, states: Tensor) -> Tensor:
        """Pass the output ``[m, C]`` of the last block through the pooling and the projection alone: ``[m, D]``."""
        return self._pooled(_repeated(states, self.trunk.num_prefix_tokens + 1))

    def attended(self, tokens: Tensor, attention: Callable[..., Any]) -> Tensor:
        """Return the attention branch of the last block for ``[n, T, C]``, with ``attention`` as its attention."""
        positions = {} if tokens.shape[1] == 1 else self._positions()
        return self._scaled(attention(self.block.norm1(tokens), **positions), 1)

    def mlp(self, states: Tensor) -> Tensor:
        """Return the MLP branch of the last block."""
        return self._scaled(self.block.mlp(self.block.norm2(states)), 2)

    def bias(self) -> Tensor:
        """Return what the attention branch adds to every token, whatever it attends to: ``[C]``."""
        projection = self.attention.proj
        bias = projection.weight.new_zeros(len(projection.weight)) if projection.bias is None else projection.bias
        return self._scaled(bias, 1)

    def _positions(self) -> dict[str, Tensor]:
        """Return the rotary position embeddings of a tile, if the trunk has them."""
        rope = getattr(self.trunk, "rope", None)
        if rope is None:
            return {}
        shape = {} if hasattr(rope, "feat_shape") else {"shape": self.trunk.patch_embed.grid_size}
        return {"rope": rope.get_embed(**shape)}

    def _scaled(self, branch: Tensor, number: int) -> Tensor:
        """Apply the layer scale of the branch 1 (attention) or 2 (MLP)."""
        if isinstance(self.block, EvaBlock):
            gamma = getattr(self.block, f"gamma_{number}")
            return branch if gamma is None else branch * gamma
        scaled: Tensor = getattr(self.block, f"ls{number}")(branch)
        return scaled

    def _pooled(self, states: Tensor) -> Tensor:
        values: Tensor = self.visual.head(self.trunk.forward_head(self.trunk.norm(states)))
        return values


Tower = OpenClipTower | TimmTower


def vit_tower(visual: nn.Module) -> Tower | None:
    """Return the parts of an image tower; None if it is not a vision transformer."""
    tower: Any = visual
    if isinstance(visual, VisionTransformer):
        return OpenClipTower(tower)
    if isinstance(visual, TimmModel) and isinstance(tower.trunk, (TimmVisionTransformer, Eva)):
        return TimmTower(tower)
    return None


def vit_readings(tower: Tower) -> tuple[str, ...]:
    """Return the readings of a tower, the default first; towers with unusual last blocks have only that one."""
    return READINGS if tower.has_known_block else READINGS[:1]


def vit_reader(tower: Tower, reading: str) -> tuple[Read, Read]:
    """Return the two functions of a reading.

    Args:
        tower: The image tower.
        reading: One of its readings.

    Returns:
        Tiles ``[n, 3, S, S]`` -> states ``[n, C, grid, grid]``, and states ``[m, C]`` -> embeddings ``[m, D]``.
    """
    if reading == "block":
        return lambda tiles: tower.tokens(tiles)[0], tower.block_alone
    if reading == "value":
        return lambda tiles: tower.tokens(tiles)[0], partial(_value, tower)
    if reading == "self_self":
        return partial(_in_context, tower, lambda tokens: _self_attended(tower, tokens, "q")), tower.pooled
    return partial(_in_context, tower, partial(_self_self_block, tower)), tower.pooled


def _value(tower: Tower, tokens: Tensor) -> Tensor:
    return tower.pooled(tower.attended(tokens[:, None], tower.attention)[:, 0])


def _self_self_block(tower: Tower, tokens: Tensor) -> Tensor:
    # The bias of the output projection is added once, although there are two attentions.
    both = _self_attended(tower, tokens, "q") + _self_attended(tower, tokens, "k") - tower.bias()
    states = tokens + both
    return states + tower.mlp(states)


def _in_context(tower: Tower, read: Read, tiles: Tensor) -> Tensor:
    """Apply ``read`` to all tokens ``[n, P + grid * grid, C]`` of each tile; return the states of its patches."""
    patches, others = tower.tokens(tiles)
    states = read(torch.cat([others, patches.flatten(2).transpose(1, 2)], dim=1))
    return states[:, others.shape[1] :].transpose(1, 2).unflatten(2, patches.shape[2:])


def _self_attended(tower: Tower, tokens: Tensor, part: Literal["q", "k"]) -> Tensor:
    """Return the attention branch with the projection of queries (q) or keys (k) in the place of both."""
    tied = _tied(tower.attention, part)
    return tower.attended(tokens, lambda *inputs, **others: functional_call(tower.attention, tied, inputs, others))


def _tied(attention: nn.Module, part: Literal["q", "k"]) -> dict[str, Tensor]:
    """Return parameters with which an attention projects queries and keys alike, as it now projects one of them."""
    values = {**dict(attention.named_parameters()), **dict(attention.named_buffers())}
    tied = {}
    for name in _JOINED:
        if name in values:
            queries, keys, rest = values[name].chunk(3)
            same = queries if part == "q" else keys
            tied[name] = torch.cat([same, same, rest])
    for name in [name for name in values if name.startswith(("q_", "k_"))]:
        same = values.get(part + name[1:], torch.zeros_like(values[name]))  # zeros: a projection without bias
        tied |= {"q" + name[1:]: same, "k" + name[1:]: same}
    return tied


def _repeated(tokens: Tensor, count: int) -> Tensor:
    return tokens[:, None].expand(-1, count, -1)

"""Fold batch norms into the convolutions before them, for inference."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

logger = logging.getLogger(__name__)

_ROUNDING = 1e-3  # of the largest value, after hundreds of layers


@torch.no_grad()
def fold_batch_norms(model: Any, example: Tensor) -> int:
    """Multiply the batch norms of a model into its convolutions, in place.

    A forward pass shows which convolution a batch norm follows, whatever the architecture. Outputs differ by rounding
    errors only; where they do not, because a convolution has other users, the model is left as it is.

    Args:
        model: In evaluation mode.
        example: An input of the model.

    Returns:
        The number of folded batch norms.
    """
    expected = _outputs(model, example)
    saved = {name: values.clone() for name, values in model.state_dict().items()}
    replaced = [_fold(model, name, conv) for name, conv in _followed(model, example).items()]
    if all(_alike(*pair) for pair in zip(expected, _outputs(model, example), strict=True)):
        return len(replaced)
    logger.debug("batch norms are not folded: convolutions have other users")
    for conv, bias, name, norm in reversed(replaced):  # a convolution before two norms has its first bias again
        conv.bias = bias
        _replace(model, name, norm)
    model.load_state_dict(saved)
    return 0


def _followed(model: nn.Module, example: Tensor) -> dict[str, nn.Conv2d]:
    """Return the convolution before each batch norm, by the name of the norm."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # tensors are kept, so that no other one gets their id
    found: dict[str, nn.Conv2d] = {}
    calls: Counter[nn.Module] = Counter()

    def note_output(conv: Any, _: Any, output: Tensor) -> None:
        calls[conv] += 1
        outputs[id(output)] = conv, output

    def note_input(name: str) -> Any:
        def note(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            calls[norm] += 1
            if id(inputs[0]) in outputs:
                found[name] = outputs[id(inputs[0])][0]

        return note

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(note_output))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(note_input(name)))
    try:
        model(example)
    finally:
        for hook in hooks:
            hook.remove()
    once = {name for name, conv in found.items() if calls[conv] == calls[model.get_submodule(name)] == 1}
    return {name: conv for name, conv in found.items() if name in once}


def _fold(model: nn.Module, name: str, conv: Any) -> tuple[Any, Any, str, nn.Module]:
    """Fold one batch norm; return what it takes to undo it."""
    norm: Any = model.get_submodule(name)
    before = conv, conv.bias, name, norm
    conv.weight.data, bias = fuse_conv_bn_weights(
        conv.weight.data, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    conv.bias = nn.Parameter(bias, requires_grad=False)
    _replace(model, name, norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity())
    return before


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)


def _alike(expected: Tensor, found: Tensor) -> bool:
    return bool((found - expected).abs().max() <= _ROUNDING * expected.abs().max())


def _outputs(model: nn.Module, example: Tensor) -> list[Tensor]:
    found = model(example)
    return [found] if isinstance(found, Tensor) else list(found)

"""Choose the precision of forward passes: by name, or by what is faster on this machine."""

from __future__ import annotations

import time
from typing import Literal, get_args

import torch
from torch import nn

from ezsd.errors import RecipeError
from ezsd.utils.device import Precision, autocast

PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16"]

_REPEATS = 4  # the fastest one counts: other programs can only make it slower
_SHAPE = (4, 96, 36, 48)  # batch, channels, height and width of a pyramid level


def usable_precision(name: str, device: str) -> Precision:
    """Return the precision of inference on a device.

    Args:
        name: fp32, bf16, fp16 (not on CPUs), or auto: the faster of fp32 and bf16 on CPUs, measured in half a second;
            bf16 on CUDA devices that have it, fp16 on others; fp32 elsewhere.
        device: The torch name of the device.

    Raises:
        RecipeError: The precision is unknown or not usable on the device.
    """
    kind = torch.device(device).type
    if name not in get_args(PrecisionChoice):
        raise RecipeError(f"precision {name}: expected {', '.join(get_args(PrecisionChoice))}.")
    if name == "fp16" and kind == "cpu":
        raise RecipeError("precision: fp16 needs a GPU. Set bf16 or fp32.")
    if name != "auto":
        return name  # type: ignore[return-value]
    if kind == "cpu":
        return faster_precision(gradients=False)
    if kind != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def faster_precision(gradients: bool = True) -> Precision:
    """Return the faster of bf16 and fp32 for convolutions on the CPU, measured in about a second.

    The instructions of a CPU do not tell: with AVX512-BF16, bf16 is faster on some CPUs and slower on others. What is
    measured is the processor time of one thread, so that other programs do not decide.

    Args:
        gradients: Measure training, which also computes gradients; otherwise inference.
    """
    channels = _SHAPE[1]
    model = nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(),
        nn.Conv2d(channels, 4 * channels, 1), nn.ReLU(), nn.Conv2d(4 * channels, channels, 1),
    )  # fmt: skip
    images = torch.rand(_SHAPE).contiguous(memory_format=torch.channels_last).requires_grad_(gradients)
    seconds: dict[Precision, float] = {"fp32": float("inf"), "bf16": float("inf")}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(_REPEATS):
            for precision in seconds:
                seconds[precision] = min(seconds[precision], _seconds(model, images, precision))
    finally:
        torch.set_num_threads(threads)
    return min(seconds, key=lambda precision: seconds[precision])


def _seconds(model: nn.Module, images: torch.Tensor, precision: Precision) -> float:
    started = time.thread_time()
    with torch.enable_grad() if images.requires_grad else torch.no_grad(), autocast("cpu", precision):
        result = model(images).float().sum()
    if images.requires_grad:
        result.backward()
    return time.thread_time() - started

"""Measure whether half precision is faster than float32 on the CPU of this machine."""

from __future__ import annotations

import time

import torch
from torch import nn

from ezsd.utils.device import Precision, autocast

_REPEATS = 4  # the fastest one counts: other programs can only make it slower
_SHAPE = (4, 96, 36, 48)  # batch, channels, height and width of a pyramid level


def faster_precision() -> Precision:
    """Return the faster of bf16 and fp32 for the training of convolutions on the CPU, measured in about a second.

    The instructions of a CPU do not tell: with AVX512-BF16, bf16 is faster on some CPUs and slower on others. What is
    measured is the processor time of one thread, so that other programs do not decide.
    """
    channels = _SHAPE[1]
    model = nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(),
        nn.Conv2d(channels, 4 * channels, 1), nn.ReLU(), nn.Conv2d(4 * channels, channels, 1),
    )  # fmt: skip
    images = torch.rand(_SHAPE).contiguous(memory_format=torch.channels_last).requires_grad_()
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
    with torch.enable_grad(), autocast("cpu", precision):
        loss = model(images).float().sum()
    loss.backward()
    return time.thread_time() - started

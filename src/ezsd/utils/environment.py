"""Versions and hardware of this environment."""

from __future__ import annotations

import os
import platform

import timm
import torch
import torchvision

from ezsd._version import __version__
from ezsd.utils.device import process_state


def versions() -> dict[str, str]:
    """Return the versions of the packages that affect metrics."""
    return {
        "ezsd": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
    }


def environment() -> dict[str, str]:
    """Return the versions and the hardware that affect metrics and durations."""
    device = process_state().device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        **versions(),
        "platform": platform.platform(),
        "device": f"{process_state().num_processes} x {name}",
        "processors": str(os.cpu_count()),
    }

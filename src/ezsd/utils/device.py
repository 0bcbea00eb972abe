"""The device of a process."""

from __future__ import annotations

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: str, precision: str) -> torch.autocast:
    """Autocast of ``precision`` (fp32, bf16, fp16) on ``device``; does nothing for fp32."""
    return torch.autocast(torch.device(device).type, dtype=_DTYPES[precision], enabled=precision != "fp32")


def this_device() -> str:
    """Name the device that stages run on; the first call decides it for the process."""
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return str(PartialState(cpu=on_cpu).device)

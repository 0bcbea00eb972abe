"""The device and the processes of a run; the one place that constructs accelerate's state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import ProjectConfiguration, parse_flag_from_env

from ezsd.errors import MissingExtraError, RecipeError

Precision = Literal["fp32", "bf16", "fp16"]
Item = TypeVar("Item")

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def process_state() -> PartialState:
    """Return the state of this process: device, index among all processes, whether it is the main one.

    The first call decides the device of the process.
    """
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=on_cpu)


def this_device() -> str:
    """Return the name of the device that stages run on."""
    return str(process_state().device)


def share_of_process(items: Sequence[Item]) -> Sequence[Item]:
    """Return every n-th item, so that n processes share all of them."""
    state = process_state()
    return items[state.process_index :: state.num_processes]


def autocast(device: str, precision: str) -> torch.autocast:
    """Autocast of ``precision`` (fp32, bf16, fp16) on ``device``; does nothing for fp32."""
    return torch.autocast(torch.device(device).type, dtype=_DTYPES[precision], enabled=precision != "fp32")


def new_accelerator(precision: Precision, trackers: Sequence[str] = (), folder: Path | None = None) -> Accelerator:
    """Return the accelerator of one training; the precision of an earlier one in this process is forgotten.

    Args:
        precision: of its forward passes.
        trackers: what metrics are sent to, see :func:`check_trackers`; start them with ``init_trackers``.
        folder: where trackers that write files put them; needed when there are trackers.

    Raises:
        RecipeError: fp16 without a GPU.
    """
    if precision == "fp16" and process_state().device.type == "cpu":
        raise RecipeError("precision: fp16 needs a GPU. Set bf16 or fp32.")
    AcceleratorState._reset_state()
    project = ProjectConfiguration(logging_dir=None if folder is None else str(folder))
    mixed = "no" if precision == "fp32" else precision
    return Accelerator(mixed_precision=mixed, log_with=list(trackers) or None, project_config=project)


def check_trackers(names: Sequence[str]) -> None:
    """Raise MissingExtraError when the package of a tracker ("tensorboard", "wandb", "mlflow" ...) is not installed."""
    missing = [name for name in names if name not in {str(each) for each in get_available_trackers()}]
    if missing:
        raise MissingExtraError(
            [f"train.trackers: {name} is not installed. Install it with: pip install {name}" for name in missing]
        )

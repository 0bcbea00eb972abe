"""Device and processes of a run; the only module that creates the state of accelerate."""

from __future__ import annotations

import os
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
    """Return the state of this process: device, process index, whether it is the main process.

    The first call selects the device of the process.
    """
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=on_cpu)


def usable_device(name: str) -> str:
    """Return the torch name of "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        RecipeError: The device is unknown or not available.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found.type if found is not None else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (":" in name and not (kind == "cuda" and index.isdecimal())):
        raise RecipeError(f"device {name}: expected auto, cpu, cuda, cuda:1 (the second GPU) or mps.")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise RecipeError(
            f"device {name}: this machine has {torch.cuda.device_count()} CUDA devices that torch can use. "
            "Use auto or cpu, or see ezsd doctor."
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise RecipeError(f"device {name}: it is not available here. Use auto or cpu.")
    return name


def choose_device(name: str) -> None:
    """Choose the device of all stages of this process; call it before anything else uses a device.

    With several processes (torchrun), every process has its own GPU, and only "auto" and "cpu" can be chosen.

    Raises:
        RecipeError: The device is unknown or not available.
    """
    device = torch.device(usable_device(name))
    if name == "auto":
        return
    if device.type == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
        PartialState._reset_state()
        return
    state = process_state()
    if state.num_processes > 1:
        raise RecipeError(f"device {name}: with several processes every process has its own GPU. Use auto or cpu.")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    state.device = device


def this_device() -> str:
    """Return the name of the device that stages run on."""
    return str(process_state().device)


def share_of_process(items: Sequence[Item]) -> Sequence[Item]:
    """Return the items of this process; n processes get every n-th item each."""
    state = process_state()
    return items[state.process_index :: state.num_processes]


def autocast(device: str, precision: str) -> torch.autocast:
    """Return an autocast context of ``precision`` (fp32, bf16, fp16) on ``device``; it has no effect for fp32."""
    return torch.autocast(torch.device(device).type, dtype=_DTYPES[precision], enabled=precision != "fp32")


def new_accelerator(precision: Precision, trackers: Sequence[str] = (), folder: Path | None = None) -> Accelerator:
    """Return a new accelerator for one training; the state of earlier accelerators in this process is reset.

    Args:
        precision: Precision of forward passes.
        trackers: Names of trackers that get the metrics (see :func:`check_trackers`); start them with
            ``init_trackers``.
        folder: Folder for the files of trackers; required with trackers.

    Raises:
        RecipeError: If precision is fp16 and no GPU is available.
    """
    if precision == "fp16" and process_state().device.type == "cpu":
        raise RecipeError("precision: fp16 needs a GPU. Set bf16 or fp32.")
    AcceleratorState._reset_state()
    project = ProjectConfiguration(logging_dir=None if folder is None else str(folder))
    mixed = "no" if precision == "fp32" else precision
    return Accelerator(mixed_precision=mixed, log_with=list(trackers) or None, project_config=project)


def check_trackers(names: Sequence[str]) -> None:
    """Raise MissingExtraError if the package of a tracker ("tensorboard", "wandb", "mlflow" ...) is not installed."""
    missing = [name for name in names if name not in {str(each) for each in get_available_trackers()}]
    if missing:
        raise MissingExtraError(
            [f"train.trackers: {name} is not installed. Install it with: pip install {name}" for name in missing]
        )

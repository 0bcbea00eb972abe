"""Checkpoints of trainings: one folder per checkpoint, written atomically, without pickle.

The random numbers of a step depend only on the seed and the step (:func:`ezsd.utils.seeding.seeded`), so checkpoints
contain no generator state.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ezsd.errors import ArtifactError
from ezsd.utils.files import read_checked_json, read_tensors, write_checked_json, write_tensors

_STATE = "optimizer.state."


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, extra: dict[str, Any]
) -> None:
    """Write ``folder/step-000500/`` atomically, then remove all other checkpoints of ``folder``.

    Args:
        folder: Folder of the checkpoints of one training.
        step: Number of completed optimizer steps.
        tensors: Tensors of the model by name (parameters and buffers that change).
        optimizer: A torch optimizer, or one prepared by accelerate.
        extra: JSON values that :func:`load_latest` returns.

    Raises:
        ArtifactError: If the disk is full or the folder cannot be written.
    """
    state = optimizer.state_dict()
    arrays = {f"model.{name}": tensor for name, tensor in tensors.items()}
    scalars: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                arrays[f"{_STATE}{index}.{key}"] = value
            else:
                scalars.setdefault(str(index), {})[key] = value
    final = folder / _name(step)
    temporary = folder / f".{final.name}.{os.getpid()}.part"
    try:
        write_tensors(temporary / "tensors.safetensors", {name: tensor.clone() for name, tensor in arrays.items()})
        meta = {"step": step, "groups": state["param_groups"], "scalars": scalars, "extra": extra}
        write_checked_json(temporary / "checkpoint.json", meta)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
    except OSError as error:
        raise ArtifactError(
            f"Cannot write checkpoint {final}: {error}. Free disk space or fix the permissions, then run again."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for older in _checkpoints(folder):
        if older != final:
            shutil.rmtree(older, ignore_errors=True)


def load_latest(
    folder: Path, tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> tuple[int, dict[str, Any]] | None:
    """Restore the latest checkpoint of ``folder`` in place.

    Args:
        folder: The folder given to :func:`save_checkpoint`.
        tensors: Tensors of the model by name; the saved values are copied into them.
        optimizer: An optimizer of the same parameters in the same order as the saved one.

    Returns:
        Step and extra values, or None if no checkpoint exists.

    Raises:
        ArtifactError: If the checkpoint is damaged or does not fit the model or optimizer.
    """
    found = _checkpoints(folder)
    if not found:
        return None
    file = found[-1] / "tensors.safetensors"
    arrays, _ = read_tensors(file)
    meta = read_checked_json(found[-1] / "checkpoint.json")
    _check_names(file, arrays, tensors)
    for name, tensor in tensors.items():
        _check_shape(file, name, arrays[f"model.{name}"], tensor)
    state = _optimizer_state(file, arrays, meta, optimizer)
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(arrays[f"model.{name}"])
    optimizer.load_state_dict(state)
    return int(meta["step"]), dict(meta["extra"])


def _optimizer_state(
    file: Path, arrays: Mapping[str, Tensor], meta: Mapping[str, Any], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    saved, now = ([len(group["params"]) for group in groups] for groups in (meta["groups"], optimizer.param_groups))
    if saved != now:
        raise ArtifactError(
            f"{file}: its optimizer has groups of {saved} parameters, this run has groups of {now}. {_ADVICE}"
        )
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in meta["scalars"].items()}
    for name, value in arrays.items():
        if name.startswith(_STATE):
            index, _, key = name.removeprefix(_STATE).partition(".")
            if value.ndim:
                _check_shape(file, name, value, parameters[int(index)])
            state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": meta["groups"]}


def _check_names(file: Path, arrays: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    saved = {name.removeprefix("model.") for name in arrays if name.startswith("model.")}
    strange = sorted(saved.symmetric_difference(tensors))
    if strange:
        owner = "the checkpoint" if strange[0] in saved else "this run"
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise ArtifactError(f"{file}: only {owner} has tensor {strange[0]}{more}. {_ADVICE}")


def _check_shape(file: Path, name: str, saved: Tensor, now: Tensor) -> None:
    if saved.shape != now.shape:
        raise ArtifactError(
            f"{file}: tensor {name} has shape {list(saved.shape)}, this run needs {list(now.shape)}. {_ADVICE}"
        )


_ADVICE = "It was written with other settings. Restore those settings, or start over with --overwrite or another --out."


def _checkpoints(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*") if path.is_dir() and path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def _name(step: int) -> str:
    return f"step-{step:06d}"

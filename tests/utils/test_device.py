"""The device that the user asks for."""

from __future__ import annotations

import os

import pytest
import torch

from ezsd.errors import RecipeError
from ezsd.utils.device import choose_device, this_device, usable_device


def test_auto_is_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert usable_device("auto") == "cpu"
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    assert usable_device("auto") == "cuda"


def test_one_of_several_gpus_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert usable_device("cuda:1") == "cuda:1" and usable_device("cuda") == "cuda"
    with pytest.raises(RecipeError, match="cuda:2: this machine has 2 CUDA devices"):
        usable_device("cuda:2")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:-1", "cpu:1", "cuda:x"])
def test_unknown_devices_are_errors(name: str) -> None:
    with pytest.raises(RecipeError, match="expected auto, cpu, cuda"):
        usable_device(name)


def test_stages_use_the_chosen_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", os.environ.get("ACCELERATE_USE_CPU", "false"))
    choose_device("cpu")
    assert this_device() == "cpu"
    with pytest.raises(RecipeError, match="not available"):
        choose_device("mps")

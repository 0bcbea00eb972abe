"""The device of an ONNX model: its providers, and messages for devices that are not there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from ezsd.errors import RecipeError
from ezsd.inference.onnx_file import _open, _providers

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("device", "providers"),
    [
        ("auto", [(CUDA, {"device_id": 0}), CPU]),
        ("cuda", [(CUDA, {"device_id": 0}), CPU]),
        ("cuda:2", [(CUDA, {"device_id": 2}), CPU]),
        ("cpu", [CPU]),
    ],
)
def test_a_gpu_is_used_by_its_number(device: str, providers: list[Any]) -> None:
    assert _providers(device, [CUDA, CPU]) == providers


def test_without_a_gpu_auto_is_the_cpu() -> None:
    assert _providers("auto", [CPU]) == [CPU]


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:1", "device cuda:1: onnxruntime has no CUDA here. Install onnxruntime-gpu, or use cpu"),
        ("mps", "device mps: ONNX models run on CPUs and CUDA devices. Use auto or cpu, or the model folder with mps"),
        ("cpu:1", "device cpu:1: expected auto, cpu, cuda or cuda:1"),
        ("cuda:", "device cuda:: expected"),
        ("tpu", "device tpu: expected"),
    ],
)
def test_a_device_that_is_not_there_is_a_message(device: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        _providers(device, [CPU])


def test_a_gpu_that_onnxruntime_cannot_use_is_not_replaced_by_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: SimpleNamespace(get_providers=lambda: [CPU]))
    with pytest.raises(RecipeError, match="device cuda:9: onnxruntime cannot use this GPU"):
        _open(tmp_path / "model.onnx", "cuda:9", 0)
    assert _open(tmp_path / "model.onnx", "auto", 0)

"""The precision of inference: chosen by name, or by what is faster."""

from __future__ import annotations

import pytest
import torch

from ezsd.errors import RecipeError
from ezsd.utils import precision
from ezsd.utils.precision import faster_precision, usable_precision


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_a_named_precision_is_used(name: str) -> None:
    assert usable_precision(name, "cpu") == name


def test_auto_is_what_is_faster_in_inference_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "faster_precision", lambda gradients: "fp32" if gradients else "bf16")
    assert usable_precision("auto", "cpu") == "bf16"


def test_auto_is_half_precision_that_a_gpu_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert usable_precision("auto", "cuda:1") == "bf16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert usable_precision("auto", "cuda") == "fp16"
    assert usable_precision("auto", "mps") == "fp32"


def test_an_unusable_precision_is_refused() -> None:
    with pytest.raises(RecipeError, match="precision float16: expected auto, fp32, bf16, fp16"):
        usable_precision("float16", "cpu")
    with pytest.raises(RecipeError, match="fp16 needs a GPU. Set bf16 or fp32"):
        usable_precision("fp16", "cpu")


@pytest.mark.parametrize("gradients", [True, False])
def test_the_faster_precision_is_measured(gradients: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def seconds(model: object, images: torch.Tensor, name: str) -> float:
        measured.append(images.requires_grad)
        return 1.0 if name == "bf16" else 2.0

    monkeypatch.setattr(precision, "_seconds", seconds)
    assert faster_precision(gradients) == "bf16"
    assert set(measured) == {gradients}

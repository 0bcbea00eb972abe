"""Load whatever a user calls a model; torch is imported only for models that need it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ezsd.errors import RecipeError
from ezsd.inference.onnx_detector import OnnxDetector

if TYPE_CHECKING:
    from ezsd.inference.detector import Detector
    from ezsd.utils.precision import PrecisionChoice


def load_detector(
    model: str | Path, device: str | None = None, teacher: str | None = None, precision: PrecisionChoice = "fp32"
) -> Detector | OnnxDetector:
    """Load a model.

    Args:
        model: An ONNX file, a model folder, a run folder, or a repository of the hub ("org/name", "org/name@revision").
        device: The device, such as "cpu" or "cuda". None selects a GPU if available.
        teacher: As in :meth:`ezsd.Detector.load`.
        precision: As in :meth:`ezsd.Detector.load`.

    Raises:
        ArtifactError: The model cannot be used.
        RecipeError: A teacher or a precision is given for an ONNX file.
    """
    if Path(model).suffix == ".onnx":
        if teacher is not None:
            raise RecipeError(f"{model} is an ONNX file, which takes no teacher. Leave --teacher out.")
        if precision != "fp32":
            raise RecipeError(
                f"{model} is an ONNX file, which has the precision it was exported with. Leave --precision out, or "
                "export it again: ezsd export MODEL model.onnx --precision fp16"
            )
        return OnnxDetector.load(model, device)
    from ezsd.inference.detector import Detector

    return Detector.load(model, device, teacher=teacher, precision=precision)

"""A file that ``ezsd export`` wrote: its session in onnxruntime, and what its metadata says; without torch.

The file may come from a stranger: everything in it is checked before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter

from ezsd.detector.model_config import ModelConfig, parse_config
from ezsd.errors import ArtifactError, MissingExtraError, RecipeError
from ezsd.inference.view import Thresholds, parse_thresholds
from ezsd.utils.format import shell_quoted
from ezsd.utils.memory import memory_errors

CONFIG_KEY, VOCABULARY_KEY, MODEL_ID_KEY = "ezsd.config", "ezsd.vocabulary", "ezsd.model_id"  # in the file's metadata
THRESHOLDS_KEY = "ezsd.thresholds"
SMALLER = "Use smaller images, or tiles of them (--tile)."
_INPUTS, _TEXT_INPUTS = ("images", "sizes"), ("text_embeddings", "phrases")
_OUTPUTS = ("boxes", "labels", "scores")
_CUDA = "CUDAExecutionProvider"


class OnnxFile(NamedTuple):
    """An open file.

    Attributes:
        session: The session of onnxruntime.
        config: The configuration of the model that was exported.
        model_id: Identifies the model; its names file has the same.
        vocabulary: The names that are baked into the graph; None = they are an input.
        thresholds: The calibrated thresholds; None = it has none.
    """

    session: Any
    config: ModelConfig
    model_id: str
    vocabulary: tuple[str, ...] | None
    thresholds: Thresholds | None


def open_onnx(path: Path, device: str | None, threads: int) -> OnnxFile:
    """Open a file; the arguments are those of :meth:`ezsd.OnnxDetector.load`.

    Raises:
        ArtifactError: The file is missing, damaged, or was not written by ``ezsd export``.
        RecipeError: The device is unknown or not available.
        MissingExtraError: onnxruntime is not installed.
    """
    session = _open(path, device, threads)
    about = session.get_modelmeta().custom_metadata_map
    if CONFIG_KEY not in about:
        raise ArtifactError(f"{path} was not written by ezsd export: it has no model config.")
    try:
        config = parse_config(json.loads(about[CONFIG_KEY]), str(path))
        thresholds = parse_thresholds(json.loads(about[THRESHOLDS_KEY])) if THRESHOLDS_KEY in about else None
        baked = about.get(VOCABULARY_KEY)
        vocabulary = None if baked is None else TypeAdapter(tuple[str, ...]).validate_json(baked)
        model_id = about[MODEL_ID_KEY]
    except (KeyError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"{path} was not written by ezsd export: its metadata is damaged ({reason}).") from None
    expected = (*_INPUTS, *(_TEXT_INPUTS if vocabulary is None else ())), (*_OUTPUTS, *["masks"] * config.masks)
    if (_names(session.get_inputs()), _names(session.get_outputs())) != expected:
        raise ArtifactError(f"{path} was not written by ezsd export: its graph has other inputs or outputs.")
    return OnnxFile(session, config, model_id, vocabulary, thresholds)


def run_graph(session: Any, inputs: Mapping[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    """Return the outputs of the graph for a batch.

    Raises:
        ArtifactError: Memory is not sufficient, or the graph is damaged.
    """
    import onnxruntime

    with memory_errors(SMALLER):
        try:
            return list(session.run(None, inputs))
        except _errors(onnxruntime) as error:
            reason = str(error).splitlines()[0][:300]
            raise ArtifactError(f"onnxruntime cannot run the model: {reason}. {SMALLER}") from None


def _names(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(value.name for value in values)


def _open(path: Path, device: str | None, threads: int) -> Any:
    """Open a session of onnxruntime."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime is not installed. Install it with: pip install onnxruntime") from None
    if not path.is_file():
        raise ArtifactError(f"{path} is missing. Write it with: ezsd export MODEL {shell_quoted(path)}")
    providers = _providers(device or "auto", onnxruntime.get_available_providers())
    onnxruntime.disable_telemetry_events()  # nothing is sent from the machine that detects
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except _errors(onnxruntime) as error:
        raise ArtifactError(f"{path} cannot be loaded by onnxruntime: {error}") from None
    if (device or "auto").startswith("cuda") and _CUDA not in session.get_providers():
        # onnxruntime only warns, and would use the CPU
        raise RecipeError(f"device {device}: onnxruntime cannot use this GPU; its message is above. Use auto or cpu.")
    return session


def _providers(device: str, available: Sequence[str]) -> list[Any]:
    """Return the execution providers for a device, the preferred one first.

    Raises:
        RecipeError: The device is unknown, or onnxruntime has no provider for it.
    """
    kind, colon, index = device.partition(":")
    if device == "mps":
        raise RecipeError(
            "device mps: ONNX models run on CPUs and CUDA devices. Use auto or cpu, or the model folder with mps."
        )
    if kind not in ("auto", "cpu", "cuda") or (colon and not (kind == "cuda" and index.isdecimal())):
        raise RecipeError(f"device {device}: expected auto, cpu, cuda or cuda:1 (the second GPU) for an ONNX model.")
    if kind == "cuda" and _CUDA not in available:
        raise RecipeError(f"device {device}: onnxruntime has no CUDA here. Install onnxruntime-gpu, or use cpu.")
    on_gpu = kind != "cpu" and _CUDA in available
    return [*([(_CUDA, {"device_id": int(index or 0)})] if on_gpu else []), "CPUExecutionProvider"]


def _errors(onnxruntime: Any) -> tuple[type[Exception], ...]:
    """Return the exceptions of onnxruntime, which have no common base class of their own."""
    state = onnxruntime.capi.onnxruntime_pybind11_state
    own = (kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    return (RuntimeError, ValueError, *own)

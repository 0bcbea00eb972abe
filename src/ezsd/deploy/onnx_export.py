"""Export a detector to ONNX, with the text embeddings as an input or fixed, in three precisions."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch

from ezsd.deploy.onnx_graph import DetectionGraph
from ezsd.detector.rcnn import Rcnn
from ezsd.errors import ArtifactError, DataError, MissingExtraError, RecipeError
from ezsd.inference.detector import Detector
from ezsd.inference.embedded_names import Vocabulary
from ezsd.inference.inputs import read_pixels
from ezsd.inference.names_file import Embeddings, TextInput, names_file_of, read_names, text_input, write_names
from ezsd.inference.onnx_detector import network_input, resize_pixels
from ezsd.inference.onnx_file import CONFIG_KEY, MODEL_ID_KEY, THRESHOLDS_KEY, VOCABULARY_KEY
from ezsd.inference.vocabulary import VocabularyInput
from ezsd.utils.files import digest, written_whole
from ezsd.utils.resize import PADDED_TO

Precision = Literal["fp32", "fp16", "int8"]

_OPSET = 18
_CALIBRATION_IMAGES = 100
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
# The cosines of the classifier and the last layers, whose errors move boxes and scores, stay in floating point.
_NOT_IN_INT8 = ("box_predictor", "to_deltas", "to_quality", "cls_logits", "bbox_pred", "/quality/", "mask_predictor")


@dataclass(frozen=True)
class OnnxOptions:
    """What is exported.

    Attributes:
        baked: Make the vocabulary part of the graph, instead of an input.
        precision: fp32; fp16 (half the file, for GPUs); int8 (for CPUs).
        calibration: Images, or a folder of images, that the ranges of int8 values are measured on.
        teacher: As in :meth:`ezsd.Detector.load`.
    """

    baked: bool = False
    precision: Precision = "fp32"
    calibration: Path | None = None
    teacher: str | None = None


def export_onnx(
    model: str | Path, out: Path, vocabulary: VocabularyInput | None = None, options: OnnxOptions | None = None
) -> list[Path]:
    """Write an ONNX file and its names file; neither torch nor the teacher is needed to use them.

    The graph takes ``images`` [B, 3, H, W] uint8 (padded, H and W multiples of 32), ``sizes`` [B, 2] int64 (height and
    width without padding), ``text_embeddings`` [P, D] float32 and ``phrases`` [C, K] int64 (the rows of each name); all
    sizes except D are free. It returns ``boxes`` [B, N, 4] (xyxy, pixels of the input), ``labels`` [B, N] (-1 = no
    detection), ``scores`` [B, N] and, with a mask branch, ``masks`` [B, N, 28, 28] inside the boxes.

    Args:
        model: A model folder, a run folder, or a repository of the hub.
        out: The ONNX file, or a names file (.npz), which is then written alone.
        vocabulary: Names as in :meth:`ezsd.Detector.__call__`, also with synonyms and templates: the best phrase of a
            name gives its score. The names file has those of the model, those that it already had, and these, which
            replace others of the same name; a baked file has only these.
        options: What is exported; default: fp32, text embeddings as an input.

    Returns:
        The files that were written.

    Raises:
        MissingExtraError: onnx or onnxruntime is not installed.
        RecipeError: The vocabulary or a combination of options is invalid.
        DataError: There are no images to calibrate int8 with.
    """
    options = options or OnnxOptions()
    if out.suffix not in (".onnx", ".npz"):
        raise RecipeError(f"{out}: expected a file that ends in .onnx, or in .npz for a names file alone.")
    if options.baked and out.suffix == ".npz":
        raise RecipeError("A baked model has no names file. Give an .onnx file, or leave --baked out.")
    images = _calibration_images(options.calibration) if options.precision == "int8" and out.suffix == ".onnx" else []
    if out.suffix == ".onnx":
        _check_packages()
    detector = Detector.load(model, "cpu", teacher=options.teacher)
    asked, own = _rows(detector.vocabulary(vocabulary)), _rows(detector.vocabulary())
    text = text_input([*(asked if options.baked else own | asked).values()])
    model_id = digest(detector.embed().numpy().tobytes(), *_weights(detector.model))
    about = {
        CONFIG_KEY: json.dumps(detector.config.published().model_dump(mode="json")),
        MODEL_ID_KEY: model_id,
        THRESHOLDS_KEY: json.dumps({"other": detector.thresholds.other, "names": dict(detector.thresholds.names)}),
    }
    written = []
    if out.suffix == ".onnx":
        if options.baked:
            about[VOCABULARY_KEY] = json.dumps([*asked])
        with written_whole(out) as temporary:
            _write_graph(detector, text, options, temporary)
            if images:
                _quantize(temporary, detector, None if options.baked else text, images)
            _describe(temporary, about)
        written.append(out)
    if not options.baked:
        path = names_file_of(out) if out.suffix == ".onnx" else out
        write_names(
            path,
            {
                **own,
                **_known_names(path, model_id, detector.config.embedding_dim),
                **({} if vocabulary is None else asked),
            },
            model_id,
        )
        written.append(path)
    return written


def _rows(vocabulary: Vocabulary) -> dict[str, np.ndarray[Any, Any]]:
    """Return the embeddings [K, D] of the phrases of each name."""
    counts = vocabulary.owners.bincount().tolist()  # the phrases of a name follow one another
    return {
        name: rows.numpy() for name, rows in zip(vocabulary.names, vocabulary.embeddings.split(counts), strict=True)
    }


def _known_names(path: Path, model_id: str, dim: int) -> Embeddings:
    """Return the names that were written for the same model before; they are kept."""
    try:
        return read_names(path, model_id, dim)
    except ArtifactError:
        return {}


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(f"{error.name} is not installed. Install it with: pip install 'ezsd[export]'") from None


def _weights(model: torch.nn.Module) -> Iterator[bytes]:
    for value in model.state_dict().values():
        yield value.cpu().contiguous().numpy().tobytes()


def _write_graph(detector: Detector, text: TextInput, options: OnnxOptions, path: Path) -> None:
    names = {key: torch.from_numpy(values) for key, values in text._asdict().items()}
    graph = DetectionGraph(cast(Rcnn, detector.model), *(names.values() if options.baked else ()))
    if options.precision == "fp16":
        graph.to_half()
    sizes = torch.tensor([[PADDED_TO * 2, PADDED_TO * 3], [PADDED_TO * 3 - 5, PADDED_TO * 2]])
    images = torch.zeros(2, 3, PADDED_TO * 3, PADDED_TO * 3, dtype=torch.uint8)
    inputs = {"images": images, "sizes": sizes} | ({} if options.baked else names)
    outputs = ["boxes", "labels", "scores", *(["masks"] if detector.config.masks else [])]
    axes: dict[str, dict[int, str]] = {"images": {0: "batch", 2: "height", 3: "width"}, "sizes": {0: "batch"}}
    axes |= {name: {0: "batch"} for name in outputs}
    if not options.baked:
        axes |= {"text_embeddings": {0: "all_phrases"}, "phrases": {0: "names", 1: "phrases_of_a_name"}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the tracer, about sizes that are meant to be fixed
        # The exporter based on torch.export needs minutes to reason about the free sizes of this graph.
        torch.onnx.export(
            graph, tuple(inputs.values()), str(path), dynamo=False, opset_version=_OPSET, input_names=list(inputs),
            output_names=outputs, dynamic_axes=axes,
        )  # fmt: skip


def _describe(path: Path, about: dict[str, str]) -> None:
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, about)
    model.producer_name = "ezsd"
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _calibration_images(place: Path | None) -> list[Path]:
    """Return the images that int8 is calibrated with, evenly spaced."""
    found = [] if place is None else sorted(path for path in place.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not found:
        raise DataError(
            f"int8 needs images to measure the ranges of values on; {place or '--calibration'} has none. Give a folder "
            "with about 100 images like those it will be used on."
        )
    count = min(len(found), _CALIBRATION_IMAGES)
    return [found[index * len(found) // count] for index in range(count)]


def _quantize(path: Path, detector: Detector, text: TextInput | None, images: Sequence[Path]) -> None:
    """Replace an ONNX file with one that computes convolutions and linear layers in int8."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    kept = [node.name for node in onnx.load(path).graph.node if any(part in node.name for part in _NOT_IN_INT8)]
    with tempfile.TemporaryDirectory(prefix="ezsd-int8-", ignore_cleanup_errors=True) as folder:
        quantized = Path(folder) / "int8.onnx"
        logging.disable(logging.WARNING)  # onnxruntime recommends steps that PyTorch's exporter has already done
        try:
            quantize_static(
                path, quantized, _Calibration(detector, text, images), quant_format=QuantFormat.QDQ, per_channel=True,
                op_types_to_quantize=["Conv", "Gemm"], nodes_to_exclude=kept, activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
                extra_options={"CalibMovingAverage": True},
            )  # fmt: skip
        finally:
            logging.disable(logging.NOTSET)
        path.write_bytes(quantized.read_bytes())


class _Calibration:
    """Yields the inputs of the graph for one image after the other; onnxruntime calls ``get_next``."""

    def __init__(self, detector: Detector, text: TextInput | None, images: Sequence[Path]) -> None:
        self._size, self._text = detector.config.detector.image_size, text
        self._images = iter(images)

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        path = next(self._images, None)
        return None if path is None else network_input([resize_pixels(read_pixels(path), self._size)], self._text)

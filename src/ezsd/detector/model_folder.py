"""Save and load trained detectors: ``model.safetensors`` and ``config.json``, no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ezsd.detector.backbone import CHECKED_BACKBONES, Backbone
from ezsd.detector.box_head import BoxHead
from ezsd.detector.model_config import THRESHOLDS, ModelConfig, parse_config
from ezsd.detector.rcnn import Rcnn, build_detector
from ezsd.errors import ArtifactError
from ezsd.utils.batch_norm import fold_batch_norms
from ezsd.utils.files import read_json, read_tensors, write_json, write_tensors

MODEL, CONFIG, NORMS = "model.safetensors", "config.json", "teacher_norms.safetensors"
FILES = (NORMS, THRESHOLDS, CONFIG, MODEL)  # all that a model folder can contain; the first two are optional
_EXAMPLE = (64, 96)  # height and width of an image, to find the batch norms
_TEXT = "text_embeddings"
_ADVICE = "Copy both files from the same run."


def save_model(folder: Path, model: Rcnn, config: ModelConfig, text_embeddings: Tensor, norms: Path | None) -> None:
    """Write a model folder.

    Args:
        folder: The model folder; it is created if missing.
        model: The detector.
        config: The description of the model.
        text_embeddings: [C, D] text embeddings of ``config.names``.
        norms: File with adapted norm parameters of the teacher, copied into the folder; None = not adapted.

    Raises:
        ArtifactError: If the folder cannot be written.
    """
    write_tensors(folder / MODEL, {**model.state_dict(), _TEXT: text_embeddings})
    if norms is not None:
        tensors, metadata = read_tensors(norms)
        write_tensors(folder / NORMS, tensors, metadata)
    config = config.model_copy(update={"adapted": norms is not None})
    write_json(folder / CONFIG, config.model_dump(mode="json"))


def load_model(folder: Path, device: str | torch.device = "cpu", fold: bool = True) -> tuple[Rcnn, ModelConfig, Tensor]:
    """Read a model folder.

    Args:
        folder: The model folder.
        device: Where the model will be.
        fold: Fold the batch norms of the backbone into its convolutions: faster, but it cannot be trained.

    Returns:
        The detector in evaluation mode, its config, and the text embeddings [C, D] of ``config.names``.

    Raises:
        ArtifactError: If a file is missing or damaged, or the weights do not fit the architecture in config.json.
    """
    config = read_config(folder)
    tensors, _ = read_tensors(folder / MODEL)
    text_embeddings = tensors.pop(_TEXT, torch.zeros(0, 0))
    if text_embeddings.shape != (len(config.names), config.embedding_dim):
        raise ArtifactError(
            f"{folder / MODEL} does not contain the text embeddings of the names in {CONFIG}. {_ADVICE}"
        )
    if wrong := _other_size(config, tensors):
        raise _misfit(folder, f"{wrong} has another size.")
    model = build_detector(config.detector, config.embedding_dim, config.masks, pretrained=False)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise _misfit(folder, first) from None
    model.eval()
    if fold:
        fold_batch_norms(model.backbone.body, torch.rand(1, 3, *_EXAMPLE))
    return model.to(device), config, text_embeddings.to(device)


def _misfit(folder: Path, reason: str) -> ArtifactError:
    return ArtifactError(f"{folder / MODEL} does not fit the architecture in {CONFIG}: {reason} {_ADVICE}")


def _other_size(config: ModelConfig, tensors: Mapping[str, Tensor]) -> str | None:
    """Return a layer whose size in config.json is not that of its weights; a wrong config could ask for any memory."""
    wanted, channels = config.detector, config.detector.fpn_channels
    if wanted.head_convs > len(tensors):
        return "the box head"
    with torch.device("meta"):  # sizes without memory
        head = BoxHead(channels, config.embedding_dim, wanted).state_dict()
        pyramid = torch.empty(channels, channels, 3, 3)
    layers = {"backbone.fpn.layer_blocks.0.0.weight": pyramid}
    layers |= {f"roi_heads.box_head.{name}": values for name, values in head.items()}
    if wanted.backbone not in CHECKED_BACKBONES:  # those are small enough; timm has others of many gigabytes
        with torch.device("meta"):
            backbone = Backbone(wanted.backbone, channels, False, len(wanted.anchor_sides)).state_dict()
        layers |= {f"backbone.{name}": values for name, values in backbone.items()}
        if missing := layers.keys() - tensors.keys():
            return min(missing)
    return next((name for name, each in layers.items() if name in tensors and tensors[name].shape != each.shape), None)


def read_config(folder: Path) -> ModelConfig:
    """Read ``config.json`` of a model folder.

    Raises:
        ArtifactError: If the file is missing or not a model config.
    """
    return parse_config(read_json(folder / CONFIG), str(folder / CONFIG))


def norms_of_folder(folder: Path) -> Path | None:
    """Return the path of the adapted norm parameters in a model folder, or None if it has none."""
    path = folder / NORMS
    return path if path.exists() else None

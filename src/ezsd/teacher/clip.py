"""Teachers from open_clip: any of its architectures, with weights from the hub or from a file."""

from __future__ import annotations

import copy
import json
import logging
import math
import pickle
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from ezsd.errors import ArtifactError, RecipeError
from ezsd.teacher.base import check_dense, fingerprint_of, frozen, norms_of
from ezsd.teacher.dense import problem_of_timm, reader_of, readings_of_tower
from ezsd.teacher.regions import read_at_scales
from ezsd.utils.depthwise import train_depthwise_in_float32
from ezsd.utils.files import digest

TEXT_BATCH = 256
logger = logging.getLogger(__name__)
_UNREADABLE = (OSError, EOFError, RuntimeError, KeyError, pickle.UnpicklingError, SafetensorError, HfHubHTTPError)


class ClipTeacher:
    """An open_clip model; see :class:`ezsd.teacher.base.Teacher`.

    Args:
        name: The name in the recipe.
        model: CLIP or CustomTextCLIP, with its preprocessing settings attached (as open_clip creates it).
        tokenizer: The tokenizer of the text tower.
        settings: Text that identifies what the weights do not contain (architecture, activation); part of the
            fingerprint.

    Attributes:
        dense_problem: Why the tower cannot embed many boxes in one pass; empty if it can.

    Raises:
        RecipeError: If the input of the image tower is not square.
    """

    def __init__(self, name: str, model: nn.Module, tokenizer: Any, settings: str) -> None:
        self.name = name
        self._model: Any = frozen(model)
        train_depthwise_in_float32(self._model)
        self._visual: Any = self._model.visual.to(memory_format=torch.channels_last)
        self._tokenizer = tokenizer
        preprocess = open_clip.get_model_preprocess_cfg(self._model)
        self.input_size = _square_side(self._visual.image_size, name)
        self._mean = torch.tensor(preprocess["mean"]).view(3, 1, 1)
        self._std = torch.tensor(preprocess["std"]).view(3, 1, 1)
        self.logit_scale = math.exp(self._model.logit_scale.item())
        weights = (value.cpu().numpy().tobytes() for _, value in sorted(self._model.state_dict().items()))
        self.weights_digest = digest(settings, json.dumps([preprocess["mean"], preprocess["std"]]), *weights)
        self.dense_readings = readings_of_tower(self._visual)
        self._read_boxes, self.dense_problem = reader_of(self._visual, self.input_size)
        with torch.no_grad():
            self.embedding_dim = self.encode_names([""]).shape[1]

    @property
    def fingerprint(self) -> str:
        """Digest of the weights, including adapted norms."""
        return fingerprint_of(self.weights_digest, self.norm_parameters())

    def encode_names(self, texts: Sequence[str]) -> Tensor:
        """Embed complete texts as ``[C, D]``, unit length. The end of a text beyond the context is cut, with a note."""
        tokens = self._tokenizer(list(texts))
        for number in self._too_long(texts, tokens):
            logger.warning(f'The text encoder reads {tokens.shape[1]} tokens: the end of "{texts[number]}" is cut.')
        parts = [self._model.encode_text(part.to(self._mean.device)) for part in tokens.split(TEXT_BATCH)]
        return F.normalize(torch.cat(parts).float(), dim=-1)

    def _too_long(self, texts: Sequence[str], tokens: Tensor) -> list[int]:
        """Return the indices of the texts whose tokens [C, T] are cut."""
        padding = self._tokenizer([""])[0, -1]
        full = (tokens[:, -1] != padding).nonzero()[:, 0].tolist()
        length = tokens.shape[1] + 1
        return [number for number in full if self._tokenizer([texts[number]], length)[0, -1] != padding]

    def encode_crops(self, crops: Tensor) -> Tensor:
        """Embed crops ``[N, 3, S, S]``, values 0..1, as ``[N, D]``, unit length."""
        return F.normalize(self._model.encode_image(self._normalized(crops)).float(), dim=-1)

    @torch.no_grad()
    def dense_embeddings(self, image: Tensor, boxes: Tensor, sides: Sequence[int]) -> Tensor:
        """Embed many boxes of an image; see :meth:`ezsd.teacher.base.Teacher.dense_embeddings`.

        Raises:
            RecipeError: If the image tower cannot do this.
        """
        check_dense(self)

        def read(resized: Tensor, scaled_boxes: Tensor) -> Tensor:
            return self._read_boxes(self._normalized(resized), scaled_boxes)

        return read_at_scales(image, boxes, sides, self.input_size, read)

    def with_dense_reading(self, reading: str) -> Self:
        """Return this teacher with another reading; see :class:`ezsd.teacher.base.HasReadings`."""
        other = copy.copy(self)
        other._read_boxes, _ = reader_of(self._visual, self.input_size, reading)
        return other

    def norm_parameters(self, towers: Sequence[str] = ("image", "text")) -> dict[str, nn.Parameter]:
        """Return the parameters of every LayerNorm, BatchNorm and GroupNorm of the towers."""
        found = {"image": norms_of(self._visual, "image")}
        everything = norms_of(self._model, "text")
        # The caption decoder of CoCa is not used for embeddings.
        others = ("text.visual.", "text.text_decoder.")
        found["text"] = {key: value for key, value in everything.items() if not key.startswith(others)}
        return {key: value for tower in towers for key, value in found[tower].items()}

    def to(self, device: str | torch.device) -> Self:
        """Move both towers to ``device``."""
        self._model.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self

    def _normalized(self, images: Tensor) -> Tensor:
        return (images - self._mean) / self._std


def load_folder(spec: str) -> ClipTeacher:
    """Load ``hf-hub:ORG/NAME`` or ``local-dir:PATH``: open_clip_config.json, weights, and the tokenizer if it has one.

    Raises:
        RecipeError: If the folder does not exist.
        ArtifactError: If files are missing, damaged or do not fit, or the tokenizer asks to run code.
    """
    kind, _, place = spec.partition(":")
    where = f"local-dir:{Path(place).expanduser()}" if kind == "local-dir" else spec
    if kind == "local-dir" and not Path(place).expanduser().is_dir():
        raise RecipeError(f"teacher: the folder {place} (in {spec}) does not exist.")
    try:
        config = open_clip.get_model_config(where)
        _check_code(spec, config)
        model = open_clip.create_model(where, require_pretrained=True)
        tokenizer = open_clip.get_tokenizer(where)
    except (*_UNREADABLE, ValueError) as error:
        offline = "" if kind == "local-dir" else " Without a network, give a copy of the repository as local-dir:PATH."
        raise ArtifactError(
            f"teacher: {spec} cannot be loaded: {_first_line(error)}. Expected open_clip_config.json, weights such as "
            f"open_clip_model.safetensors, and the files of the tokenizer if the config names one.{offline}"
        ) from error
    return ClipTeacher(spec, model, tokenizer, json.dumps(config, sort_keys=True))


def _check_code(spec: str, config: Any) -> None:
    """Raise ArtifactError if the config tells the tokenizer to run code that is in the repository or folder."""
    text = (config or {}).get("text_cfg") or {}
    if (text.get("tokenizer_kwargs") or {}).get("trust_remote_code"):
        raise ArtifactError(
            f"teacher: {spec} is refused: its config sets trust_remote_code, so its tokenizer could run any code. If "
            "the tokenizer works without it, remove it from the open_clip_config.json of a copy: local-dir:PATH."
        )


def load_clip(spec: str) -> ClipTeacher:
    """Load ``open_clip:ARCH/PRETRAINED``; PRETRAINED is a tag of open_clip or the path of a checkpoint.

    Raises:
        RecipeError: If the architecture, tag or file does not exist.
        ArtifactError: If the weights cannot be downloaded or do not fit the architecture.
    """
    architecture, _, pretrained = spec.removeprefix("open_clip:").partition("/")
    _check_spec(spec, architecture, pretrained)
    # Some tags were trained with another activation than the default of their architecture; open_clip only warns.
    tag = open_clip.get_pretrained_cfg(architecture, pretrained)
    quick_gelu = bool(tag.get("quick_gelu", False))
    try:
        model = open_clip.create_model(architecture, pretrained=pretrained, force_quick_gelu=quick_gelu)
        tokenizer = open_clip.get_tokenizer(architecture)
    except _UNREADABLE as error:
        raise ArtifactError(
            f"teacher: the weights of {spec} cannot be loaded: {_first_line(error)}. Without a network, give the path "
            f"of a checkpoint of {architecture} (.safetensors, or .pt with tensors only): "
            f"open_clip:{architecture}/PATH."
        ) from error
    settings = json.dumps([open_clip.get_model_config(architecture), quick_gelu], sort_keys=True)
    return ClipTeacher(spec, model, tokenizer, settings)


def may_be_vit(spec: str) -> bool:
    """Return whether a teacher of a recipe is an open_clip model with a vision transformer, without loading it."""
    kind, _, rest = spec.partition(":")
    config = open_clip.get_model_config(rest.partition("/")[0]) if kind == "open_clip" else None
    vision = (config or {}).get("vision_cfg", {})
    timm_name = vision.get("timm_model_name")
    return isinstance(vision.get("layers"), int) if timm_name is None else timm_name.startswith(("vit_", "eva"))


def dense_problem_of(spec: str) -> str:
    """Return why an open_clip model cannot embed many boxes in one pass, by its config alone.

    Returns:
        The reason; empty if it can, or if its config cannot be read, which :func:`ezsd.teacher.load_teacher` reports.
    """
    kind, _, rest = spec.partition(":")
    places = {"open_clip": rest.partition("/")[0], "local-dir": f"local-dir:{Path(rest).expanduser()}"}
    try:
        config = open_clip.get_model_config(places.get(kind, spec))
    except (*_UNREADABLE, ValueError):
        return ""
    vision = (config or {}).get("vision_cfg", {})
    return problem_of_timm(vision) if vision.get("timm_model_name") else ""


def _check_spec(spec: str, architecture: str, pretrained: str) -> None:
    architectures = open_clip.list_models()
    if architecture not in architectures:
        raise RecipeError(
            f"teacher: open_clip has no architecture {architecture} (in {spec})."
            + _suggestion(architecture, architectures)
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not open_clip.is_pretrained_cfg(architecture, pretrained) and not Path(pretrained).is_file():
        raise RecipeError(
            f"teacher: {pretrained or 'nothing'} (in {spec}) is neither a file nor a tag of open_clip for "
            f"{architecture}.{_suggestion(pretrained, tags)} Tags: {', '.join(tags) or 'none'}."
        )


def _suggestion(word: str, known: Sequence[str]) -> str:
    close = get_close_matches(word, known, n=5, cutoff=0.5)
    return f" Did you mean {', '.join(close)}?" if close else ""


def _square_side(image_size: int | Sequence[int], name: str) -> int:
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height != width:
        raise RecipeError(f"teacher: {name} expects images of {height}x{width}; only square inputs are supported.")
    return height


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

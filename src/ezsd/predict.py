"""Detect objects by their names: one class, from a model folder and pictures to ``supervision.Detections``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import supervision as sv
import torch
from matplotlib import get_data_path
from PIL import Image, ImageOps
from torch import Tensor

from ezsd.data.coco import read_picture
from ezsd.detector.model_folder import ModelConfig, load_model, norms_of_folder
from ezsd.detector.rcnn import Rcnn
from ezsd.detector.roi_heads import Detections
from ezsd.errors import DataError, RecipeError
from ezsd.inference import detect_pictures, encode_mask
from ezsd.teacher import Teacher, load_teacher, text_embeddings

Picture: TypeAlias = "str | Path | Image.Image | np.ndarray[Any, Any] | Tensor"
_READ_AT_ONCE = 8  # batches; pictures of like size among them are batched together
_DRAWN_SIDE = 640  # smaller pictures are enlarged to this long side before anything is written on them


class Detector:
    """A trained detector that looks for any names.

    Example:
        >>> detector = Detector.load("runs/pocket/train/model")
        >>> detections = detector("street.jpg", ["cat", "traffic cone"])
        >>> detections["class_name"], detections.confidence, detections.xyxy

    Args:
        model: the detector.
        config: what the model folder says of it.
        known: [C, D] text embeddings of ``config.names``.
        norms: adapted norm parameters of the teacher, when there are any.
    """

    def __init__(self, model: Rcnn, config: ModelConfig, known: Tensor, norms: Path | None = None) -> None:
        self.model = model.eval()
        self.config = config
        self._embeddings: dict[str, Tensor] = dict(zip(config.names, known.float().cpu(), strict=True))
        self._norms = norms
        self._teacher: Teacher | None = None
        self._lock = threading.Lock()  # a server asks from several threads

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None) -> Detector:
        """Read a model folder (``train/model`` of a run).

        Args:
            folder: holds model.safetensors and config.json.
            device: "cpu", "cuda" and so on; None = a GPU when there is one.

        Raises:
            ArtifactError: the folder cannot be used.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model, config, known = load_model(Path(folder), device)
        return cls(model, config, known, norms_of_folder(Path(folder)))

    @overload
    def __call__(
        self,
        pictures: Picture,
        vocabulary: Sequence[str] | str | None = ...,
        threshold: float = ...,
        batch_size: int = ...,
    ) -> sv.Detections: ...
    @overload
    def __call__(
        self,
        pictures: list[Any] | tuple[Any, ...],
        vocabulary: Sequence[str] | str | None = ...,
        threshold: float = ...,
        batch_size: int = ...,
    ) -> list[sv.Detections]: ...
    def __call__(
        self,
        pictures: Picture | list[Any] | tuple[Any, ...],
        vocabulary: Sequence[str] | str | None = None,
        threshold: float = 0.3,
        batch_size: int = 4,
    ) -> sv.Detections | list[sv.Detections]:
        """Find objects. One picture in, one result out; a list in, a list out.

        Args:
            pictures: a path, a PIL image, an array [H, W, 3] uint8 RGB or a tensor [3, H, W] (uint8, or float in
                0..1), or a list of them. Pictures from files are turned upright as their EXIF says.
            vocabulary: names to look for; text with commas ("cat, traffic cone") is a list too;
                None = the base and novel names of the model.
            threshold: detections with a lower score are left out.
            batch_size: pictures at a time; it changes the speed alone.

        Returns:
            boxes xyxy in pixels of the picture, best first; ``class_id`` is the index in the vocabulary,
            ``data["class_name"]`` the name; masks when the model makes them.

        Raises:
            RecipeError: the vocabulary, the threshold or the batch size cannot be used.
            DataError: a picture cannot be read.
        """
        if not 0 <= threshold <= 1:
            raise RecipeError(f"threshold {threshold}: expected a score between 0 and 1, as in 0.3.")
        if batch_size < 1:
            raise RecipeError(f"batch_size {batch_size}: expected at least 1.")
        names = vocabulary_names(vocabulary, self.config.names)
        text = self.embed(names)
        listed = pictures if isinstance(pictures, (list, tuple)) else [pictures]
        results = []
        for start in range(0, len(listed), _READ_AT_ONCE * batch_size):
            loaded = [read_any(picture) for picture in listed[start : start + _READ_AT_ONCE * batch_size]]
            found = detect_pictures(self.model, loaded, text, batch_size)
            by_index = {index: _to_supervision(detections, names, threshold) for index, detections in found}
            results += [by_index[index] for index in range(len(loaded))]
        return results if listed is pictures else results[0]

    def embed(self, vocabulary: Sequence[str] | str | None = None) -> Tensor:
        """Return the text embeddings [C, D] of a vocabulary (float32, CPU), and keep them for later calls.

        Names of the model need nothing; others are encoded by the teacher, which is loaded when first needed.

        Raises:
            RecipeError: the vocabulary cannot be used.
            MissingExtraError: the teacher's packages are not installed.
        """
        names = vocabulary_names(vocabulary, self.config.names)
        with self._lock:
            unknown = [name for name in names if name not in self._embeddings]
            if unknown:
                if self._teacher is None:
                    self._teacher = load_teacher(self.config.teacher, self._device, norms=self._norms)
                rows = text_embeddings(self._teacher, unknown, self.config.prompt)
                self._embeddings.update(zip(unknown, rows, strict=True))
            return torch.stack([self._embeddings[name] for name in names])

    @property
    def _device(self) -> str:
        return str(next(self.model.parameters()).device)


def vocabulary_names(vocabulary: Sequence[str] | str | None, default: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a vocabulary, without spaces around them.

    Args:
        vocabulary: names, or text with commas between them; None = ``default``.
        default: the model's own names.

    Raises:
        RecipeError: there is no name, a name is empty or no text, or a name comes twice (all told at once).
    """
    if vocabulary is None:
        return tuple(default)
    names = (
        [part for part in vocabulary.split(",") if part.strip()] if isinstance(vocabulary, str) else list(vocabulary)
    )
    if not names:
        raise RecipeError('The vocabulary is empty. Give at least one name, as in ["cat", "traffic cone"].')
    faults, seen = [], dict[str, str]()
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            faults.append(f'vocabulary[{index}] is {name!r}: expected a name, as in "traffic cone".')
            continue
        key = " ".join(name.split()).casefold()
        if key in seen:
            faults.append(f'vocabulary[{index}] "{name.strip()}" comes twice (as "{seen[key]}"). Leave one out.')
        seen.setdefault(key, name.strip())
    if faults:
        raise RecipeError(faults)
    return tuple(name.strip() for name in names)


def read_any(picture: Picture) -> Tensor:
    """Turn a picture of any accepted kind into a tensor uint8 [3, H, W], RGB.

    Raises:
        DataError: the file is missing or broken, or pixels have another shape or type.
    """
    if isinstance(picture, (str, Path)):
        return read_picture(Path(picture))
    if isinstance(picture, Image.Image):
        return _from_pil(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise DataError(
                f"The array has shape {picture.shape} and type {picture.dtype}; expected [H, W, 3] uint8 in RGB order."
            )
        return torch.from_numpy(picture.copy()).permute(2, 0, 1)
    if isinstance(picture, Tensor):
        return _from_tensor(picture.detach().cpu())
    raise DataError(f"A picture is a path, a PIL image, an array or a tensor; got {type(picture).__name__}.")


def draw(picture: Picture, detections: sv.Detections) -> Image.Image:
    """Draw detections with names and scores. A picture under 640 pixels is enlarged first, so that one can read them.

    Raises:
        DataError: the picture cannot be read.
    """
    scene = Image.fromarray(read_any(picture).permute(1, 2, 0).numpy())
    scale = max(1.0, _DRAWN_SIDE / max(scene.size))
    size = round(scene.width * scale), round(scene.height * scale)
    shown = _enlarged(detections, scale, size)
    scene = scene.resize(size, Image.Resampling.LANCZOS)
    if shown.mask is not None:
        scene = sv.MaskAnnotator(opacity=0.4).annotate(scene, shown)
    scene = sv.BoxAnnotator(thickness=max(2, round(min(size) / 300))).annotate(scene, shown)
    palette = sv.ColorPalette.DEFAULT
    writer = sv.RichLabelAnnotator(
        color=palette,
        text_color=sv.ColorPalette([_readable_on(color) for color in palette.colors]),
        font_path=f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf",
        font_size=max(12, round(min(size) / 45)),
        text_padding=3,
        smart_position=True,
    )
    labels = [f"{name} {score:.2f}" for name, score in zip(_names(shown), _scores(shown), strict=True)]
    drawn: Image.Image = writer.annotate(scene, shown, labels)
    return drawn


def detections_json(detections: sv.Detections) -> list[dict[str, Any]]:
    """Return plain values, best first: name, score, box (xyxy, pixels) and, when there are masks, mask (COCO RLE)."""
    masks = [None] * len(detections) if detections.mask is None else list(detections.mask)
    columns = zip(_names(detections), _scores(detections), detections.xyxy, masks, strict=True)
    return [
        {"name": str(name), "score": round(float(score), 4), "box": [round(float(side), 2) for side in box]}
        | ({} if mask is None else {"mask": encode_mask(mask)})
        for name, score, box, mask in columns
    ]


def _to_supervision(found: Detections, names: Sequence[str], threshold: float) -> sv.Detections:
    keep = found.scores >= threshold
    labels = found.labels[keep].cpu().numpy()
    return sv.Detections(
        xyxy=found.boxes[keep].float().cpu().numpy(),
        mask=None if found.masks is None else found.masks[keep].cpu().numpy(),
        confidence=found.scores[keep].float().cpu().numpy(),
        class_id=labels.astype(int),
        data={"class_name": np.array(names, dtype=str)[labels]},
    )


def _from_pil(image: Image.Image) -> Tensor:
    if image.mode[:1] in ("I", "F"):
        raise DataError(f"The image has pixels of mode {image.mode}; expected 8 bits a channel, convert it.")
    try:
        return torch.from_numpy(np.array(ImageOps.exif_transpose(image).convert("RGB"))).permute(2, 0, 1)
    except (OSError, SyntaxError, ValueError) as error:  # the file behind it is read only now
        raise DataError(f"The image cannot be read: {error}.") from None


def _from_tensor(picture: Tensor) -> Tensor:
    fault = f"The tensor has shape {list(picture.shape)} and type {picture.dtype}"
    if picture.ndim != 3 or picture.shape[0] != 3 or 0 in picture.shape:
        raise DataError(f"{fault}; expected [3, H, W] in RGB order.")
    if picture.dtype == torch.uint8:
        return picture
    if not picture.is_floating_point() or not (float(picture.min()) >= 0 and float(picture.max()) <= 1):
        raise DataError(f"{fault}; expected uint8, or float with values in 0..1.")
    return (picture * 255).round().to(torch.uint8)


def _enlarged(detections: sv.Detections, scale: float, size: tuple[int, int]) -> sv.Detections:
    """Scale boxes and masks to a drawing of ``size`` (width, height), best last, so that it lies on top."""
    order = np.argsort(_scores(detections), kind="stable")
    masks = None
    if detections.mask is not None:
        masks = [Image.fromarray(np.asarray(detections.mask[index])).resize(size) for index in order]
    return sv.Detections(
        xyxy=detections.xyxy[order] * scale,
        mask=None if masks is None else np.array([np.asarray(mask) for mask in masks], bool).reshape(-1, *size[::-1]),
        confidence=_scores(detections)[order],
        class_id=None if detections.class_id is None else detections.class_id[order],
        data={"class_name": _names(detections)[order]},
    )


def _names(detections: sv.Detections) -> np.ndarray[Any, Any]:
    return np.asarray(detections.data["class_name"])


def _scores(detections: sv.Detections) -> np.ndarray[Any, Any]:
    return np.ones(len(detections)) if detections.confidence is None else detections.confidence


def _readable_on(color: sv.Color) -> sv.Color:
    brightness = 0.299 * color.r + 0.587 * color.g + 0.114 * color.b
    return sv.Color.BLACK if brightness > 140 else sv.Color.WHITE

"""Detect objects by their names: one class, from a model folder and images to ``supervision.Detections``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import supervision as sv
import torch
from torch import Tensor

from ezsd.detector.model_folder import ModelConfig, load_model, norms_of_folder
from ezsd.detector.rcnn import Rcnn
from ezsd.detector.roi_heads import Detections
from ezsd.errors import RecipeError
from ezsd.inference.batching import detect_images, encode_mask
from ezsd.inference.drawing import names_of, scores_of
from ezsd.inference.inputs import ImageInput, read_any, vocabulary_names
from ezsd.teacher import Teacher, load_teacher, text_embeddings

_READ_AT_ONCE = 8  # batches; images of like size among them are batched together


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
        images: ImageInput,
        vocabulary: Sequence[str] | str | None = ...,
        threshold: float = ...,
        batch_size: int = ...,
    ) -> sv.Detections: ...
    @overload
    def __call__(
        self,
        images: list[Any] | tuple[Any, ...],
        vocabulary: Sequence[str] | str | None = ...,
        threshold: float = ...,
        batch_size: int = ...,
    ) -> list[sv.Detections]: ...
    def __call__(
        self,
        images: ImageInput | list[Any] | tuple[Any, ...],
        vocabulary: Sequence[str] | str | None = None,
        threshold: float = 0.3,
        batch_size: int = 4,
    ) -> sv.Detections | list[sv.Detections]:
        """Find objects. One image in, one result out; a list in, a list out.

        Args:
            images: a path, a PIL image, an array [H, W, 3] uint8 RGB or a tensor [3, H, W] (uint8, or float in
                0..1), or a list of them. Images from files are turned upright as their EXIF says.
            vocabulary: names to look for; text with commas ("cat, traffic cone") is a list too;
                None = the base and novel names of the model.
            threshold: detections with a lower score are left out.
            batch_size: images at a time; it changes the speed alone.

        Returns:
            boxes xyxy in pixels of the image, best first; ``class_id`` is the index in the vocabulary,
            ``data["class_name"]`` the name; masks when the model makes them.

        Raises:
            RecipeError: the vocabulary, the threshold or the batch size cannot be used.
            DataError: an image cannot be read.
        """
        if not 0 <= threshold <= 1:
            raise RecipeError(f"threshold {threshold}: expected a score between 0 and 1, as in 0.3.")
        if batch_size < 1:
            raise RecipeError(f"batch_size {batch_size}: expected at least 1.")
        names = vocabulary_names(vocabulary, self.config.names)
        text = self.embed(names)
        listed = images if isinstance(images, (list, tuple)) else [images]
        results = []
        for start in range(0, len(listed), _READ_AT_ONCE * batch_size):
            loaded = [read_any(image) for image in listed[start : start + _READ_AT_ONCE * batch_size]]
            found = detect_images(self.model, loaded, text, batch_size)
            by_index = {index: _to_supervision(detections, names, threshold) for index, detections in found}
            results += [by_index[index] for index in range(len(loaded))]
        return results if listed is images else results[0]

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


def detections_json(detections: sv.Detections) -> list[dict[str, Any]]:
    """Return plain values, best first: name, score, box (xyxy, pixels) and, when there are masks, mask (COCO RLE)."""
    masks = [None] * len(detections) if detections.mask is None else list(detections.mask)
    columns = zip(names_of(detections), scores_of(detections), detections.xyxy, masks, strict=True)
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

"""The detector for users: loads a model folder and returns ``supervision.Detections`` for images."""

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
from ezsd.inference.second_opinion import Reading, SecondOpinion
from ezsd.recipe import EvaluateConfig
from ezsd.teacher import Teacher, load_teacher, text_embeddings

_READ_AT_ONCE = 8  # batches; images of the same padded size are batched together


class Detector:
    """A trained detector for any vocabulary.

    Examples:
        >>> detector = Detector.load("runs/pocket/train/model")
        >>> detections = detector("street.jpg", ["cat", "traffic cone"])
        >>> detections["class_name"], detections.confidence, detections.xyxy

    Args:
        model: The detector network.
        config: The configuration in the model folder.
        known: [C, D], the text embeddings of ``config.names``.
        norms: The file with the adapted norm parameters of the teacher, if any.
    """

    def __init__(
        self, model: Rcnn | SecondOpinion, config: ModelConfig, known: Tensor, norms: Path | None = None
    ) -> None:
        self.model = model.eval()
        self.config = config
        self._embeddings: dict[str, Tensor] = dict(zip(config.names, known.float().cpu(), strict=True))
        self._norms = norms
        self._teacher: Teacher | None = None
        self._lock = threading.Lock()  # a server calls from several threads

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None, second_opinion: Reading | None = None) -> Detector:
        """Load a model folder (``train/model`` in a run folder).

        Args:
            folder: The folder with model.safetensors and config.json.
            device: The device, such as "cpu" or "cuda". None selects a GPU if available.
            second_opinion: How the teacher reads detections to score them again: "dense" or "crops"; see
                :class:`ezsd.inference.second_opinion.SecondOpinion`. None: the teacher is not used.

        Raises:
            ArtifactError: The folder is not a valid model folder.
            MissingExtraError: A second opinion is asked for, and the packages of the teacher are not installed.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model, config, known = load_model(Path(folder), device)
        norms = norms_of_folder(Path(folder))
        if second_opinion is None:
            return cls(model, config, known, norms)
        teacher = load_teacher(config.teacher, device, norms)
        base, powers = known[: len(config.base)], EvaluateConfig().opinion_powers
        rescored = SecondOpinion(model, teacher, second_opinion, powers, base, config.dense_sides)
        return cls(rescored, config, known, norms)

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
        """Detect objects in an image, or in a list of images.

        Args:
            images: A path, a PIL image, a uint8 RGB array [H, W, 3], a tensor [3, H, W] (uint8, or float in 0..1), or
                a list of them. The EXIF orientation of files and PIL images is applied.
            vocabulary: The names to detect, as a list or a comma-separated string ("cat, traffic cone"). None uses the
                base and novel names of the model.
            threshold: The minimum score of a detection.
            batch_size: The maximum number of images per batch. It affects only the speed.

        Returns:
            The detections of an image, or a list of them if ``images`` is a list. Boxes are xyxy in absolute pixels,
            in descending order of score. ``class_id`` is the index in the vocabulary and ``data["class_name"]`` the
            name. Masks are included if the model predicts them.

        Raises:
            RecipeError: The vocabulary, the threshold or the batch size is invalid.
            DataError: An image cannot be read.
        """
        if not 0 <= threshold <= 1:
            raise RecipeError(f"threshold {threshold}: expected a score between 0 and 1, such as 0.3.")
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
        """Return the text embeddings [C, D] of a vocabulary (float32, CPU). Embeddings are cached.

        The embeddings of the model's own names are stored in the model folder. Other names are encoded by the teacher,
        which is loaded on first use.

        Args:
            vocabulary: The names, as in :meth:`__call__`.

        Raises:
            RecipeError: The vocabulary is invalid.
            MissingExtraError: The packages of the teacher are not installed.
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
    """Convert detections to JSON values: name, score, box (xyxy, absolute pixels), and mask (COCO RLE) if available."""
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

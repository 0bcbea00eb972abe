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

from ezsd.detector.model_config import ModelConfig
from ezsd.detector.model_folder import CONFIG, load_model, norms_of_folder
from ezsd.detector.rcnn import Rcnn
from ezsd.detector.roi_heads import Detections
from ezsd.hub.download import download_model, is_repository
from ezsd.inference.batching import detect_images
from ezsd.inference.calls import Pixels, detect_all
from ezsd.inference.inputs import ImageInput, vocabulary_names
from ezsd.inference.second_opinion import Reading, SecondOpinion
from ezsd.recipe import EvaluateConfig
from ezsd.run_folder import RunFolder
from ezsd.teacher import Teacher, load_teacher, text_embeddings

_NEW_NAMES = 10_000  # with kept embeddings; a service can be asked for any number of names


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
        self._known: dict[str, Tensor] = dict(zip(config.names, known.float().cpu(), strict=True))
        self._new: dict[str, Tensor] = {}
        self._norms = norms
        self._teacher: Teacher | None = None
        self._lock = threading.Lock()  # a server calls from several threads

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None, second_opinion: Reading | None = None) -> Detector:
        """Load a model folder, the model of a run folder (``train/model``), or a model of the hub.

        Args:
            folder: The folder with model.safetensors and config.json; a run folder; or a repository of the hub,
                "org/name" or "org/name@revision". A commit as revision pins the content.
            device: The device, such as "cpu" or "cuda". None selects a GPU if available.
            second_opinion: How the teacher reads detections to score them again: "dense" or "crops"; see
                :class:`ezsd.inference.second_opinion.SecondOpinion`. None: the teacher is not used.

        Raises:
            ArtifactError: The folder is not a valid model folder, or the repository cannot be used.
            MissingExtraError: A second opinion is asked for, and the packages of the teacher are not installed.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        given = download_model(str(folder)) if is_repository(str(folder)) else Path(folder)
        inner = RunFolder(given).model
        path = inner if (inner / CONFIG).is_file() else given
        model, config, known = load_model(path, device)
        norms = norms_of_folder(path)
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
        names = self.vocabulary(vocabulary)
        text = self.embed(names)
        return detect_all(images, threshold, batch_size, lambda pixels: self._detect(pixels, names, text, batch_size))

    def vocabulary(self, vocabulary: Sequence[str] | str | None = None) -> tuple[str, ...]:
        """Return the names of a vocabulary; None = the base and novel names of the model.

        Raises:
            RecipeError: The vocabulary is invalid.
        """
        return vocabulary_names(vocabulary, self.config.names)

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
        names = self.vocabulary(vocabulary)
        rows = {name: row for name in names if (row := self._known.get(name, self._new.get(name))) is not None}
        unknown = [name for name in names if name not in rows]
        if unknown:
            rows |= self._encode(unknown)
        return torch.stack([rows[name] for name in names])

    def _encode(self, names: list[str]) -> dict[str, Tensor]:
        """Embed names with the teacher, and keep the embeddings of the newest names."""
        with self._lock:
            if self._teacher is None:
                self._teacher = load_teacher(self.config.teacher, self._device, norms=self._norms)
            rows = dict(zip(names, text_embeddings(self._teacher, names, self.config.prompt), strict=True))
            self._new |= rows
            while len(self._new) > _NEW_NAMES:
                del self._new[next(iter(self._new))]
        return rows

    def _detect(
        self, pixels: Sequence[Pixels], names: Sequence[str], text: Tensor, batch_size: int
    ) -> list[sv.Detections]:
        """Return all detections of images of any size. They do not depend on the batch size."""
        images = [torch.from_numpy(each).permute(2, 0, 1) for each in pixels]
        found = dict(detect_images(self.model, images, text, batch_size))
        return [_to_supervision(found[index], names) for index in range(len(images))]

    @property
    def _device(self) -> str:
        return str(next(self.model.parameters()).device)


def _to_supervision(found: Detections, names: Sequence[str]) -> sv.Detections:
    labels = found.labels.cpu().numpy()
    return sv.Detections(
        xyxy=found.boxes.float().cpu().numpy(),
        mask=None if found.masks is None else found.masks.cpu().numpy(),
        confidence=found.scores.float().cpu().numpy(),
        class_id=labels.astype(int),
        data={"class_name": np.array(names, dtype=str)[labels]},
    )

"""A detector exported with ``ezsd export``: numpy, Pillow and onnxruntime, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import supervision as sv
from PIL import Image

from ezsd.data.categories import joined_names
from ezsd.detector.model_config import ModelConfig
from ezsd.errors import ArtifactError, RecipeError
from ezsd.inference.calls import Array, Pixels, call, with_names
from ezsd.inference.inputs import ImageInput
from ezsd.inference.names_file import Embeddings, TextInput, names_file_of, read_names, text_input
from ezsd.inference.near_names import NearNames
from ezsd.inference.onnx_file import SMALLER, open_onnx, run_graph
from ezsd.inference.sources import open_source
from ezsd.inference.stream import Found, View, detect_stream
from ezsd.inference.tiling import Tiling
from ezsd.inference.view import Thresholds
from ezsd.inference.vocabulary import Names, VocabularyInput, parse_vocabulary
from ezsd.utils.format import counted, shell_quoted
from ezsd.utils.memory import memory_errors
from ezsd.utils.resize import padded_side, resized_sides, same_size_batches

_LISTED = 5  # names in a message


class OnnxDetector:
    """A detector from an ONNX file, for any vocabulary of its names file. Neither torch nor a teacher is needed.

    A name has the phrases that it was exported with; the best of them gives its score.

    Examples:
        >>> detector = OnnxDetector.load("model.onnx")
        >>> detections = detector("street.jpg", ["cat", "traffic cone"])
        >>> detections["class_name"], detections.confidence, detections.xyxy

    Args:
        session: The session of onnxruntime.
        config: The configuration of the model that was exported.
        embeddings: The text embeddings [K, D] of each name.
        vocabulary: The names of a model that was exported with a fixed vocabulary; else None.
        thresholds: The calibrated thresholds of the model that was exported; None = 0.3 for every name.
    """

    def __init__(
        self,
        session: Any,
        config: ModelConfig,
        embeddings: Embeddings,
        vocabulary: Sequence[str] | None = None,
        thresholds: Thresholds | None = None,
    ) -> None:
        self.config = config
        self.thresholds = thresholds or Thresholds()
        self._session = session
        self._embeddings = embeddings
        self._fixed = None if vocabulary is None else tuple(vocabulary)
        self._default: tuple[str, ...] | None = None
        self._near = NearNames()

    @classmethod
    def load(cls, path: str | Path, device: str | None = None, threads: int = 0) -> OnnxDetector:
        """Load an ONNX file and the names file beside it.

        Args:
            path: The ONNX file.
            device: "cpu", "cuda", or "cuda:1" (the second GPU). None or "auto": a GPU if onnxruntime can use one.
            threads: CPU threads of the network; 0 = one for each core.

        Raises:
            ArtifactError: A file is missing, damaged, or was not written by ``ezsd export``.
            RecipeError: The device is unknown or not available.
            MissingExtraError: onnxruntime is not installed.
        """
        path = Path(path)
        file = open_onnx(path, device, threads)
        if file.vocabulary is not None:
            return cls(file.session, file.config, {}, file.vocabulary, file.thresholds)
        names = names_file_of(path)
        if not names.is_file():
            raise ArtifactError(
                f"{names} is missing: the text embeddings of names. Copy it next to {path.name}, or write it with: "
                f"ezsd export MODEL {shell_quoted(names)}"
            )
        embeddings = read_names(names, file.model_id, file.config.embedding_dim)
        return cls(file.session, file.config, embeddings, None, file.thresholds)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that can be detected: of the names file, or of the fixed vocabulary."""
        return tuple(self._embeddings) if self._fixed is None else self._fixed

    @overload
    def __call__(
        self,
        images: ImageInput,
        vocabulary: VocabularyInput | None = ...,
        threshold: float | None = ...,
        batch_size: int = ...,
        *,
        multi_label: bool = ...,
        tiling: Tiling | None = ...,
    ) -> sv.Detections: ...
    @overload
    def __call__(
        self,
        images: list[Any] | tuple[Any, ...],
        vocabulary: VocabularyInput | None = ...,
        threshold: float | None = ...,
        batch_size: int = ...,
        *,
        multi_label: bool = ...,
        tiling: Tiling | None = ...,
    ) -> list[sv.Detections]: ...
    def __call__(
        self,
        images: ImageInput | list[Any] | tuple[Any, ...],
        vocabulary: VocabularyInput | None = None,
        threshold: float | None = None,
        batch_size: int = 1,
        *,
        multi_label: bool = False,
        tiling: Tiling | None = None,
    ) -> sv.Detections | list[sv.Detections]:
        """Detect objects in an image, or in a list of images; see :meth:`ezsd.Detector.__call__`.

        Raises:
            RecipeError: The vocabulary, the threshold or the batch size is invalid, or a name has no text embedding.
            DataError: An image cannot be read.
        """
        names = self.vocabulary(vocabulary).names
        view = View(names, self.thresholds.of_call(threshold), multi_label, tiling=tiling)
        text = self._text(names)
        return call(images, view, batch_size, lambda pixels: self._detect(pixels, names, text, batch_size))

    def stream(
        self,
        source: Any,
        vocabulary: VocabularyInput | None = None,
        threshold: float | None = None,
        batch_size: int = 1,
        *,
        multi_label: bool = False,
        track: bool = False,
        tiling: Tiling | None = None,
        stride: int = 1,
        allow_network: bool = False,
    ) -> Iterator[Found]:
        """Detect in everything that a source contains; see :meth:`ezsd.Detector.stream`."""
        names = self.vocabulary(vocabulary).names
        text, opened = self._text(names), open_source(source, allow_network=allow_network, stride=stride)
        view = View(names, self.thresholds.of_call(threshold), multi_label, track, tiling)
        return detect_stream(lambda pixels: self._detect(pixels, names, text, batch_size), opened, view, batch_size)

    def set_vocabulary(self, vocabulary: VocabularyInput | None) -> Names:
        """Set the vocabulary of calls without one, and return it. None sets the names of the model.

        Raises:
            RecipeError: The vocabulary is invalid, or a name has no text embedding.
        """
        self._default = None
        names = self.vocabulary(vocabulary)
        self._default = names.names
        return names

    def vocabulary(self, vocabulary: VocabularyInput | None = None) -> Names:
        """Return a vocabulary; None = that of :meth:`set_vocabulary`, or the names of the model.

        Raises:
            RecipeError: The vocabulary is invalid, has synonyms or templates, or a name has no text embedding.
        """
        own = self.config.names if self._fixed is None else self._fixed
        given = parse_vocabulary(vocabulary, self._default or own)
        if given.templates or given.phrases != tuple((name,) for name in given.names):
            raise RecipeError(
                "Synonyms and templates need the teacher. Give them to ezsd export, and only names to ONNX models."
            )
        known = set(self.names)
        if unknown := [name for name in given.names if name not in known]:
            raise RecipeError(self._unknown(unknown))
        return given

    def _unknown(self, unknown: Sequence[str]) -> str:
        listed, more = ", ".join(unknown[:_LISTED]), f" and {len(unknown) - _LISTED} more" * (len(unknown) > _LISTED)
        quoted = shell_quoted(joined_names(unknown[:_LISTED]))
        if self._fixed is None:
            return (
                f"No text embedding of {listed}{more}: the names file has "
                f"{counted(len(self._embeddings), 'other name')}. "
                f"Add names with: ezsd export MODEL MODEL.names.npz --vocabulary {quoted}"
            )
        return (
            f"{listed}{more}: not among the {counted(len(self._fixed), 'name that is', 'names that are')} baked into "
            f"the model. For other names, export it without --baked: ezsd export MODEL model.onnx --vocabulary {quoted}"
        )

    def knows(self, vocabulary: VocabularyInput | None = None) -> bool:
        """Return True: no call waits for a teacher; see :meth:`ezsd.Detector.knows`.

        Raises:
            RecipeError: As in :meth:`vocabulary`.
        """
        self.vocabulary(vocabulary)
        return True

    def embed(self, vocabulary: VocabularyInput | None = None) -> Array:
        """Return the text embeddings [P, D] of a vocabulary, float32: of all phrases of its names.

        Raises:
            RecipeError: The vocabulary is invalid, a name is not in the names file, or the names are baked.
        """
        text = self._text(self.vocabulary(vocabulary).names)
        if text is None:
            raise RecipeError("A baked model has no text embeddings beside its graph. Export it without --baked.")
        return text.text_embeddings

    def _text(self, names: Sequence[str]) -> TextInput | None:
        if self._fixed is not None:
            return None
        rows = [self._embeddings[name] for name in names]
        self._near.note(parse_vocabulary(list(names), ()), np.stack([row[0] for row in rows]))
        return text_input(rows)

    def _detect(
        self, images: Sequence[Pixels], names: Sequence[str], text: TextInput | None, batch_size: int
    ) -> list[sv.Detections]:
        """Return all detections of images of any size. They do not depend on the batch size."""
        results: dict[int, sv.Detections] = {}
        places = {name: place for place, name in enumerate(names)}
        # The graph numbers all baked names; -1 is no detection, or a name that is not asked for.
        label_of = np.array([places.get(name, -1) for name in self._fixed or names] + [-1])
        image_size = self.config.detector.image_size
        with memory_errors(SMALLER):
            resized = [resize_pixels(image, image_size) for image in images]
        for batch in same_size_batches([image.shape[:2] for image in images], image_size, batch_size):
            found = run_graph(self._session, network_input([resized[index] for index in batch], text))
            _check_labels(found[1], len(label_of) - 1)
            for row, index in enumerate(batch):
                boxes, labels, *others = (values[row] for values in found)
                own = _Found(boxes, label_of[labels], *others)
                results[index] = own.in_image(images[index].shape[:2], resized[index].shape[:2], names)
        return [results[index] for index in range(len(images))]


def _check_labels(labels: Array, names: int) -> None:
    if labels.size and not -1 <= labels.min() <= labels.max() < names:
        raise ArtifactError("The model was not written by ezsd export: its graph returns labels that no name has.")


class _Found:
    """The outputs of the graph for one image; rows without a detection have label -1.

    Args:
        boxes: [N, 4] xyxy, pixels of the resized image.
        labels: [N] int64.
        scores: [N].
        masks: [N, S, S] probabilities inside the boxes, if the model predicts them.
    """

    def __init__(self, boxes: Array, labels: Array, scores: Array, masks: Array | None = None) -> None:
        kept = labels >= 0
        self.boxes, self.labels, self.scores = boxes[kept], labels[kept], scores[kept]
        self.masks = None if masks is None else masks[kept]

    def in_image(self, size: tuple[int, int], resized: tuple[int, int], names: Sequence[str]) -> sv.Detections:
        """Return the detections in pixels of the image.

        Args:
            size: Height and width of the image.
            resized: Height and width of the resized image.
            names: The vocabulary.
        """
        scale = np.array([size[1] / resized[1], size[0] / resized[0]] * 2, dtype=np.float32)
        limits = np.array([size[1], size[0]] * 2, dtype=np.float32)
        boxes = (self.boxes * scale).clip(0, limits)
        return with_names(boxes, self.labels, self.scores, self.masks, names)


def network_input(images: Sequence[Pixels], text: TextInput | None) -> dict[str, Array]:
    """Return the inputs of the graph for a batch.

    Args:
        images: Resized images (see :func:`resize_pixels`); smaller ones are padded at the right and bottom.
        text: The names; None = the graph has a fixed vocabulary.
    """
    height, width = (padded_side(max(image.shape[axis] for image in images)) for axis in (0, 1))
    batch = np.zeros((len(images), 3, height, width), dtype=np.uint8)
    for place, image in enumerate(images):
        batch[place, :, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
    inputs: dict[str, Array] = {"images": batch, "sizes": np.array([image.shape[:2] for image in images], np.int64)}
    return inputs if text is None else inputs | text._asdict()


def resize_pixels(image: Pixels, image_size: tuple[int, int]) -> Pixels:
    """Resize an image [H, W, 3] as the detector does; see :func:`ezsd.utils.resize.resize_scale`."""
    height, width = resized_sides(image.shape[:2], image_size)
    if (height, width) == image.shape[:2]:
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))

"""The detector for users: loads a model folder and returns ``supervision.Detections`` for images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import supervision as sv
import torch
from torch import Tensor

from ezsd.detector.detections import Detections, best_phrases
from ezsd.detector.model_config import ModelConfig
from ezsd.detector.model_folder import CONFIG, load_model
from ezsd.detector.rcnn import Rcnn
from ezsd.errors import RecipeError
from ezsd.hub.download import download_model, is_repository
from ezsd.inference.batching import detect_images
from ezsd.inference.calls import Pixels, call, with_names
from ezsd.inference.embedded_names import AnyVocabulary, Example, Vocabulary, examples_of
from ezsd.inference.inputs import ImageInput, read_any
from ezsd.inference.model_teacher import ModelTeacher, teacher_of_model
from ezsd.inference.phrase_embeddings import PhraseEmbeddings
from ezsd.inference.second_opinion import Reading, SecondOpinion
from ezsd.inference.sources import open_source
from ezsd.inference.stream import Found, View, detect_stream
from ezsd.inference.tiling import Tiling
from ezsd.inference.view import Thresholds, read_thresholds
from ezsd.inference.vocabulary import parse_vocabulary
from ezsd.recipe import EvaluateConfig
from ezsd.run_folder import RunFolder
from ezsd.teacher.base import with_dense_reading
from ezsd.utils.device import usable_device
from ezsd.utils.precision import PrecisionChoice, usable_precision

BACKGROUND = "background"


class Detector:
    """A trained detector for any vocabulary.

    Examples:
        >>> detector = Detector.load("runs/pocket")
        >>> detections = detector("street.jpg", ["cat", "traffic cone"])
        >>> detections["class_name"], detections.confidence, detections.xyxy
        >>> for frame, detections, _ in detector.stream("videos/street.mp4", ["cat"]):
        ...     print(frame.name, len(detections))

    Args:
        model: The detector network.
        config: The configuration in the model folder.
        known: [C, D], the text embeddings of ``config.names``.
        teacher: The teacher for other names; it is loaded when it is needed.
        thresholds: The calibrated thresholds; None = 0.3 for every name.
    """

    def __init__(
        self,
        model: Rcnn | SecondOpinion,
        config: ModelConfig,
        known: Tensor,
        teacher: ModelTeacher,
        thresholds: Thresholds | None = None,
    ) -> None:
        self.model = model.eval()
        self._rcnn: Rcnn = model.model if isinstance(model, SecondOpinion) else model
        self.config = config
        self.thresholds = thresholds or Thresholds()
        self._phrases = PhraseEmbeddings(config, known, teacher)
        self._default: AnyVocabulary | None = None

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str | None = None,
        second_opinion: Reading | None = None,
        teacher: str | None = None,
        precision: PrecisionChoice = "fp32",
    ) -> Detector:
        """Load a model folder, the model of a run folder (``train/model``), or a model of the hub.

        Args:
            folder: The folder with model.safetensors and config.json; a run folder; or a repository of the hub,
                "org/name" or "org/name@revision". A commit as revision pins the content.
            device: "cpu", "cuda", "cuda:1", "mps", or "auto" (also None), which selects a GPU if available.
            second_opinion: How the teacher reads detections to score them again: "dense" or "crops"; see
                :class:`ezsd.inference.second_opinion.SecondOpinion`. None: the teacher is not used.
            teacher: The teacher, as in a recipe; needed for names that the model does not know, if the teacher that the
                model names is not here or is not loaded only because the model names it (docs/hub.md).
            precision: "fp32"; "bf16", which is faster on many CPUs and on GPUs and changes scores a little; "fp16" on
                GPUs; or "auto", the fastest on this machine. The second opinion is always computed in fp32.

        Raises:
            ArtifactError: The folder is not a valid model folder, the repository cannot be used, or the teacher is
                needed and must be named, or is not that of the model.
            RecipeError: The device or the precision is not available.
            MissingExtraError: A second opinion is asked for, and the packages of the teacher are not installed.
        """
        place = usable_device(device or "auto")
        number_format = usable_precision(precision, place)
        from_hub = is_repository(str(folder))
        given = download_model(str(folder)) if from_hub else Path(folder)
        inner = RunFolder(given).model
        path = inner if (inner / CONFIG).is_file() else given
        model, config, known = load_model(path, place)
        model.precision = number_format
        source = teacher_of_model(path, config, known, teacher, from_hub)
        thresholds = read_thresholds(path, second_opinion or "none")
        if second_opinion is None:
            return cls(model, config, known, source, thresholds)
        reader = with_dense_reading(source.load(place), config.dense_reading)
        base, powers = known[: len(config.base)], EvaluateConfig().opinion_powers
        rescored = SecondOpinion(model, reader, second_opinion, powers, base, config.dense_sides)
        return cls(rescored, config, known, source, thresholds)

    @overload
    def __call__(
        self,
        images: ImageInput,
        vocabulary: AnyVocabulary | None = ...,
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
        vocabulary: AnyVocabulary | None = ...,
        threshold: float | None = ...,
        batch_size: int = ...,
        *,
        multi_label: bool = ...,
        tiling: Tiling | None = ...,
    ) -> list[sv.Detections]: ...
    def __call__(
        self,
        images: ImageInput | list[Any] | tuple[Any, ...],
        vocabulary: AnyVocabulary | None = None,
        threshold: float | None = None,
        batch_size: int = 4,
        *,
        multi_label: bool = False,
        tiling: Tiling | None = None,
    ) -> sv.Detections | list[sv.Detections]:
        """Detect objects in an image, or in a list of images. For folders, patterns and videos see :meth:`stream`.

        Args:
            images: A path, a PIL image, a uint8 RGB array [H, W, 3], a tensor [3, H, W] (uint8, or float in 0..1), or
                a list of them. The EXIF orientation of files and PIL images is applied.
            vocabulary: The names to detect: a list, a comma-separated text ("cat, traffic cone"), a mapping of names to
                synonyms, a file, or a :class:`Vocabulary`. None uses that of :meth:`set_vocabulary`, or the base and
                novel names of the model.
            threshold: The minimum score of a detection. None uses the calibrated thresholds of the model.
            batch_size: The maximum number of images per batch. It affects only the speed.
            multi_label: Keep all names of an object; otherwise only the best, and the others in
                ``data["other_names"]``.
            tiling: Detect in tiles of large images, too.

        Returns:
            The detections of an image, or a list of them if ``images`` is a list. Boxes are xyxy in absolute pixels,
            in descending order of score. ``class_id`` is the index in the vocabulary and ``data["class_name"]`` the
            name. If the model predicts masks, ``mask`` is a ``supervision.CompactMask``, which needs little memory:
            ``mask[i]`` is [H, W] bool, ``numpy.asarray(mask)`` [N, H, W].

        Raises:
            RecipeError: The vocabulary, the threshold or the batch size is invalid.
            DataError: An image cannot be read (:meth:`stream` skips such images), or is a folder, a pattern, a video or
                the like.
        """
        known = self.vocabulary(vocabulary)
        view = View(known.names, self.thresholds.of_call(threshold), multi_label, tiling=tiling)
        return call(images, view, batch_size, lambda pixels: self._detect(pixels, known, batch_size))

    def stream(
        self,
        source: Any,
        vocabulary: AnyVocabulary | None = None,
        threshold: float | None = None,
        batch_size: int = 4,
        *,
        multi_label: bool = False,
        track: bool = False,
        tiling: Tiling | None = None,
        stride: int = 1,
        allow_network: bool = False,
    ) -> Iterator[Found]:
        """Detect in everything that a source contains. Images are decoded in the background and batched.

        Args:
            source: Anything that :func:`ezsd.open_source` takes: files, folders (with all folders in them), patterns,
                videos, cameras, URLs, images in memory, lists and generators of these. Or what it returns.
            vocabulary: As in :meth:`__call__`.
            threshold: As in :meth:`__call__`.
            batch_size: The maximum number of images per batch.
            multi_label: As in :meth:`__call__`.
            track: Give objects numbers (``tracker_id``) that stay the same through a video.
            tiling: As in :meth:`__call__`.
            stride: Use every n-th frame of videos.
            allow_network: Whether URLs may be opened. Both are ignored for a source that is open.

        Yields:
            The image, its detections, and the best score below the threshold. Images that cannot be read are left out,
            logged, and listed in the ``problems`` of the source.

        Raises:
            RecipeError: The vocabulary, the threshold or the batch size is invalid.
            DataError: The source does not exist or has no images, or is a URL that is not allowed.
            MissingExtraError: A package for videos or tracking is missing.
        """
        known = self.vocabulary(vocabulary)
        view = View(known.names, self.thresholds.of_call(threshold), multi_label, track, tiling)
        opened = open_source(source, allow_network=allow_network, stride=stride)
        return detect_stream(lambda pixels: self._detect(pixels, known, batch_size), opened, view, batch_size)

    def set_vocabulary(self, vocabulary: AnyVocabulary | None) -> Vocabulary:
        """Set the vocabulary of calls without one, and return it. None sets the base and novel names of the model.

        Raises:
            RecipeError: The vocabulary is invalid.
        """
        self._default = None
        self._default = known = self.vocabulary(vocabulary)
        return known

    def vocabulary(self, vocabulary: AnyVocabulary | None = None) -> Vocabulary:
        """Return the names of a vocabulary with their embeddings.

        The embeddings of the model's own names are stored in the model folder. Other names are encoded by the teacher,
        which is loaded on first use; their embeddings are cached in memory and on disk.

        Args:
            vocabulary: As in :meth:`__call__`.

        Raises:
            RecipeError: The vocabulary is invalid.
            ArtifactError: Names are new, and the teacher must be named; see :meth:`load`.
            MissingExtraError: The packages of the teacher are not installed.
        """
        vocabulary = self._default if vocabulary is None else vocabulary
        if isinstance(vocabulary, Vocabulary):
            return vocabulary
        given = parse_vocabulary(vocabulary, self.config.names)
        owners = [index for index, phrases in enumerate(given.phrases) for _ in phrases]
        return Vocabulary(given.names, self._phrases.of(given, self._device), torch.tensor(owners))

    def knows(self, vocabulary: AnyVocabulary | None = None) -> bool:
        """Return whether the embeddings of a vocabulary are in memory, so that a call does not wait for the teacher.

        Raises:
            RecipeError: The vocabulary is invalid.
        """
        vocabulary = self._default if vocabulary is None else vocabulary
        if isinstance(vocabulary, Vocabulary):
            return True
        return self._phrases.has(parse_vocabulary(vocabulary, self.config.names))

    def embed(self, vocabulary: AnyVocabulary | None = None) -> Tensor:
        """Return the text embeddings [P, D] of a vocabulary (float32, CPU); see :meth:`vocabulary`."""
        return self.vocabulary(vocabulary).embeddings

    def vocabulary_from_crops(self, examples: Mapping[str, Example]) -> Vocabulary:
        """Make a vocabulary from examples: boxes in images, for objects without a good name.

        The detector itself embeds the boxes. Add the result to a vocabulary of names with ``+``.

        Args:
            examples: For each name, an image and a box ``[image, [x1, y1, x2, y2]]``, or a list of them. Images as in
                :meth:`__call__`; boxes are xyxy in absolute pixels.

        Raises:
            RecipeError: A name is invalid, or an example is not an image and a box.
            DataError: An image cannot be read.
        """
        names = parse_vocabulary(list(examples), ()).names
        rows: list[Tensor] = []
        owners: list[int] = []
        for index, (name, given) in enumerate(examples.items()):
            for image, box in examples_of(name, given):
                rows.append(self._embed_box(image, box, name)[0])
                owners.append(index)
        return Vocabulary(names, torch.stack(rows), torch.tensor(owners))

    def explain(
        self, image: ImageInput, box: Sequence[float], vocabulary: AnyVocabulary | None = None, top: int = 5
    ) -> list[tuple[str, float]]:
        """Return the nearest names of a region, with probabilities.

        Args:
            image: As in :meth:`__call__`.
            box: xyxy in absolute pixels.
            vocabulary: As in :meth:`__call__`.
            top: The number of names.

        Returns:
            Names and probabilities, best first. "background" is among them if it is near.

        Raises:
            RecipeError: The vocabulary or the box is invalid.
            DataError: The image cannot be read.
        """
        known = self.vocabulary(vocabulary)
        region = self._embed_box(image, box, "box").to(self._device)
        with torch.inference_mode():
            logits = self._rcnn.roi_heads.box_predictor(region, known.embeddings.to(self._device))
            logits, _ = best_phrases(logits, known.owners.to(self._device))
        probabilities = logits.softmax(dim=1)[0]
        best = probabilities.topk(min(top, len(probabilities)))
        names = (BACKGROUND, *known.names)
        return [(names[row], value) for row, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)]

    def _detect(self, pixels: Sequence[Pixels], vocabulary: Vocabulary, batch_size: int) -> list[sv.Detections]:
        """Return all detections of images [H, W, 3], however low their scores are."""
        images = [torch.from_numpy(each).permute(2, 0, 1) for each in pixels]
        owners = vocabulary.owners if vocabulary.has_synonyms else None
        found = dict(detect_images(self.model, images, vocabulary.embeddings, batch_size, owners))
        return [_to_supervision(found[index], vocabulary.names) for index in range(len(images))]

    def _embed_box(self, image: ImageInput, box: Sequence[float], name: str) -> Tensor:
        pixels = read_any(image)
        height, width = pixels.shape[1:]
        try:
            corners = torch.tensor([float(side) for side in box]).reshape(4)
        except (TypeError, ValueError, RuntimeError):
            raise RecipeError(f"{name}: the box is {box!r}; expected [x1, y1, x2, y2] in pixels.") from None
        inside = torch.stack([corners[0::2].clamp(0, width), corners[1::2].clamp(0, height)], dim=1).reshape(4)
        if not bool(torch.isfinite(corners).all()) or bool((inside[2:] - inside[:2] < 1).any()):
            raise RecipeError(
                f"{name}: the box {list(box)} has no area inside the image of {width} x {height} pixels; "
                "expected [x1, y1, x2, y2] with x1 < x2 and y1 < y2."
            )
        return self._rcnn.embed_boxes([pixels.to(self._device)], [inside[None]]).float().cpu()

    @property
    def _device(self) -> str:
        return str(next(self._rcnn.parameters()).device)


def _to_supervision(found: Detections, names: Sequence[str]) -> sv.Detections:
    boxes, labels, scores = (part.cpu().numpy() for part in (found.boxes.float(), found.labels, found.scores.float()))
    return with_names(boxes, labels, scores, None if found.masks is None else found.masks.cpu().numpy(), names)

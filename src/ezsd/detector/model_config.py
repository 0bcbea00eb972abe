"""What a model folder says about its model; without torch."""

from __future__ import annotations

from pathlib import PureWindowsPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ezsd.errors import ArtifactError
from ezsd.recipe import TORCHVISION_COCO, DetectorConfig, Pixels, ProposeConfig, renamed_keys

THRESHOLDS = "thresholds.json"  # in a model folder, written by stage evaluate


class ModelConfig(BaseModel):
    """The content of ``config.json`` in a model folder.

    Attributes:
        detector: The architecture.
        embedding_dim: D, the dimension of embeddings.
        masks: Whether the model has a mask branch.
        base: Base names of the split.
        novel: Novel names of the split. The folder contains the text embeddings of base and novel names.
        split: The name of the split.
        setting: ``strict`` (novel names unknown during training), ``named`` (names known), ``few_shot`` (some boxes of
            novel names were used) or ``open`` (other data).
        teacher: The teacher that computes text embeddings of other names.
        adapted: Whether the folder contains adapted norm parameters of the teacher; False in those of earlier versions.
        prompt: The prompt for these text embeddings.
        dense_sides: Long sides (pixels) of the whole image as input of the teacher.
        dense_reading: The teacher's reading of the whole image.
        versions: Versions of the packages used for training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    detector: DetectorConfig
    embedding_dim: int
    masks: bool
    base: tuple[str, ...]
    novel: tuple[str, ...]
    split: str
    setting: str
    teacher: str
    adapted: bool = False
    prompt: str
    dense_sides: Annotated[tuple[Pixels, ...], Field(max_length=9)] = ProposeConfig().dense_sides
    dense_reading: str = ProposeConfig().dense_reading
    versions: dict[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Base names, then novel names."""
        return self.base + self.novel

    def published(self) -> ModelConfig:
        """Return the config for other machines: folders of this one are replaced by ``PATH``, file names stay."""
        start = self.detector.start_from
        if start not in (None, TORCHVISION_COCO):
            start = _elsewhere(str(start))
        detector = self.detector.model_copy(update={"start_from": start})
        return self.model_copy(update={"teacher": _published_teacher(self.teacher), "detector": detector})


def parse_config(values: Any, where: str) -> ModelConfig:
    """Check the content of ``config.json``.

    Args:
        values: The content, with the keys of this version or of version 0.1.
        where: The source of the values, shown in messages.

    Raises:
        ArtifactError: It is not a model config.
    """
    try:
        return ModelConfig.model_validate({**values, "detector": renamed_keys(values["detector"], "detector")})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(part for part in first["loc"] if isinstance(part, str))
        raise ArtifactError(f"{where} is not a valid model config: {key}: {first['msg']}.") from None
    except (KeyError, TypeError, AttributeError):
        raise ArtifactError(f"{where} is not a valid model config: it has no section detector.") from None


def _published_teacher(teacher: str) -> str:
    kind, _, place = teacher.partition(":")
    architecture, _, weights = place.partition("/")
    if kind == "local-dir":
        return f"{kind}:{_elsewhere(place)}"
    if kind == "open_clip" and any(separator in weights for separator in "/\\"):  # not in tags
        return f"{kind}:{architecture}/{_elsewhere(weights)}"
    return teacher


def _elsewhere(path: str) -> str:
    return f"PATH/{PureWindowsPath(path).name}"  # reads paths of all systems

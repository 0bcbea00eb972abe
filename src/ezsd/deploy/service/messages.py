"""Requests and responses of the service; they make its OpenAPI description."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

from fastapi import HTTPException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ezsd.deploy.service.limits import Limits

Threshold = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_THRESHOLD = "The minimum score of a detection. Default: the calibrated thresholds of the model."


class Refusal(HTTPException):
    """A request that is refused; the response contains the reason as ``detail``."""


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


def _base64_text(value: str) -> str:
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("expected an image file in base64") from None
    return value


class JsonRequest(BaseModel):
    """Images and names as JSON."""

    model_config = ConfigDict(extra="forbid")

    images: list[Annotated[str, AfterValidator(_base64_text)]] = Field(
        min_length=1, description="Image files (JPEG, PNG or WebP), each in base64."
    )
    vocabulary: list[str] | str | None = Field(
        None, description="The names to detect, as a list or separated by commas. Default: the names of the model."
    )
    threshold: Threshold | None = Field(None, description=_THRESHOLD)


class FormRequest(BaseModel):
    """Images and names as a form; described here, read by ``requests.py``."""

    image: list[Annotated[str, Field(json_schema_extra={"format": "binary"})]] = Field(
        min_length=1, description="One or several image files: JPEG, PNG or WebP."
    )
    vocabulary: str | None = Field(
        None, description="The names to detect, separated by commas. Default: the names of the model."
    )
    threshold: Threshold | None = Field(None, description=_THRESHOLD)


class Mask(BaseModel):
    """A mask as compressed COCO RLE."""

    size: tuple[int, int] = Field(description="Height and width in pixels.")
    counts: str


class OtherName(BaseModel):
    """Another name of an object."""

    name: str
    score: float


class Found(BaseModel):
    """One detection."""

    name: str
    score: float
    box: tuple[float, float, float, float] = Field(description="xyxy in pixels of the upright image.")
    mask: Mask | None = None
    other_names: list[OtherName] | None = Field(None, description="Other names of the object, the best first.")


class ImageResult(BaseModel):
    """The detections of one image, in descending order of score."""

    image: str = Field(description="The file name that was sent, or image 1, image 2 and so on.")
    width: int = Field(description="Pixels, after the EXIF orientation is applied.")
    height: int
    detections: list[Found]


class DetectResponse(BaseModel):
    """The detections of a request; ``images`` has the order of the request, ``threshold`` is null by default."""

    vocabulary: list[str]
    threshold: float | None
    images: list[ImageResult]


class LeastScores(BaseModel):
    """The calibrated thresholds of the model."""

    other: float = Field(description="For names that are not in names.")
    names: dict[str, float]


class VocabularyResponse(BaseModel):
    """The names of the model, their thresholds, and the limits of the service."""

    base: list[str] = Field(description="Names that had boxes in training.")
    novel: list[str] = Field(description="Names that had no boxes in training.")
    names: list[str] | None = Field(description="All names that can be asked for; null: any name.")
    thresholds: LeastScores
    limits: Limits


class State(BaseModel):
    """The state of the service."""

    status: str


def problems(**reasons: str) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of refusals: ``problems(s413="The upload is too large.")``."""
    return {int(status[1:]): {"model": Problem, "description": reason} for status, reason in reasons.items()}

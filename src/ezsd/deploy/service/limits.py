"""What a request may cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ezsd.errors import RecipeError

_Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1)]


class Limits(BaseModel):
    """The limits of a service. A request beyond one of them is refused with its reason.

    Attributes:
        upload_mb: Megabytes (10^6 bytes) of one request.
        megapixels: Million pixels of one image.
        images: Images of one request.
        names: Names of one vocabulary; always at least the number of names of the model.
        requests: Requests that wait or are processed at the same time.
        seconds: Seconds that the upload of a request may take, and seconds that it may then wait for its detections.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    upload_mb: _Amount = 20
    megapixels: _Amount = 50
    images: _Count = 16
    names: _Count = 200
    requests: _Count = 64
    seconds: _Amount = 30

    @property
    def upload_bytes(self) -> int:
        """``upload_mb`` in bytes."""
        return round(self.upload_mb * 1e6)

    @property
    def pixels(self) -> int:
        """``megapixels`` in pixels."""
        return round(self.megapixels * 1e6)


def parse_limits(changes: Sequence[str]) -> Limits:
    """Return the default limits with changes such as ``names=50``.

    Raises:
        RecipeError: A change is invalid; all problems together.
    """
    problems = [f"--limit {change}: expected KEY=VALUE, such as names=50." for change in changes if "=" not in change]
    values = dict(change.split("=", 1) for change in changes if "=" in change)
    try:
        limits = Limits.model_validate(values)
    except ValidationError as error:
        problems += [_problem(str(entry["loc"][0]), entry["input"], entry["msg"]) for entry in error.errors()]
    if problems:
        raise RecipeError(problems)
    return limits


def _problem(key: str, value: object, message: str) -> str:
    if key not in Limits.model_fields:
        return f"--limit {key}: unknown limit; expected one of {', '.join(Limits.model_fields)}."
    return f"--limit {key}={value}: {message.replace('Input should be', 'expected')}."

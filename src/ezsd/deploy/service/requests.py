"""Read detection requests: a form (multipart) or JSON."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from fastapi import Request
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from ezsd.data.categories import split_names
from ezsd.deploy.service.limits import Limits
from ezsd.deploy.service.messages import JsonRequest, Refusal, Threshold
from ezsd.deploy.service.uploads import Upload
from ezsd.errors import RecipeError
from ezsd.inference.vocabulary import parse_vocabulary

_FIELDS = ("image", "vocabulary", "threshold")
_NAME_LENGTH = 100
_FIELD_BYTES = 100_000
_Parts: TypeAlias = "tuple[list[Upload], list[str] | str | None, float | None]"


@dataclass(frozen=True)
class DetectRequest:
    """What a client asks for."""

    uploads: list[Upload]
    names: tuple[str, ...]
    threshold: float | None


async def read_request(request: Request, limits: Limits, model_names: Sequence[str]) -> DetectRequest:
    """Read images, names and threshold of a request.

    Args:
        request: The request; its body is read.
        limits: The limits on images and names.
        model_names: The names that are detected by default.

    Raises:
        Refusal: 415: neither multipart/form-data nor application/json; 413: too many images; 422: another problem.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        uploads, vocabulary, threshold = await _from_form(request, limits)
    elif kind == "application/json":
        uploads, vocabulary, threshold = _from_json(await request.body())
    else:
        raise Refusal(415, f"Content-Type {kind[:80]!r}: expected multipart/form-data or application/json.")
    if len(uploads) > limits.images:
        raise Refusal(413, f"{len(uploads)} images in one request; at most {limits.images} are accepted.")
    return DetectRequest(uploads, _names(vocabulary, limits, model_names), threshold)


async def _from_form(request: Request, limits: Limits) -> _Parts:
    try:
        form = await request.form(max_files=limits.images + 1, max_fields=4, max_part_size=_FIELD_BYTES)
    except HTTPException as error:
        raise _refusal_of(error) from None
    except (ValueError, KeyError) as error:  # a malformed boundary or charset
        raise Refusal(422, f"The form cannot be read: {error}.") from None
    try:
        return await _parts_of(form)
    finally:
        await form.close()


async def _parts_of(form: FormData) -> _Parts:
    unknown = sorted(set(form) - set(_FIELDS))
    if unknown:
        raise Refusal(422, f"Unknown field {unknown[0][:80]!r}: expected {', '.join(_FIELDS)}.")
    files = form.getlist("image")
    if not files or not all(isinstance(file, UploadFile) for file in files):
        raise Refusal(422, "image: expected one or several image files (JPEG, PNG or WebP).")
    texts = {name: form.getlist(name) for name in _FIELDS[1:]}
    for name, values in texts.items():
        if len(values) > 1 or not all(isinstance(value, str) for value in values):
            raise Refusal(422, f"{name}: expected one text.")
    uploads = [
        Upload(_readable(file.filename) or f"image {place}", await file.read(), (file.content_type or "").lower())
        for place, file in enumerate(files, start=1)
        if isinstance(file, UploadFile)
    ]
    return uploads, _only(texts["vocabulary"]), _threshold(_only(texts["threshold"]))


def _only(values: list[Any]) -> str | None:
    return str(values[0]) if values else None


def _readable(name: str | None) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in (name or "")[:200])


def _threshold(text: str | None) -> float | None:
    try:
        return None if text is None else TypeAdapter(Threshold).validate_python(text)
    except ValidationError as error:
        raise Refusal(422, reasons(error, "threshold")) from None


def _from_json(body: bytes) -> _Parts:
    try:
        values = JsonRequest.model_validate_json(body)
    except ValidationError as error:
        raise Refusal(422, reasons(error)) from None
    uploads = [Upload(f"image {place}", base64.b64decode(text)) for place, text in enumerate(values.images, start=1)]
    return uploads, values.vocabulary, values.threshold


def _names(vocabulary: list[str] | str | None, limits: Limits, model_names: Sequence[str]) -> tuple[str, ...]:
    try:
        given = split_names(vocabulary) if isinstance(vocabulary, str) else vocabulary  # never the name of a file
        names = parse_vocabulary(None if given is None else [name.strip() for name in given], model_names).names
    except RecipeError as error:
        raise Refusal(422, " ".join(error.problems)[:2000]) from None
    most = max(limits.names, len(model_names))
    if len(names) > most:
        raise Refusal(422, f"vocabulary: {len(names)} names; at most {most} are accepted.")
    for name in names:
        if len(name) > _NAME_LENGTH or not name.isprintable():
            raise Refusal(
                422, f"vocabulary: expected printable names of at most {_NAME_LENGTH} characters: {name[:40]!r}."
            )
    return names


def reasons(error: ValidationError, field: str = "") -> str:
    """Return the problems of a request in one line."""
    lines = []
    for entry in error.errors(include_url=False, include_input=False)[:5]:
        where = ".".join(map(str, entry["loc"])) or field or "request"
        lines.append(f"{where}: {entry['msg'].replace('Input should be', 'expected').removeprefix('Value error, ')}.")
    return " ".join(lines)


def _refusal_of(error: HTTPException) -> HTTPException:
    """Errors in the form itself are 422 like all other errors of the content."""
    return Refusal(422, f"The form cannot be read: {error.detail}") if error.status_code == 400 else error

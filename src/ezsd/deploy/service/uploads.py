"""Images of strangers: what a file is and how large it is, is known before its pixels are decoded."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from ezsd.data.images import BROKEN
from ezsd.deploy.service.image_end import has_other_file, is_padding, jpeg_end, png_end, webp_end
from ezsd.deploy.service.limits import Limits
from ezsd.deploy.service.messages import Refusal
from ezsd.errors import DataError
from ezsd.inference.calls import Pixels
from ezsd.inference.inputs import read_pixels

_FORMATS = {"JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}  # MPO: of some phones
_ANY_TYPE = ("", "application/octet-stream", "image/jpg")
_MOST_SCANS = 100  # of a progressive JPEG; cameras and encoders write about ten


@dataclass(frozen=True)
class Upload:
    """An image file as it was sent.

    Attributes:
        name: Its name, for messages and the response.
        data: The bytes of the file.
        content_type: The type that the client declared, or an empty string.
    """

    name: str
    data: bytes
    content_type: str = ""


def check_upload(upload: Upload, limits: Limits) -> None:
    """Check type and size of an image from its header.

    Raises:
        Refusal: 415: not a JPEG, PNG or WebP file, or another file in it or after it; 413: too many pixels.
    """
    with _opened(upload) as image:
        kind = _FORMATS[image.format or ""]
        if upload.content_type not in (*_ANY_TYPE, kind):
            raise Refusal(415, f"{upload.name}: declared as {upload.content_type[:80]}, but it is {kind}.")
        if image.width * image.height > limits.pixels:
            raise Refusal(
                413,
                f"{upload.name}: {image.width} x {image.height} pixels; at most {limits.megapixels:g} million pixels "
                "are accepted. Make the image smaller.",
            )
    if upload.data.find(b"%PDF-", 0, 1024) >= 0 or zipfile.is_zipfile(BytesIO(upload.data)):
        raise Refusal(415, f"{upload.name}: also a PDF or ZIP file. Send an image without other content.")
    if kind != "image/jpeg":
        rest = upload.data[png_end(upload.data) if kind == "image/png" else webp_end(upload.data) :]
        if not is_padding(rest):
            raise Refusal(415, f"{upload.name}: {len(rest):,} bytes follow the end of the image. Save the image again.")
        return
    end, scans = jpeg_end(upload.data)
    if has_other_file(upload.data[end:]):
        raise Refusal(415, f"{upload.name}: another file follows the end of the image. Save the image again.")
    if scans > _MOST_SCANS:
        raise Refusal(415, f"{upload.name}: a JPEG with more than {_MOST_SCANS} scans. Save it again as plain JPEG.")


def decode_upload(upload: Upload) -> Pixels:
    """Decode a checked image to a uint8 RGB array [H, W, 3], with its EXIF orientation applied.

    Raises:
        Refusal: 422: the image is damaged.
    """
    with _opened(upload) as image:
        try:
            return read_pixels(image)
        except DataError as error:
            raise Refusal(422, f"{upload.name}: {error}") from None


def _opened(upload: Upload) -> Image.Image:
    try:
        return Image.open(BytesIO(upload.data), formats=("JPEG", "PNG", "WEBP"))
    except Image.DecompressionBombError as error:
        raise Refusal(413, f"{upload.name}: {error}") from None
    except BROKEN:
        raise Refusal(415, f"{upload.name}: not a readable JPEG, PNG or WebP file. Convert the image.") from None

"""Serve a detector over HTTP: ``ezsd serve``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING

import numpy as np

from ezsd.errors import MissingExtraError, RecipeError

if TYPE_CHECKING:
    from ezsd.inference.detector import Detector
    from ezsd.inference.onnx_detector import OnnxDetector

logger = logging.getLogger(__name__)


def serve_model(
    load: Callable[[], Detector | OnnxDetector],
    address: tuple[str, int],
    token: str | None,
    batch_size: int,
    limits: Sequence[str] = (),
) -> None:
    """Serve a detector until SIGTERM or Ctrl-C.

    Args:
        load: Loads the detector. It is called after the other arguments are checked.
        address: Host and port to listen on.
        token: The token that requests must have; None = no token.
        batch_size: The maximum number of images per batch.
        limits: Changes of limits, such as ``names=50``.

    Raises:
        MissingExtraError: The extra ``serve`` is not installed.
        RecipeError: A limit or the token is invalid.
        ArtifactError: The model cannot be used, or the address is in use.
    """
    try:
        from ezsd.deploy.service.app import ServiceConfig, create_app
        from ezsd.deploy.service.limits import parse_limits
        from ezsd.deploy.service.server import open_socket, run_server
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"ezsd serve needs the package {error.name}. Install it with: pip install 'ezsd[serve]'"
        ) from None
    config = ServiceConfig(batch_size, _checked(token), parse_limits(limits))
    detector = load()
    with open_socket(*address) as listener:
        detector(np.zeros((64, 64, 3), np.uint8))  # the first call is slow and shows problems with the device
        if token is None and not _is_loopback(address[0]):
            logger.warning("anyone who reaches %s can use this service; set EZSD_TOKEN to require a token", address[0])
        run_server(create_app(detector, config), listener, config.limits)


def _checked(token: str | None) -> str | None:
    if token is not None and not (token.isascii() and token.isprintable() and token.strip() == token and token):
        raise RecipeError("EZSD_TOKEN: expected printable ASCII characters without spaces around them.")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

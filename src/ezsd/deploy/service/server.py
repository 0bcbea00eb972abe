"""Run the service: uvicorn with time limits for request heads, and an end that loses no request."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from ezsd.deploy.service.limits import Limits
from ezsd.errors import ArtifactError

logger = logging.getLogger(__name__)
_HEAD_SECONDS = 10.0


class TimedProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection when the head of a request does not arrive within 10 seconds."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first request."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(_HEAD_SECONDS, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Stop the timer when a request has started; start it when bytes arrive without one."""
        super().data_received(data)
        if self._timer is not None and self._responding():
            self._timer.cancel()
            self._timer = None
        elif self._timer is None and not self._responding():
            self._timer = self.loop.call_later(_HEAD_SECONDS, self._give_up)

    def _responding(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _give_up(self) -> None:
        self._timer = None
        if not self._responding() and not self.transport.is_closing():
            self.transport.close()


def open_socket(host: str, port: int) -> socket.socket:
    """Listen on an address; port 0 = any free port.

    Raises:
        ArtifactError: The address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise ArtifactError(
            f"Cannot listen on {host} port {port}: {error.strerror or error}. Give another --host or --port."
        ) from None


def run_server(app: FastAPI, listener: socket.socket, limits: Limits) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that have started are then answered first."""
    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(
        app,
        http=TimedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(2 * limits.seconds),
    )
    # uvicorn raises the signal again after the last response
    handlers: dict[signal.Signals, Any] = {
        number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        logger.info("serving at http://%s:%d/ (Ctrl-C stops it)", f"[{host}]" if ":" in host else host, port)
        uvicorn.Server(config).run(sockets=[listener])
        logger.info("stopped: all requests were answered")
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)

"""What happens to every request: its time and size are limited, it is counted, and responses get security headers."""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ezsd.deploy.service.limits import Limits
from ezsd.deploy.service.messages import Refusal
from ezsd.deploy.service.metrics import ServiceMetrics

# The page loads nothing from elsewhere, and no other page may embed it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class LimitedBody:
    """Refuses bodies that are too large (413) or arrive too slowly (408), while they arrive."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        deadline = time.monotonic() + self._limits.seconds
        size, complete = 0, False

        async def limited() -> Message:
            nonlocal size, complete
            if complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(deadline - time.monotonic(), 0))
            except asyncio.TimeoutError:
                seconds = f"{self._limits.seconds:g}"
                raise Refusal(408, f"The upload took more than {seconds} seconds.", {"Connection": "close"}) from None
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if size > self._limits.upload_bytes:
                raise too_large(self._limits)
            return message

        await self.app(scope, limited, send)


def too_large(limits: Limits) -> Refusal:
    """Return the refusal of an upload that is larger than the limit."""
    return Refusal(413, f"The upload is too large; at most {limits.upload_mb:g} MB are accepted.")


class Watched:
    """Counts requests and measures their time; adds security headers to responses."""

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics) -> None:
        self.app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            # Only known routes and methods become labels, or clients could create any number of them.
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other"
            self._metrics.requests.labels(route, method, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.monotonic() - started)

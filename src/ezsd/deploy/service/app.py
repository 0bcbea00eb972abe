"""The routes of the service."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import supervision as sv
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST

from ezsd._version import __version__
from ezsd.deploy.service.batching import Batcher
from ezsd.deploy.service.limits import Limits
from ezsd.deploy.service.messages import (
    DetectResponse,
    FormRequest,
    JsonRequest,
    LeastScores,
    Refusal,
    State,
    VocabularyResponse,
    problems,
)
from ezsd.deploy.service.metrics import ServiceMetrics
from ezsd.deploy.service.middleware import LimitedBody, Watched, too_large
from ezsd.deploy.service.requests import DetectRequest, read_request
from ezsd.deploy.service.uploads import Upload, check_upload, decode_upload
from ezsd.errors import EzsdError
from ezsd.inference.calls import Pixels
from ezsd.inference.onnx_detector import OnnxDetector
from ezsd.inference.outputs import detections_json

if TYPE_CHECKING:
    from ezsd.inference.detector import Detector  # ONNX files are served without torch

_BEARER = HTTPBearer(auto_error=False)
_PAGE = Path(__file__).parent / "page"
_REFUSALS = problems(
    s408="The upload is too slow.",
    s413="The upload, an image or the number of images is too large.",
    s415="The content type or an image format is not supported.",
    s422="Images, names or threshold are invalid.",
    s429="The service is busy. Try again after the seconds in Retry-After.",
)


@dataclass(frozen=True)
class ServiceConfig:
    """The settings of a service.

    Attributes:
        batch_size: The maximum number of images of a batch.
        token: The token that requests to ``/v1`` and ``/metrics`` must have; None = no token.
        limits: What a request may cost.
    """

    batch_size: int = 8
    token: str | None = None
    limits: Limits = field(default_factory=lambda: Limits())


class Service:
    """A detector with its batches, limits and metrics.

    Args:
        detector: The detector.
        config: The settings.
    """

    def __init__(self, detector: Detector | OnnxDetector, config: ServiceConfig) -> None:
        self.detector, self.config = detector, config
        self.metrics = ServiceMetrics()
        self.batcher = Batcher(self._detect_batch, config.batch_size)
        self.metrics.watch_waiting(lambda: len(self.batcher))
        self._workers = ThreadPoolExecutor(os.cpu_count(), "decode")
        # Decoded images are large: only those of the current and the next batch are kept in memory.
        self._decoded = asyncio.Semaphore(2 * config.batch_size)
        self._requests = 0

    async def detect(self, request: Request) -> dict[str, Any]:
        """Answer a detection request.

        Raises:
            Refusal: The request is beyond a limit or invalid.
        """
        limits = self.config.limits
        if self._requests >= limits.requests:
            raise _busy(f"{limits.requests} requests are in progress")
        self._requests += 1
        self.metrics.in_progress.set(self._requests)
        try:
            if int(request.headers.get("content-length", 0)) > limits.upload_bytes:
                raise too_large(limits)
            asked = await read_request(request, limits, self.detector.vocabulary().names)
            for upload in asked.uploads:  # large files take a while; other requests are answered meanwhile
                await asyncio.get_running_loop().run_in_executor(self._workers, check_upload, upload, limits)
            images = await asyncio.wait_for(self._detect_all(asked), limits.seconds)
        except asyncio.TimeoutError:
            raise _busy(f"the request waited for {limits.seconds:g} seconds") from None
        except EzsdError as error:
            raise Refusal(422, str(error)) from None
        finally:
            self._requests -= 1
            self.metrics.in_progress.set(self._requests)
        return {"vocabulary": list(asked.names), "threshold": asked.threshold, "images": images}

    def vocabulary(self) -> VocabularyResponse:
        """Return the names that are detected by default, those that can be asked for, and the limits."""
        own, base = self.detector.vocabulary().names, set(self.detector.config.base)
        thresholds = self.detector.thresholds
        return VocabularyResponse(
            base=[name for name in own if name in base],
            novel=[name for name in own if name not in base],
            names=list(self.detector.names) if isinstance(self.detector, OnnxDetector) else None,
            thresholds=LeastScores(other=thresholds.other, names=dict(thresholds.names)),
            limits=self.config.limits,
        )

    async def _detect_all(self, asked: DetectRequest) -> list[dict[str, Any]]:
        # New names are embedded here and not in the thread of the detector, which other requests wait for.
        await asyncio.get_running_loop().run_in_executor(self._workers, self.detector.vocabulary, asked.names)
        tasks = [asyncio.create_task(self._detect_one(upload, asked)) for upload in asked.uploads]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _detect_one(self, upload: Upload, asked: DetectRequest) -> dict[str, Any]:
        run = asyncio.get_running_loop().run_in_executor
        async with self._decoded:
            image = await run(self._workers, decode_upload, upload)
            height, width = image.shape[:2]
            found = await self.batcher.detect(image, asked.names, asked.threshold)
        # Masks of large images take long to encode; other requests are answered meanwhile.
        detections = await run(self._workers, detections_json, found)
        return {"image": upload.name, "width": width, "height": height, "detections": detections}

    def _detect_batch(
        self, images: list[Pixels], names: tuple[str, ...], threshold: float | None
    ) -> list[sv.Detections]:
        started = time.monotonic()
        found = self.detector(images, names, threshold, self.config.batch_size)
        self.metrics.batch_seconds.observe(time.monotonic() - started)
        self.metrics.batch.observe(len(images))
        self.metrics.images.inc(len(images))
        return found

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """Process requests within the context; the lifespan of the application."""
        async with self.batcher:
            yield
        self._workers.shutdown()


def create_app(detector: Detector | OnnxDetector, config: ServiceConfig | None = None) -> FastAPI:
    """Return the ASGI application of a detector, for any ASGI server.

    Args:
        detector: The detector.
        config: The settings; None = the defaults.
    """
    config = config or ServiceConfig()
    service = Service(detector, config)
    app = FastAPI(
        title="ezsd",
        version=__version__,
        description="Zero-shot object detection: images and names in, boxes out.",
        lifespan=service.running,
        docs_url=None,  # these pages would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    protected = [Depends(_token_check(config.token))] if config.token else []
    refused = problems(s401="The token is missing or wrong.") if config.token else {}
    _add_detection(app, service, protected, refused)
    _add_operation(app, service, protected, refused)
    _add_page(app)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(LimitedBody, limits=config.limits)
    app.add_middleware(Watched, metrics=service.metrics)  # added last, so it is the outermost
    return app


def _add_detection(app: FastAPI, service: Service, protected: list[Any], refused: dict[int | str, Any]) -> None:
    body = {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": FormRequest.model_json_schema()},
            "application/json": {"schema": JsonRequest.model_json_schema()},
        },
    }

    @app.post(
        "/v1/detect",
        summary="Detect objects by name in images",
        response_model=DetectResponse,
        responses={**_REFUSALS, **refused},
        dependencies=protected,
        openapi_extra={"requestBody": body},
    )
    async def detect(request: Request) -> JSONResponse:
        return JSONResponse(await service.detect(request))

    @app.get(
        "/v1/vocabulary", summary="The names of the model, and the limits", responses=refused, dependencies=protected
    )
    async def vocabulary() -> VocabularyResponse:
        return service.vocabulary()


def _add_operation(app: FastAPI, service: Service, protected: list[Any], refused: dict[int | str, Any]) -> None:
    @app.get("/health", summary="Whether the process responds")
    async def health() -> State:
        return State(status="ok")

    @app.get("/ready", summary="Whether images are processed", responses=problems(s503="Not ready."))
    async def ready() -> State:
        if not service.batcher.running:
            raise HTTPException(503, "The detector does not run.")
        return State(status="ready")

    @app.get(
        "/metrics",
        summary="Metrics in the text format of Prometheus",
        response_class=PlainTextResponse,
        responses=refused,
        dependencies=protected,
    )
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_page(app: FastAPI) -> None:
    app.mount("/page", StaticFiles(directory=_PAGE))

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_PAGE / "index.html")


def _token_check(token: str) -> Any:
    async def check(sent: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> None:
        if sent is None or not secrets.compare_digest(sent.credentials.encode(), token.encode()):
            raise Refusal(
                401, "Send the token of this service: Authorization: Bearer TOKEN.", {"WWW-Authenticate": "Bearer"}
            )

    return check


def _busy(why: str) -> Refusal:
    return Refusal(429, f"The service is busy: {why}. Try again in a few seconds.", {"Retry-After": "2"})


async def _failed(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "The service failed; its log has the reason."}, 500)

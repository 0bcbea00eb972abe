"""Metrics of the service for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)


class ServiceMetrics:
    """Counters and histograms of one service.

    Attributes:
        requests: Requests by route, method and status.
        seconds: Seconds until the response, by route.
        images: Images in which objects were detected.
        batch: Images of each batch.
        batch_seconds: Seconds of the detector for each batch.
        in_progress: Detection requests that wait or are processed.
    """

    def __init__(self) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._registry = registry
        self.requests = Counter("ezsd_requests", "Requests.", ["route", "method", "status"], registry=registry)
        self.seconds = Histogram(
            "ezsd_request_seconds", "Seconds until the response.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.images = Counter("ezsd_images", "Images in which objects were detected.", registry=registry)
        self.batch = Histogram("ezsd_batch_images", "Images of a batch.", buckets=_IMAGES, registry=registry)
        self.batch_seconds = Histogram(
            "ezsd_batch_seconds", "Seconds of the detector for a batch.", buckets=_SECONDS, registry=registry
        )
        self.in_progress = Gauge("ezsd_requests_in_progress", "Detection requests in progress.", registry=registry)

    def watch_waiting(self, count: Callable[[], int]) -> None:
        """Publish the number of images that wait, as returned by ``count``."""
        Gauge("ezsd_images_waiting", "Images that wait for a batch.", registry=self._registry).set_function(count)

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

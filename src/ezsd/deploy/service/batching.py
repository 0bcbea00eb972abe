"""Batches of the images that wait, from many requests, for one model."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import supervision as sv

from ezsd.inference.calls import Pixels

Detect = Callable[[list[Pixels], tuple[str, ...], float | None], list[sv.Detections]]


@dataclass(frozen=True, eq=False)
class _Waiting:
    image: Pixels
    names: tuple[str, ...]
    threshold: float | None
    result: asyncio.Future[sv.Detections]

    def shares_batch(self, other: _Waiting) -> bool:
        return self.names == other.names and (self.threshold is None) == (other.threshold is None)


class Batcher:
    """Runs a detector in one thread. While it is busy, images wait; those with equal names then form a batch.

    No image waits for others to arrive: batches are larger when there is more load. Start and stop it with
    ``async with``.

    Args:
        detect: The function that detects objects of a vocabulary in images [H, W, 3] at a threshold,
            or at its own if it is None.
        batch_size: The maximum number of images of a batch.
    """

    def __init__(self, detect: Detect, batch_size: int) -> None:
        self._detect = detect
        self._batch_size = batch_size
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._pool = ThreadPoolExecutor(1, "detect")
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Batcher:
        self._loop = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._loop is not None:
            self._loop.cancel()
        self._pool.shutdown(wait=True)

    def __len__(self) -> int:
        """The number of images that wait."""
        return len(self._waiting)

    @property
    def running(self) -> bool:
        """Whether images are processed."""
        return self._loop is not None and not self._loop.done()

    async def detect(self, image: Pixels, names: tuple[str, ...], threshold: float | None) -> sv.Detections:
        """Detect objects in an image [H, W, 3]; images of other requests share the batch.

        Without a threshold, the function that detects chooses it.

        Cancel it to give up waiting; the image is then not processed, unless its batch has started.
        """
        result: asyncio.Future[sv.Detections] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(image, names, threshold, result))
        self._arrived.set()
        return await result

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            batch = self._next_batch()
            if batch:
                await self._process(batch)
            else:
                self._arrived.clear()

    def _next_batch(self) -> list[_Waiting]:
        """Take the oldest image and others with its names, in order; all of them with a threshold, or none."""
        waiting = [entry for entry in self._waiting if not entry.result.done()]  # done here: cancelled
        batch = [entry for entry in waiting if entry.shares_batch(waiting[0])][: self._batch_size]
        taken = set(map(id, batch))
        self._waiting = deque(entry for entry in waiting if id(entry) not in taken)
        return batch

    async def _process(self, batch: list[_Waiting]) -> None:
        images = [entry.image for entry in batch]
        lowest = min((entry.threshold for entry in batch if entry.threshold is not None), default=None)
        running = asyncio.get_running_loop().run_in_executor(self._pool, self._detect, images, batch[0].names, lowest)
        await asyncio.wait([running])
        error = running.exception()
        for place, entry in enumerate(batch):
            if entry.result.done():
                continue
            if error is not None:
                entry.result.set_exception(error)
            else:
                entry.result.set_result(_at_least(running.result()[place], entry.threshold))


def _at_least(found: sv.Detections, threshold: float | None) -> sv.Detections:
    if found.confidence is None or threshold is None:
        return found
    kept = found[found.confidence >= threshold]
    return kept if isinstance(kept, sv.Detections) else found

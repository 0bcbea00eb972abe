"""Tests of batches from many requests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
import supervision as sv

from ezsd.deploy.service.batching import Batcher
from ezsd.inference.calls import Pixels

Work = Callable[[Batcher], Awaitable[Any]]


class Recorder:
    """Finds one object in each image, with the image's first value as score; waits until ``go`` is set."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[float], tuple[str, ...]]] = []
        self.thresholds: list[float | None] = []
        self.go = threading.Event()

    def __call__(self, images: list[Pixels], names: tuple[str, ...], threshold: float | None) -> list[sv.Detections]:
        self.go.wait(10)
        self.thresholds.append(threshold)
        scores = [float(image[0, 0, 0]) for image in images]
        self.batches.append((scores, names))
        if -1 in scores:
            raise RuntimeError("out of memory")
        return [sv.Detections(np.zeros((1, 4)), confidence=np.array([score])) for score in scores]


def _image(score: float) -> Pixels:
    return np.full((2, 2, 3), score)


def _run(recorder: Recorder, size: int, work: Work) -> Any:
    async def run() -> Any:
        async with Batcher(recorder, size) as batcher:
            return await work(batcher)

    return asyncio.run(run())


async def _ask(
    batcher: Batcher, *asked: tuple[float, tuple[str, ...], float | None]
) -> list[asyncio.Task[sv.Detections]]:
    """Ask for all images; the batcher takes the first one alone, and the others wait."""
    tasks = []
    for score, names, low in asked:
        tasks.append(asyncio.create_task(batcher.detect(_image(score), names, low)))
        await asyncio.sleep(0.01)
    return tasks


def test_images_that_wait_form_batches_of_equal_names_in_order() -> None:
    recorder = Recorder()

    async def work(batcher: Batcher) -> None:
        cat, dog = ("cat",), ("dog",)
        tasks = await _ask(batcher, (0.5, cat, 0), *((value, cat if value < 4 else dog, 0) for value in range(1, 6)))
        recorder.go.set()
        found = [await task for task in tasks]
        assert [float(each.confidence[0]) for each in found] == [0.5, 1, 2, 3, 4, 5]

    _run(recorder, 2, work)
    assert recorder.batches == [([0.5], ("cat",)), ([1, 2], ("cat",)), ([3], ("cat",)), ([4, 5], ("dog",))]


def test_each_image_has_its_own_threshold() -> None:
    recorder = Recorder()

    async def work(batcher: Batcher) -> list[int]:
        tasks = await _ask(batcher, (0.1, ("x",), 0), (0.4, ("x",), 0.3), (0.4, ("x",), 0.5))
        recorder.go.set()
        return [len(await task) for task in tasks]

    assert _run(recorder, 4, work) == [1, 1, 0]


def test_images_without_a_threshold_are_detected_with_those_of_the_model() -> None:
    recorder = Recorder()

    async def work(batcher: Batcher) -> list[int]:
        tasks = await _ask(batcher, (0.1, ("x",), 0), (0.4, ("x",), 0.6), (0.1, ("x",), None), (0.4, ("x",), 0.3))
        recorder.go.set()
        return [len(await task) for task in tasks]

    assert _run(recorder, 4, work) == [1, 0, 1, 1]
    assert recorder.thresholds == [0, 0.3, None]


def test_an_error_reaches_its_batch_only() -> None:
    recorder = Recorder()

    async def work(batcher: Batcher) -> None:
        tasks = await _ask(batcher, (-1, ("x",), 0), (0.5, ("x",), 0))
        recorder.go.set()
        with pytest.raises(RuntimeError, match="out of memory"):
            await tasks[0]
        assert len(await tasks[1]) == 1
        assert batcher.running

    _run(recorder, 4, work)


def test_a_request_that_gives_up_is_not_processed() -> None:
    recorder = Recorder()

    async def work(batcher: Batcher) -> None:
        first, second, third = await _ask(batcher, (0.1, ("x",), 0), (0.2, ("x",), 0), (0.3, ("x",), 0))
        second.cancel()
        await asyncio.sleep(0)
        recorder.go.set()
        await first
        await third

    _run(recorder, 1, work)
    assert [scores[0] for scores, _ in recorder.batches] == pytest.approx([0.1, 0.3])

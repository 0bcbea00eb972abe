"""Detection on many images in batches."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from ezsd.detector.model_folder import load_model
from ezsd.inference.batching import detect_images
from tiny_run import assert_same_detections, make_model_folder


def test_detections_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    model, _, text = load_model(make_model_folder(tmp_path))
    generator = torch.Generator().manual_seed(0)
    sizes = [(64, 96), (96, 64), (60, 92), (64, 96), (200, 90), (64, 95)]
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]
    batched = dict(detect_images(model, images, text, 4))
    assert sorted(batched) == list(range(6))
    for index, image in enumerate(images):
        ((_, single),) = detect_images(model, [image], text, 1)
        assert len(single.boxes) > 10
        together = batched[index]
        assert_same_detections(
            (together.boxes, together.labels, together.scores), (single.boxes, single.labels, single.scores)
        )


def test_a_batch_that_does_not_fit_in_memory_is_divided(tmp_path: Path) -> None:
    model, _, text = load_model(make_model_folder(tmp_path))
    detect, sizes = model.detect, []

    def small(images: Any, *others: Any) -> Any:
        sizes.append(len(images))
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return detect(images, *others)

    model.detect = small  # type: ignore[method-assign]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = dict(detect_images(model, [torch.zeros(3, 64, 96, dtype=torch.uint8)] * 4, text, 4))
    finally:
        torch.set_num_threads(before)
    assert len(found) == 4 and sizes == [4, 2, 1, 1, 2, 1, 1]


@pytest.mark.parametrize(("threads", "batch_size"), [(2, 4), (3, 4), (8, 3), (1, 4), (2, 1)])
def test_no_more_images_than_a_batch_are_in_memory(tmp_path: Path, threads: int, batch_size: int) -> None:
    model, _, text = load_model(make_model_folder(tmp_path))
    detect, lock, now, most = model.detect, threading.Lock(), 0, 0

    def counted(images: Any, *others: Any) -> Any:
        nonlocal now, most
        with lock:
            now += len(images)
            most = max(most, now)
        found = detect(images, *others)
        with lock:
            now -= len(images)
        return found

    model.detect = counted  # type: ignore[method-assign]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        images = [torch.zeros(3, 64, 96, dtype=torch.uint8)] * 10
        assert len(dict(detect_images(model, images, text, batch_size))) == 10
        assert 0 < most <= batch_size and torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_a_thin_image_does_not_change_later_detections(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path)
    image = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    fresh, used = load_model(folder)[0], load_model(folder)[0]
    text = load_model(folder)[2]
    used.detect([torch.zeros(3, 8, 128, dtype=torch.uint8)], text)
    expected, found = fresh.detect([image], text)[0], used.detect([image], text)[0]
    assert torch.equal(found.boxes, expected.boxes) and torch.equal(found.scores, expected.scores)

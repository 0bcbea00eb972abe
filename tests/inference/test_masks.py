"""Masks: the pixels of torchvision, and no more memory than a few masks of the size of the image."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision as sv
import torch
from faster_coco_eval.core import mask as mask_api
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.models.detection.roi_heads import paste_masks_in_image

from ezsd.data.samples import AnnotatedImage
from ezsd.inference import masks as pasting
from ezsd.inference.batching import detect_annotated
from ezsd.inference.detector import Detector
from ezsd.inference.drawing import draw
from ezsd.inference.masks import each_mask, paste_masks
from ezsd.inference.outputs import coco, detections_json, encode_mask, labeled
from ezsd.inference.tiling import Tiling
from tiny_run import make_model_folder

SIZE = 480, 640


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    folder = make_model_folder(tmp_path_factory.mktemp("model"), masks=True, detections_per_image=40)
    return Detector.load(folder, "cpu")


@pytest.fixture(scope="module")
def image() -> np.ndarray[Any, Any]:
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize(SIZE[::-1]))


def _masks_and_boxes(size: tuple[int, int]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Smooth masks in boxes of any place, also on the border, larger than the image, thin, and without area."""
    numbers = np.random.default_rng(0)
    corners = np.sort(numbers.uniform(-0.1, 1.1, (30, 2, 2)), axis=1).clip(0, 1) * size[::-1]
    width, height = size[::-1]
    special = [[0, 0, width, height], [width, height, width, height], [width, 0, width, height], [5, 5, 5, 5],
               [3.5, 0, 4.2, height], [0, 3.5, width, 4.2], [-4, -9, width + 7, height + 2]]  # fmt: skip
    boxes = np.concatenate([corners.reshape(-1, 4), special]).astype(np.float32)
    coarse = torch.from_numpy(numbers.normal(0, 3, (len(boxes), 1, 7, 7)).astype(np.float32))
    return torch.nn.functional.interpolate(coarse, size=(28, 28), mode="bilinear").sigmoid()[:, 0].numpy(), boxes


@pytest.mark.parametrize("size", [(60, 90), (331, 207), (1, 50)])
def test_pasted_masks_are_those_of_torchvision(size: tuple[int, int]) -> None:
    masks, boxes = _masks_and_boxes(size)
    expected = paste_masks_in_image(torch.from_numpy(masks)[:, None], torch.from_numpy(boxes), size)[:, 0] > 0.5
    found = paste_masks(masks, boxes, size)
    assert found.shape == expected.shape and 0 < expected.float().mean() < 1
    np.testing.assert_array_equal(np.asarray(found), expected.numpy())
    for encoded, mask in zip(map(encode_mask, each_mask(found)), expected.numpy(), strict=True):
        np.testing.assert_array_equal(mask_api.decode(encoded), mask)
        assert encoded == encode_mask(mask)
    assert paste_masks(masks[:0], boxes[:0], size).shape == (0, *size)


def test_the_area_of_an_annotation_is_that_of_its_mask(detector: Detector, image: np.ndarray[Any, Any]) -> None:
    ((frame, found, _),) = detector.stream([image], threshold=0.0)
    annotations = coco([labeled(frame, found)], detector.vocabulary().names)["annotations"]
    areas = [entry["area"] for entry in annotations]
    assert areas == [float(mask_api.area(entry["segmentation"])) for entry in annotations] and max(areas) > 0


class _Largest(TorchDispatchMode):
    """Notes the size in bytes of the largest tensor that is made."""

    size = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        sizes = [each.numel() * each.element_size() for each in tree_leaves(made) if isinstance(each, Tensor)]
        self.size = max([self.size, *sizes])
        return made


def _everything(detector: Detector, image: np.ndarray[Any, Any], **options: Any) -> int:
    found = detector(image, threshold=0.0, multi_label=True, **options)
    assert len(detections_json(found)) == len(found)
    return len(found)


def _streamed(detector: Detector, image: np.ndarray[Any, Any]) -> int:
    ((_, found, _),) = detector.stream([image], threshold=0.0, multi_label=True)
    assert draw(image, found).size == SIZE[::-1]
    return len(found)


def _tiled(detector: Detector, image: np.ndarray[Any, Any]) -> int:
    return _everything(detector, image, tiling=Tiling(500))


def _tiled_small(detector: Detector, image: np.ndarray[Any, Any]) -> int:
    """Find a thousand objects in the tiles."""
    return _everything(detector, image, tiling=Tiling(96))


def _evaluated(detector: Detector, image: np.ndarray[Any, Any]) -> int:
    path = Path("image.png")
    Image.fromarray(image).save(path)
    none = torch.zeros(0)
    annotated = AnnotatedImage(1, path, SIZE[1], SIZE[0], none.reshape(0, 4), none.long(), none.bool(), None)
    text = detector.embed()
    return len(json.dumps(detect_annotated(detector.model, [annotated], text, range(1, len(text) + 1), 1)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("way", "bytes_a_pixel"),
    [(_everything, 50), (_streamed, 50), (_tiled, 50), (_tiled_small, 100), (_evaluated, 50)],
)
def test_memory_does_not_grow_with_the_number_of_masks_of_the_size_of_the_image(
    way: Callable[[Detector, np.ndarray[Any, Any]], int],
    bytes_a_pixel: int,
    detector: Detector,
    image: np.ndarray[Any, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    tracemalloc.start()
    with _Largest() as largest:
        count = way(detector, image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    pixels = SIZE[0] * SIZE[1]
    assert count >= 40
    assert largest.size < 20 * pixels, f"{largest.size / pixels:.0f} bytes a pixel"
    assert peak < bytes_a_pixel * pixels, f"{peak / pixels:.0f} bytes a pixel"


def test_only_masks_that_are_shown_are_pasted(
    detector: Detector, image: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pasted: list[int] = []
    plain = pasting.paste_masks
    monkeypatch.setattr(pasting, "paste_masks", lambda *parts: pasted.append(len(parts[0])) or plain(*parts))
    every = detector(image, threshold=0.0, multi_label=True)
    shown = detector(image, threshold=0.0)
    (streamed,) = detector.stream([image], threshold=0.0)
    tiled = detector(image, threshold=0.0, tiling=Tiling(500))
    assert pasted == [len(every), len(shown), len(shown), len(tiled)] and len(shown) < len(every)
    assert streamed.detections == shown
    assert isinstance(every.mask, sv.CompactMask) and isinstance(shown.mask, sv.CompactMask)
    rows = [int(np.flatnonzero((every.xyxy == box).all(axis=1))[0]) for box in shown.xyxy]
    for row, mask in zip(rows, shown.mask, strict=True):
        np.testing.assert_array_equal(every.mask[row], mask)

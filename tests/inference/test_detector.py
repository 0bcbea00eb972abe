"""Inputs and results of the user-facing detector."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision as sv
import torch
from faster_coco_eval.core import mask as mask_api
from PIL import Image

from ezsd.errors import ArtifactError, DataError, RecipeError
from ezsd.inference import model_teacher
from ezsd.inference.detector import Detector
from ezsd.inference.drawing import draw
from ezsd.inference.inputs import read_any
from ezsd.inference.outputs import detections_json
from ezsd.inference.phrase_embeddings import PhraseEmbeddings
from ezsd.inference.sources import open_source
from ezsd.inference.video import video_writer
from ezsd.teacher import save_norms
from tiny import SPLIT
from tiny_run import EMBEDDING_DIM, assert_same_detections, make_model_folder, make_model_of_run
from tiny_teacher import ColourTeacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_of_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def detector(folder: Path) -> Detector:
    return Detector.load(folder, "cpu")


@pytest.fixture(scope="module")
def array() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8)


def test_every_image_format_gives_the_same_detections(
    detector: Detector, array: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    path = tmp_path / "street.png"
    Image.fromarray(array).save(path)
    channels_first = torch.from_numpy(array).permute(2, 0, 1)
    kinds = [
        path,
        str(path),
        Image.fromarray(array),
        array,
        channels_first,
        channels_first.float() / 255,
        array[:, ::-1][:, ::-1],
    ]
    expected = detector(array, threshold=0.0, multi_label=True)
    assert len(expected) > 10
    for image in kinds:
        assert detector(image, threshold=0.0, multi_label=True) == expected


def test_an_image_gives_one_result_and_a_list_gives_a_list(detector: Detector, array: np.ndarray[Any, Any]) -> None:
    assert isinstance(detector(array), sv.Detections)
    several = detector([array, array[:50]])
    assert isinstance(several, list) and len(several) == 2
    assert isinstance(detector((array,)), list)
    assert detector([]) == []


def test_a_call_with_many_images_says_to_use_stream(
    detector: Detector, array: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    Image.fromarray(array).save(tmp_path / "[1].png")
    pattern = str(tmp_path / "*.png")
    given: list[Any] = [tmp_path, str(tmp_path), pattern, tmp_path / "%03d.png", "clip.mp4", "camera:0",
                        "https://example.com/a.jpg", iter([array]), open_source(array), [array, tmp_path]]  # fmt: skip
    for source in given:
        with pytest.raises(DataError, match=r" is a .*, but a call takes an image or a list.*detector\.stream\("):
            detector(source)
    assert len(detector(str(tmp_path / "[1].png"), threshold=0.0)) > 0
    with pytest.raises(DataError, match="does not exist"):
        detector(tmp_path / "missing.png")
    for source in (tmp_path, pattern):
        assert [frame.file_name for frame, _, _ in detector.stream(source)] == ["[1].png"]


def test_a_stream_takes_every_nth_frame_and_urls_if_they_are_allowed(detector: Detector, tmp_path: Path) -> None:
    with video_writer(tmp_path / "a.mp4", 10, (64, 48)) as write:
        for _ in range(6):
            write(np.zeros((48, 64, 3), np.uint8))
    assert [frame.number for frame, _, _ in detector.stream(tmp_path / "a.mp4", stride=2)] == [0, 2, 4]
    url = "http://127.0.0.1:9/a.jpg"
    with pytest.raises(DataError, match="allow_network=True"):
        detector.stream(url)
    assert list(detector.stream(url, allow_network=True)) == []  # nothing listens there


def test_results_have_names_scores_and_boxes_in_image_pixels(detector: Detector, array: np.ndarray[Any, Any]) -> None:
    found = detector(array, threshold=0.0, multi_label=True)
    assert found.class_id is not None and found.confidence is not None
    assert [SPLIT.names[index] for index in found.class_id] == list(found["class_name"])
    assert (np.diff(found.confidence) <= 0).all()
    assert (found.xyxy >= 0).all() and found.xyxy[:, 2].max() <= 100.001 and found.xyxy[:, 3].max() <= 70.001
    assert found.xyxy[:, 2].max() > 90
    assert found.mask is None


def test_the_vocabulary_sets_the_names_and_their_order(detector: Detector, array: np.ndarray[Any, Any]) -> None:
    found = detector(array, ["bar", "circle"], threshold=0.0, multi_label=True)
    assert found.class_id is not None
    assert set(found["class_name"]) == {"bar", "circle"}
    assert all(
        ("bar", "circle")[index] == name for index, name in zip(found.class_id, found["class_name"], strict=True)
    )
    assert detector(array, "bar, circle", threshold=0.0, multi_label=True) == found


def test_detections_below_the_threshold_are_removed(detector: Detector, array: np.ndarray[Any, Any]) -> None:
    found = detector(array, threshold=0.0, multi_label=True)
    assert found.confidence is not None
    middle = float(np.median(found.confidence))
    kept = detector(array, threshold=middle, multi_label=True)
    assert 0 < len(kept) < len(found)
    assert kept.confidence is not None and kept.confidence.min() >= middle
    nothing = detector(array, threshold=1.0)
    assert len(nothing) == 0
    assert len(nothing["class_name"]) == 0
    for wrong in (-0.1, 30, float("nan")):
        with pytest.raises(RecipeError, match="between 0 and 1"):
            detector(array, threshold=wrong)
    with pytest.raises(RecipeError, match="at least 1"):
        detector(array, batch_size=0)


def test_detections_do_not_depend_on_the_batch_size(detector: Detector) -> None:
    rng = np.random.default_rng(1)
    sizes = [(64, 96), (96, 64), (60, 92), (64, 96), (200, 90)] * 3
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    for batched, image in zip(detector(images, threshold=0.0, batch_size=2, multi_label=True), images, strict=True):
        single = detector(image, threshold=0.0, multi_label=True)
        assert len(single) > 10
        assert_same_detections(
            (batched.xyxy, batched.class_id, batched.confidence), (single.xyxy, single.class_id, single.confidence)
        )


def test_masks_have_the_size_of_the_image(array: np.ndarray[Any, Any], tmp_path: Path) -> None:
    detector = Detector.load(make_model_folder(tmp_path, masks=True), "cpu")
    found = detector(array, threshold=0.0, multi_label=True)
    assert isinstance(found.mask, sv.CompactMask)
    assert found.mask.shape == (len(found), 70, 100) and found.mask.dtype == bool
    nothing = detector(array, threshold=1.0)
    assert isinstance(nothing.mask, sv.CompactMask) and nothing.mask.shape == (0, 70, 100)
    expected = json.loads(json.dumps(detections_json(found)))
    np.testing.assert_array_equal(mask_api.decode(expected[0]["mask"]), found.mask[0])
    assert draw(array, found).size == (640, 448)
    whole = np.asarray(found.mask)
    assert whole.shape == found.mask.shape and whole.any() and (whole[0] == found.mask[0]).all()
    large = np.asarray(Image.fromarray(array).resize((1000, 700)))
    compressed = detector(large, threshold=0.0)
    expanded = replace(compressed, mask=np.asarray(compressed.mask))
    assert draw(large, compressed) == draw(large, expanded)


def test_names_of_the_model_do_not_need_the_teacher(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_teacher, "load_teacher", lambda *_, **__: 1 / 0)
    assert detector.embed().shape == (4, EMBEDDING_DIM)
    assert torch.equal(detector.embed(["triangle"])[0], detector.embed()[2])


def test_other_names_are_encoded_once_by_the_teacher(
    folder: Path, array: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path))
    detector = Detector.load(folder, "cpu")
    made = detector.embed(["zebra crossing", "circle", "traffic cone"])
    assert made.shape == (3, EMBEDDING_DIM)
    torch.testing.assert_close(made.norm(dim=1), torch.ones(3))
    monkeypatch.setattr(PhraseEmbeddings, "_encode", lambda *_: 1 / 0)
    assert torch.equal(detector.embed(["traffic cone", "zebra crossing"]), made[[2, 0]])
    assert set(detector(array, ["traffic cone", "zebra crossing"], threshold=0.0, multi_label=True)["class_name"]) == {
        "traffic cone", "zebra crossing",
    }  # fmt: skip


def test_other_names_are_encoded_by_the_adapted_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))
    adapted = ColourTeacher()
    torch.nn.init.normal_(adapted.norm_parameters()["text.weight"])
    save_norms(adapted, tmp_path / "norms.safetensors", ("text",))
    folder = make_model_of_run(tmp_path / "run", norms=tmp_path / "norms.safetensors")
    (tmp_path / "norms.safetensors").unlink()
    made = Detector.load(folder, "cpu").embed(["traffic cone", "stop sign"])
    text = ["a photo of a traffic cone", "a photo of a stop sign"]
    torch.testing.assert_close(made, adapted.encode_names(text).detach())
    assert not torch.allclose(made, ColourTeacher().encode_names(text), atol=0.01)


def test_an_invalid_image_is_reported(tmp_path: Path, array: np.ndarray[Any, Any]) -> None:
    broken = tmp_path / "broken.jpg"
    Image.fromarray(array).save(broken)
    broken.write_bytes(broken.read_bytes()[:-300])
    wrong: list[Any] = [
        broken, tmp_path / "missing.jpg", tmp_path, array[..., :2], array.astype(float), array[None], array[:0],
        torch.zeros(70, 100, 3), torch.full((3, 8, 8), 255.0), torch.full((3, 8, 8), float("nan")),
        torch.zeros(3, 8, 8, dtype=torch.int64), Image.new("I;16", (8, 8)), Image.open(broken), 3, None,
    ]  # fmt: skip
    for image in wrong:
        with pytest.raises(DataError):
            read_any(image)


@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
def test_a_batch_in_a_call_says_to_give_a_list(detector: Detector, make: Any) -> None:
    batch = make((2, 3, 64, 64)) if make is torch.zeros else make((2, 64, 64, 3), np.uint8)
    with pytest.raises(DataError, match=r"Give a batch as a list: list\(images\)"):
        detector(batch)
    assert len(detector(list(batch))) == 2


def test_images_are_converted_to_upright_rgb(tmp_path: Path) -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, :5] = 255  # a white stripe on the left, which is at the top after rotation
    path, exif = tmp_path / "phone.png", Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(path, exif=exif)
    for image in (path, Image.open(path)):
        upright = read_any(image)
        assert upright.shape == (3, 30, 20)
        assert bool((upright[:, :5] == 255).all()) and bool((upright[:, 5:] == 0).all())
    assert read_any(Image.new("L", (8, 6), 7)).shape == (3, 6, 8)
    assert read_any(Image.new("RGBA", (8, 6))).shape == (3, 6, 8)
    assert read_any(Image.new("P", (8, 6))).shape == (3, 6, 8)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_pil_image_has_the_pixels_of_its_file(mode: str, orientation: int, tmp_path: Path) -> None:
    image = Image.new("RGBA", (8, 6), (255, 0, 0, 0))
    image.paste((10, 10, 10, 255), (0, 0, 4, 3))
    path, exif = tmp_path / "logo.png", Image.Exif()
    exif[0x0112] = orientation
    extra = {"transparency": (255, 0, 0)} if mode == "RGB" else {}
    image.convert(mode).save(path, exif=exif, **extra)
    pixels = read_any(path)
    assert pixels[:, -1 if orientation == 1 else 0, -1 if orientation == 1 else 0].tolist() == [255, 255, 255]
    assert torch.equal(read_any(Image.open(path)), pixels)


def test_the_array_of_the_caller_is_not_modified(array: np.ndarray[Any, Any]) -> None:
    before = array.copy()
    read_any(array).zero_()
    np.testing.assert_array_equal(array, before)


def test_json_contains_name_score_and_box() -> None:
    found = sv.Detections(
        xyxy=np.array([[1, 2, 30.125, 40]], np.float32), confidence=np.array([0.87654], np.float32),
        class_id=np.array([0]), data={"class_name": np.array(["traffic cone"])},
    )  # fmt: skip
    expected = json.loads(json.dumps(detections_json(found)))
    assert expected == [{"name": "traffic cone", "score": 0.8765, "box": [1.0, 2.0, 30.12, 40.0]}]
    assert detections_json(sv.Detections(xyxy=np.empty((0, 4)), data={"class_name": np.array([], str)})) == []


@pytest.mark.parametrize("size", [(40, 30), (1000, 700)])
def test_drawing_marks_the_box_and_enlarges_small_images(size: tuple[int, int]) -> None:
    width, height = size
    gray = np.full((height, width, 3), 128, np.uint8)
    box = np.array([[width * 0.25, height * 0.5, width * 0.75, height * 0.9]], np.float32)
    found = sv.Detections(
        xyxy=box, confidence=np.array([0.9]), class_id=np.array([0]), data={"class_name": np.array(["дорожный конус"])}
    )
    drawn = draw(gray, found)
    assert max(drawn.size) == max(640, *size)
    scale = drawn.width / width
    changed = (np.asarray(drawn) != 128).any(axis=2)
    x1, y1, x2, y2 = (box[0] * scale).round().astype(int)
    assert changed[(y1 + y2) // 2, x2] and changed[y2, (x1 + x2) // 2]
    assert not changed[(y1 + y2) // 2, (x1 + x2) // 2]
    label = changed[:y1, :]
    assert label.sum() > 1000
    assert draw(gray, found[:0]).size == drawn.size


def test_a_folder_that_is_not_a_model_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"config\.json"):
        Detector.load(tmp_path)


def test_only_the_newest_new_names_are_kept_in_memory(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ezsd.inference.phrase_embeddings._NEW_PHRASES", 3)
    first = detector.embed(["traffic cone"])
    detector.embed(["a", "b", "c", "d"])
    assert list(detector._phrases._rows) == [*detector.config.names, "b", "c", "d"]
    assert torch.equal(detector.embed(["traffic cone"]), first)


def test_bf16_changes_detections_only_a_little(folder: Path, detector: Detector, array: np.ndarray[Any, Any]) -> None:
    half = Detector.load(folder, "cpu", precision="bf16")
    exact, near = (each(array, threshold=0.0, multi_label=True) for each in (detector, half))
    assert exact.confidence is not None and near.confidence is not None and exact.class_id is not None
    assert not np.array_equal(exact.confidence, near.confidence)  # it is used
    assert near.xyxy.dtype == near.confidence.dtype == np.float32
    ious = sv.box_iou_batch(exact.xyxy[:5], near.xyxy) * (exact.class_id[:5, None] == near.class_id)
    assert (ious.max(axis=1) > 0.9).all()
    np.testing.assert_allclose(near.confidence[ious.argmax(axis=1)], exact.confidence[:5], atol=0.02)


def test_region_embeddings_use_the_precision(folder: Path, detector: Detector, array: np.ndarray[Any, Any]) -> None:
    half = Detector.load(folder, "cpu", precision="bf16")
    example = {"part": [array, [5, 5, 60, 60]]}
    exact, near = (each.vocabulary_from_crops(example).embeddings for each in (detector, half))
    assert not torch.equal(exact, near)
    assert float((exact * near).sum()) > 0.99


def test_a_precision_that_the_device_does_not_have_is_refused(folder: Path) -> None:
    with pytest.raises(RecipeError, match="fp16 needs a GPU"):
        Detector.load(folder, "cpu", precision="fp16")

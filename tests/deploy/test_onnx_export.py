"""Exported files give the detections of the detector, for any images and names, without torch."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision as sv
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from typer.testing import CliRunner

from ezsd.cli import app
from ezsd.data.transforms import resize_image
from ezsd.deploy.onnx_export import OnnxOptions, export_onnx
from ezsd.errors import ArtifactError, DataError, RecipeError
from ezsd.inference import onnx_detector as onnx_module
from ezsd.inference.detector import Detector
from ezsd.inference.names_file import read_names, write_names
from ezsd.inference.onnx_detector import OnnxDetector, resize_pixels
from few_packages import command_without_torch, listed_packages
from onnx_speed import difference
from tiny import SPLIT, make_tiny_coco
from tiny_run import make_model_folder, make_model_of_run

onnx = pytest.importorskip("onnx", reason="onnx is not installed (extra export)")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra export)")

SIZES = [(96, 128), (128, 96), (96, 100), (90, 128), (128, 64), (96, 96)]  # not resized by the model


@pytest.fixture(scope="module")
def images() -> list[np.ndarray[Any, Any]]:
    numbers = np.random.default_rng(0)
    return [numbers.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_of_run(
        tmp_path_factory.mktemp("run"), masks=True, anchor_sides=(16, 32, 48, 96), box_quality=True,
        objectness_power=0.5, quality_power=0.25, soft_nms=0.3, detections_per_image=30,
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    result = CliRunner().invoke(app, ["export", str(model.parents[1]), str(path), "--vocabulary", "ring, traffic cone"])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [f"wrote {path}", f"wrote {path.with_suffix('.names.npz')}"]
    return path


def test_images_and_names_of_any_number_give_the_detections_of_the_detector(
    model: Path, exported: Path, images: list[np.ndarray[Any, Any]]
) -> None:
    detector, onnx = Detector.load(model, "cpu"), OnnxDetector.load(exported, "cpu")
    for vocabulary in (None, "traffic cone", ["ring", "circle", "traffic cone"]):
        expected = detector(images, vocabulary, threshold=0.0)
        for batch_size in (1, 3):
            found = onnx(images, vocabulary, threshold=0.0, batch_size=batch_size)
            for one, other in zip(found, expected, strict=True):
                _same(one, other)
    assert len(onnx(images[0], "circle", threshold=0.3)) < len(onnx(images[0], "circle", threshold=0.0))


@pytest.mark.slow
def test_fifty_images_have_the_same_names_order_boxes_and_scores(model: Path, exported: Path) -> None:
    detector, onnx = Detector.load(model, "cpu"), OnnxDetector.load(exported, "cpu")
    for number in range(50):
        numbers = np.random.default_rng(number)
        image = numbers.integers(0, 256, (*SIZES[number % len(SIZES)], 3), dtype=np.uint8)
        options: Any = {"threshold": 0.0, "multi_label": True}
        found, expected = onnx(image, **options), detector(image, **options)
        assert len(found) > 3
        assert difference(found, expected) is not None, number


def test_names_that_the_teacher_cannot_tell_apart_are_named_once(
    exported: Path, caplog: pytest.LogCaptureFixture
) -> None:
    onnx = OnnxDetector.load(exported, "cpu")
    onnx._embeddings["ring"] = onnx._embeddings["circle"]
    with caplog.at_level(logging.WARNING, "ezsd"):
        for _ in range(2):
            onnx(np.zeros((96, 96, 3), dtype=np.uint8), ["ring", "traffic cone", "circle"])
    assert caplog.text.count('can hardly tell "ring" and "circle" apart') == 1


def test_hard_nms_without_masks_and_a_baked_vocabulary(tmp_path: Path, images: list[np.ndarray[Any, Any]]) -> None:
    model = make_model_folder(tmp_path / "model", nms=0.4, start_from=str(tmp_path / "other"))
    path = tmp_path / "baked.onnx"
    assert export_onnx(model, path, "bar, circle", OnnxOptions(baked=True)) == [path]
    onnx = OnnxDetector.load(path, "cpu")
    for one, other in zip(
        onnx(images, threshold=0.0), Detector.load(model, "cpu")(images, "bar, circle", threshold=0.0), strict=True
    ):
        _same(one, other)
    assert onnx.names == ("bar", "circle")
    assert str(tmp_path).encode() not in path.read_bytes()


def test_a_baked_file_detects_any_of_its_names_and_no_others(
    model: Path, tmp_path: Path, images: list[np.ndarray[Any, Any]]
) -> None:
    path = tmp_path / "baked.onnx"
    export_onnx(model, path, "bar, circle", OnnxOptions(baked=True))
    onnx = OnnxDetector.load(path, "cpu")
    options: Any = {"threshold": 0.0, "multi_label": True}
    both = onnx(images[0], **options)
    turned = onnx(images[0], ["circle", "bar"], **options)
    assert (turned.class_id == 1 - both.class_id).all() and (turned["class_name"] == both["class_name"]).all()
    one, expected = onnx(images[0], "circle", **options), both[both["class_name"] == "circle"]
    assert len(one) > 3 and (one.xyxy == expected.xyxy).all() and (one.class_id == 0).all()
    with pytest.raises(RecipeError, match=r"ring: not among the 2 names that are baked .* export it without --baked"):
        onnx(images[0], "circle, ring")
    with pytest.raises(RecipeError, match="without --baked"):
        onnx.embed()


def test_synonyms_and_templates_go_with_the_file(
    model: Path, tmp_path: Path, images: list[np.ndarray[Any, Any]]
) -> None:
    file, path = tmp_path / "names.yaml", tmp_path / "model.onnx"
    file.write_text(
        "names: {shape: [ring, triangle, cone], bar: , circle: [disc]}\ntemplates: ['one {name}', '{name}']"
    )
    expected = Detector.load(model, "cpu")(images, file, threshold=0.0)
    for baked in (False, True):
        export_onnx(model, path, file, OnnxOptions(baked=baked))
        onnx = OnnxDetector.load(path, "cpu")
        for one, other in zip(onnx(images, "shape, bar, circle", threshold=0.0), expected, strict=True):
            _same(one, other)
    with pytest.raises(RecipeError, match="Give them to ezsd export"):
        onnx(images[0], file)


def test_names_that_are_given_again_replace_those_of_the_names_file(model: Path, tmp_path: Path) -> None:
    def sizes(vocabulary: Any) -> dict[str, int]:
        export_onnx(model, tmp_path / "model.names.npz", vocabulary)
        with np.load(tmp_path / "model.names.npz") as content:
            return Counter(content["names"].tolist())

    plain = dict.fromkeys(SPLIT.names, 1)
    assert sizes({"circle": ["ring", "disc"], "cone": None}) == {**plain, "circle": 2, "cone": 1}
    assert sizes("zebra") == {**plain, "circle": 2, "cone": 1, "zebra": 1}
    assert sizes(None) == {**plain, "circle": 2, "cone": 1, "zebra": 1}
    assert sizes("circle") == {**plain, "cone": 1, "zebra": 1}


def test_calibrated_thresholds_go_with_the_file(
    model: Path, tmp_path: Path, images: list[np.ndarray[Any, Any]]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    low = {"other": 0.9, "names": {SPLIT.names[0]: 0.15}, "second_opinion": "none"}
    (folder / "thresholds.json").write_text(json.dumps(low))
    detector = Detector.load(folder, "cpu")
    for options, vocabulary in ((OnnxOptions(), None), (OnnxOptions(baked=True), list(SPLIT.names))):
        path = export_onnx(folder, tmp_path / "model.onnx", vocabulary, options)[0]
        onnx = OnnxDetector.load(path, "cpu")
        assert onnx.thresholds == detector.thresholds
        found, expected = onnx(images[0]), detector(images[0])
        assert len(found) > 0 and set(found["class_name"]) == {SPLIT.names[0]} and found.confidence.min() < 0.3
        _same(found, expected)
        streamed = [each.detections for each in onnx.stream(images[0], stride=2, allow_network=True)]
        assert len(streamed[0]) == len(found)


def test_resized_images_give_boxes_in_their_own_pixels(model: Path, exported: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (310, 400, 3), dtype=np.uint8)
    found = OnnxDetector.load(exported, "cpu")(image, threshold=0.0)
    expected = Detector.load(model, "cpu")(image, threshold=0.0)
    for box, name in zip(expected.xyxy[:10], expected["class_name"], strict=False):
        assert np.abs(found.xyxy[found["class_name"] == name] - box).max(axis=1).min() < 0.5


@given(arrays(np.uint8, st.tuples(st.integers(2, 200), st.integers(2, 200), st.just(3))))
def test_images_are_resized_as_for_the_detector(image: np.ndarray[Any, Any]) -> None:
    expected = resize_image(torch.from_numpy(image).permute(2, 0, 1), (48, 64)).permute(1, 2, 0).numpy()
    found = resize_pixels(image, (48, 64))
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_smaller_number_formats_find_nearly_the_same(
    precision: Any, model: Path, exported: Path, tmp_path: Path
) -> None:
    folder = make_tiny_coco(tmp_path / "data").images
    path = tmp_path / f"{precision}.onnx"
    export_onnx(model, path, None, OnnxOptions(precision=precision, calibration=folder))
    assert path.stat().st_size < 0.6 * exported.stat().st_size
    onnx, detector = OnnxDetector.load(path, "cpu"), Detector.load(model, "cpu")
    image = next(folder.iterdir())
    found, expected = onnx(image, threshold=0.0), detector(image, threshold=0.0)
    assert len(found) == len(expected)
    assert np.abs(found.confidence - expected.confidence).max() < 0.1


def test_names_file_alone_is_written_from_the_model(model: Path, exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model.onnx"
    copy.write_bytes(exported.read_bytes())
    with pytest.raises(ArtifactError, match=r"model\.names\.npz is missing"):
        OnnxDetector.load(copy)
    export_onnx(model, tmp_path / "model.names.npz", ["zebra"])
    assert OnnxDetector.load(copy, "cpu").names == (*SPLIT.names, "zebra")
    export_onnx(model, tmp_path / "model.names.npz", "lion")
    assert set(OnnxDetector.load(copy, "cpu").names) == {*SPLIT.names, "zebra", "lion"}
    assert np.allclose(OnnxDetector.load(copy, "cpu").embed(["zebra"]), Detector.load(model, "cpu").embed(["zebra"]))


def test_names_of_another_model_are_refused(exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model.onnx"
    copy.write_bytes(exported.read_bytes())
    export_onnx(make_model_folder(tmp_path / "other", seed=1), tmp_path / "model.names.npz")
    with pytest.raises(ArtifactError, match="of another model"):
        OnnxDetector.load(copy)


def test_unknown_names_are_listed_with_the_command_that_adds_them(exported: Path) -> None:
    with pytest.raises(RecipeError, match="No text embedding of zebra, cone, orange") as error:
        OnnxDetector.load(exported, "cpu")(np.zeros((8, 8, 3), np.uint8), ["circle", "zebra", "cone, orange"])
    assert _copied(error.value)[-2:] == ["--vocabulary", 'zebra, "cone, orange"']


def test_commands_in_messages_can_be_copied_for_folders_with_spaces(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "my folder" / "model.onnx"
    path.parent.mkdir()
    with pytest.raises(ArtifactError) as error:
        OnnxDetector.load(path)
    assert _copied(error.value) == ["ezsd", "export", "MODEL", str(path)]
    path.write_bytes(exported.read_bytes())
    names = path.with_suffix(".names.npz")
    with pytest.raises(ArtifactError) as error:
        OnnxDetector.load(path)
    assert _copied(error.value) == ["ezsd", "export", "MODEL", str(names)]
    write_names(names, {"cat": np.ones(4)}, "another")
    with pytest.raises(ArtifactError) as error:
        OnnxDetector.load(path)
    assert _copied(error.value) == ["ezsd", "export", "MODEL", str(names)]


def test_files_that_are_not_exported_models_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not onnx")
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        OnnxDetector.load(broken)
    with pytest.raises(ArtifactError, match="is missing"):
        OnnxDetector.load(tmp_path / "none.onnx")


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "cannot be read"), (b"PK\x03\x04", "cannot be read"), (None, "of another model")]
)
def test_damaged_names_files_are_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.names.npz"
    write_names(path, {"cat": np.ones((1, 4))}, "this")
    assert list(read_names(path, "this", 4)) == ["cat"]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        read_names(path, "that", 4)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config", "{"), ("config", "[" * 200_000), ("config", "null"), ("model_id", None), ("thresholds", "x"),
        ("thresholds", "[]"), ("thresholds", '{"other": NaN, "names": {}}'),
        ("thresholds", '{"other": 2, "names": {}}'),
        ("vocabulary", "x"), ("vocabulary", "5"), ("vocabulary", "[1, 2]"), ("vocabulary", '["a", "b"]'),
    ],
)  # fmt: skip
def test_metadata_that_the_export_does_not_write_is_refused(
    exported: Path, tmp_path: Path, key: str, value: str | None
) -> None:
    model = onnx.load(exported)
    about = {entry.key: entry.value for entry in model.metadata_props} | {f"ezsd.{key}": value}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {name: text for name, text in about.items() if text is not None})
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    shutil.copy(exported.with_suffix(".names.npz"), path.with_suffix(".names.npz"))
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        OnnxDetector.load(path, "cpu")


def test_weights_outside_of_the_folder_of_the_file_are_refused(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    weights = model.graph.initializer[0]
    (tmp_path / "outside.bin").write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", "../outside.bin"
    path = tmp_path / "model" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="cannot be loaded by onnxruntime"):
        OnnxDetector.load(path, "cpu")


@pytest.mark.parametrize("label", [-2, 1000])
def test_labels_that_no_name_has_are_refused(exported: Path, monkeypatch: pytest.MonkeyPatch, label: int) -> None:
    detector, image = OnnxDetector.load(exported), np.zeros((64, 64, 3), dtype=np.uint8)
    run = onnx_module.run_graph

    def hostile(*values: Any) -> Any:
        boxes, labels, *others = run(*values)
        return [boxes, np.full_like(labels, label), *others]

    monkeypatch.setattr(onnx_module, "run_graph", hostile)
    with pytest.raises(ArtifactError, match="labels that no name has"):
        detector(image)


def test_a_lack_of_memory_is_explained(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx_detector = OnnxDetector.load(exported, "cpu")
    errors = onnxruntime.capi.onnxruntime_pybind11_state

    class Full:
        def run(self, *_: Any) -> None:
            raise errors.RuntimeException("Failed to allocate memory for requested buffer of size 9")

    monkeypatch.setattr(onnx_detector, "_session", Full())
    with pytest.raises(ArtifactError, match=r"onnxruntime cannot run the model: Failed to allocate .*--tile"):
        onnx_detector(np.zeros((64, 96, 3), np.uint8))

    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("ezsd.inference.onnx_detector.resize_pixels", full)
    with pytest.raises(ArtifactError, match="Memory is not sufficient"):
        onnx_detector(np.zeros((64, 96, 3), np.uint8))


@pytest.mark.parametrize(
    "changes",
    [
        {"embeddings": np.zeros((1, 4), np.float32)}, {"embeddings": np.zeros((2, 3), np.float32)},
        {"embeddings": np.zeros(2, np.float32)}, {"embeddings": np.array(["a", "b"])},
        {"embeddings": np.full((2, 4), np.nan, np.float32)}, {"names": np.arange(2)},
        {"names": np.array([["a", "b"]])}, {"embeddings": np.zeros((100_000, 4), np.float32)},
    ],
)  # fmt: skip
def test_names_files_that_the_export_does_not_write_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "model.names.npz"
    content = {"names": np.array(["a", "b"]), "embeddings": np.zeros((2, 4), np.float32), "model_id": "this"}
    np.savez_compressed(path, **content)
    assert list(read_names(path, "this", 4)) == ["a", "b"]
    np.savez_compressed(path, **content | changes)
    with pytest.raises(ArtifactError, match="cannot be read as a names file"):
        read_names(path, "this", 4)


def test_impossible_exports_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"ends in \.onnx"):
        export_onnx(tmp_path, tmp_path / "model.pt")
    with pytest.raises(RecipeError, match="no names file"):
        export_onnx(tmp_path, tmp_path / "names.npz", None, OnnxOptions(baked=True))
    with pytest.raises(DataError, match="int8 needs images"):
        export_onnx(tmp_path, tmp_path / "model.onnx", None, OnnxOptions(precision="int8", calibration=tmp_path))


def test_detect_command_needs_only_the_packages_that_the_docs_list(exported: Path, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(image)
    code = command_without_torch(listed_packages())
    out = tmp_path / "out"
    arguments = ["detect", str(exported), str(image), "--out", str(out), "--multi-label", "--threshold", "0"]
    arguments += ["--save", "images,json,jsonl,csv,coco,coco-results,yolo,label-studio,cvat"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads((out / "detections.json").read_text())
    assert len(written["images"][0]["detections"]) == 30
    assert {"name", "score", "box", "mask"} == set(written["images"][0]["detections"][0])


def _copied(error: Exception) -> list[str]:
    """Return the words of the command at the end of a message, as a shell reads them."""
    return shlex.split("ezsd " + str(error).rpartition(": ezsd ")[2])


def _same(one: sv.Detections, other: sv.Detections) -> None:
    assert len(one) > 3
    assert list(one["class_name"]) == list(other["class_name"])
    assert np.abs(one.xyxy - other.xyxy).max() < 0.5
    assert np.abs(one.confidence - other.confidence).max() < 1e-3
    assert (one.mask is None) == (other.mask is None)
    if one.mask is not None:
        assert one.mask.shape == other.mask.shape
        assert (np.asarray(one.mask) != np.asarray(other.mask)).mean() < 1e-3

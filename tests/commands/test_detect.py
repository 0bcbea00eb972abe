"""ezsd detect: everything in, drawings and files out, and a summary."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from ezsd.cli import app
from ezsd.inference.detector import Detector
from ezsd.inference.phrase_embeddings import PhraseEmbeddings
from ezsd.inference.sources import open_source
from ezsd.inference.stream import Found
from ezsd.inference.video import video_writer
from tiny import SPLIT, make_tiny_coco
from tiny_run import EMBEDDING_DIM, make_model_of_run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_of_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_coco(tmp_path_factory.mktemp("data")).images


def _detect(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["detect", *map(str, arguments)])


def _written(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "detections.json").read_text())
    return content


def test_a_folder_gives_drawings_detections_and_a_summary(model: Path, images: Path, tmp_path: Path) -> None:
    result = _detect(model, images, "--vocabulary", "circle, square", "--threshold", 0.3, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    written = _written(tmp_path)
    assert written["vocabulary"] == ["circle", "square"] and written["skipped"] == []
    assert [entry["image"] for entry in written["images"]] == list(map(str, sorted(images.iterdir())))
    count = sum(len(entry["detections"]) for entry in written["images"])
    assert count and f"found {count} objects in " in result.stdout and "of 8 images" in result.stdout
    assert " images/s" in result.stdout and f"wrote drawings to {tmp_path}\n" in result.stdout
    for path in images.iterdir():
        with Image.open(tmp_path / f"{path.stem}_detected.jpg") as drawn:
            drawn.load()


def test_the_thresholds_of_each_name_are_written(model: Path, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "thresholds.json").write_text(json.dumps({"other": 0.4, "names": {"circle": 0.25}}))
    image = images / "000004.jpg"
    assert _detect(folder, image, "--vocabulary", "circle, bar", "--out", tmp_path / "a").exit_code == 0
    written = _written(tmp_path / "a")
    assert (written["threshold"], written["thresholds"]) == (None, {"circle": 0.25, "bar": 0.4})
    given = ("--vocabulary", "circle, bar", "--threshold", 0.5, "--out", tmp_path / "b")
    assert _detect(folder, image, *given).exit_code == 0
    written = _written(tmp_path / "b")
    assert (written["threshold"], written["thresholds"]) == (0.5, {"circle": 0.5, "bar": 0.5})


def test_names_that_the_teacher_cannot_tell_apart_are_noted(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))
    one = torch.nn.functional.normalize(torch.ones(1, EMBEDDING_DIM), dim=1)
    monkeypatch.setattr(PhraseEmbeddings, "_encode", lambda _, phrases, *__: one.repeat(len(phrases), 1))
    result = _detect(model, images / "000004.jpg", "--vocabulary", "cone, pylon", "--out", tmp_path / "out")
    assert result.exit_code == 0 and 'can hardly tell "cone" and "pylon" apart' in result.output


def test_run_folder_gives_its_model_and_names(model: Path, images: Path, tmp_path: Path) -> None:
    assert _detect(model.parents[1], images / "000004.jpg", "--out", tmp_path).exit_code == 0
    assert _written(tmp_path)["vocabulary"] == list(SPLIT.names)


def test_every_format_is_written_on_request(model: Path, images: Path, tmp_path: Path) -> None:
    formats = "json,jsonl,csv,coco,coco-results,yolo,label-studio,cvat"
    result = _detect(model, images, "--out", tmp_path, "--save", formats, "--threshold", 0.2)
    assert result.exit_code == 0, result.output
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "detections.json", "detections.jsonl", "detections.csv", "coco.json", "coco_results.json", "labels",
        "data.yaml", "label_studio.json", "label_config.xml", "cvat.xml",
    }  # fmt: skip
    wrong = _detect(model, images, "--out", tmp_path, "--save", "xml")
    assert wrong.exit_code == 2 and "expected of images, json" in wrong.stderr


def test_bad_images_are_named_skipped_and_counted(model: Path, images: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("not an image")
    result = _detect(model, images, broken, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert f"{broken}: not an image" in result.stderr and "skipped 1 that cannot be read" in result.stdout
    assert len(_written(tmp_path / "out")["images"]) == 8
    assert "broken.jpg" in _written(tmp_path / "out")["skipped"][0]
    alone = _detect(model, broken, "--out", tmp_path / "none")
    assert alone.exit_code == 2 and "broken.jpg" in alone.stderr and not (tmp_path / "none").exists()


def test_a_thousand_bad_images_do_not_print_a_thousand_lines(model: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    for number in range(1000):
        (tmp_path / f"bad/{number}.jpg").write_text("not an image")
    result = _detect(model, tmp_path / "bad", "--out", tmp_path / "none")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert sum(".jpg" in line for line in lines) == 11  # ten warnings, and one in the error
    assert any("990 more that cannot be read" in line for line in lines)
    assert "None of 1,000 images can be read" in lines[-1]


def test_a_missing_file_is_an_error_before_anything_is_done(model: Path, images: Path, tmp_path: Path) -> None:
    result = _detect(model, images, tmp_path / "missing.jpg", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "missing.jpg does not exist" in result.stderr
    assert not (tmp_path / "out").exists()


def test_nothing_found_says_the_best_score(model: Path, images: Path, tmp_path: Path) -> None:
    result = _detect(model, images, "--out", tmp_path, "--threshold", 1)
    assert result.exit_code == 0
    assert "found 0 objects in 0 of 8 images" in result.stdout and "the best score was 0." in result.stdout


def test_the_output_folder_inside_the_source_is_not_a_source(model: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for path in images.iterdir():
        (tmp_path / "images" / path.name).write_bytes(path.read_bytes())
    for _ in range(2):
        assert _detect(model, tmp_path / "images", "--out", tmp_path / "images/found").exit_code == 0
    assert len(_written(tmp_path / "images/found")["images"]) == 8


def test_images_and_drawings_with_the_same_name_are_not_replaced(model: Path, images: Path, tmp_path: Path) -> None:
    copies = [tmp_path / folder / "cat.jpg" for folder in ("a", "b")]
    for image in copies:
        image.parent.mkdir()
        image.write_bytes((images / "000004.jpg").read_bytes())
    assert _detect(model, *copies, "--out", tmp_path / "a").exit_code == 0
    assert copies[0].read_bytes() == (images / "000004.jpg").read_bytes()
    assert len(list((tmp_path / "a").glob("*.jpg"))) == 3


def test_a_video_is_drawn_as_a_video_and_its_objects_are_numbered(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "moving.mp4"
    noise = np.random.default_rng(0).integers(90, 150, (64, 96, 3), dtype=np.uint8)
    with video_writer(path, 10, (96, 64)) as write:
        for step in range(8):
            frame = noise.copy()
            frame[20:44, 4 * step + 5 : 4 * step + 29] = (220, 40, 40)
            write(frame)
    out = tmp_path / "out"
    result = _detect(
        model, path, "--track", "--stride", 2, "--threshold", 0.2, "--out", out, "--save", "images,json,csv"
    )
    assert result.exit_code == 0, result.output
    drawn = list(open_source(out / "moving_detected.mp4"))
    assert len(drawn) == 4 and drawn[0].video is not None and drawn[0].video.fps == pytest.approx(5)
    frames = _written(out)["images"]
    assert [entry["frame"] for entry in frames] == [0, 2, 4, 6]
    tracks = [{found.get("track") for found in entry["detections"]} - {None} for entry in frames]
    assert tracks[1] and tracks[1] & tracks[2] & tracks[3]


def test_nothing_is_said_of_drawings_that_are_not_asked_for(model: Path, images: Path, tmp_path: Path) -> None:
    assert "drawings" not in _detect(model, images, "--out", tmp_path, "--save", "json").stdout


def test_ctrl_c_keeps_what_was_found_and_completes_the_video(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with video_writer(tmp_path / "a.mp4", 10, (96, 64)) as write:
        for _ in range(30):
            write(np.zeros((64, 96, 3), np.uint8))
    stream = Detector.stream

    def interrupted(*arguments: Any, **options: Any) -> Iterator[Found]:
        yield from islice(stream(*arguments, **options), 5)
        raise KeyboardInterrupt

    monkeypatch.setattr(Detector, "stream", interrupted)
    result = _detect(model, tmp_path / "a.mp4", "--out", tmp_path / "out")
    assert result.exit_code == 130 and "the results so far are written" in result.stderr
    assert len(_written(tmp_path / "out")["images"]) == 5
    assert len(list(open_source(tmp_path / "out/a_detected.mp4"))) == 5


def test_ctrl_c_before_the_first_image_is_not_an_error(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> Iterator[Found]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(Detector, "stream", interrupted)
    result = _detect(model, images, "--out", tmp_path / "out")
    assert result.exit_code == 130 and "so far" not in result.stderr, result.output
    assert not (tmp_path / "out/detections.json").exists()


def test_missing_packages_are_named_with_their_extra(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    result = _detect(model, images, "--track", "--out", tmp_path)
    assert result.exit_code == 2 and "pip install 'ezsd[video]'" in result.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--vocabulary", " , "], "vocabulary is empty"),
        (["--device", "tpu"], "device tpu: expected auto, cpu, cuda"),
        (["--device", "cuda:9"], "device cuda:9"),
        (["--tile", "640", "--overlap", "2"], "overlap 2.0"),
        (["--tile", "3"], "tile 3"),
    ],
)
def test_wrong_options_are_errors(
    arguments: list[str], message: str, model: Path, images: Path, tmp_path: Path
) -> None:
    result = _detect(model, images, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2 and message in result.stderr


def test_urls_need_permission_and_the_missing_model_is_named(model: Path, images: Path, tmp_path: Path) -> None:
    url = _detect(model, "http://127.0.0.1:9/cat.jpg", "--out", tmp_path)
    assert url.exit_code == 2 and "--allow-network" in url.stderr
    assert _detect(tmp_path, images, "--out", tmp_path / "out").exit_code == 2


def test_tiles_find_objects_in_all_parts_of_a_large_image(model: Path, images: Path, tmp_path: Path) -> None:
    tile = np.asarray(Image.open(images / "000011.jpg"))
    Image.fromarray(np.tile(tile, (3, 3, 1))).save(tmp_path / "mosaic.png")
    for merge in ("nms", "nmm"):
        out = tmp_path / merge
        result = _detect(
            model, tmp_path / "mosaic.png", "--tile", 96, "--merge", merge, "--threshold", 0.2, "--out", out
        )
        assert result.exit_code == 0, result.output
        boxes = np.array([found["box"] for found in _written(out)["images"][0]["detections"]])
        assert boxes[:, 2].max() > 200 and boxes[:, 3].max() > 140

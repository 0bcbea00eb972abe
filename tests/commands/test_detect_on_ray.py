"""ezsd detect and label with actors of Ray: the same files as in one process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from ezsd.cli import app, options
from ezsd.commands import detect_on_ray
from pickled_engine import Pickled
from tiny import make_tiny_coco
from tiny_run import make_model_of_run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_of_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = make_tiny_coco(tmp_path).images
    (root / "000005.jpg").write_bytes(b"no image")
    with Image.open(root / "000004.jpg") as image:
        image.save(root / "000004.png")  # its drawing has the name of that of 000004.jpg
    shutil.copytree(root, root / "more images")
    return root


@pytest.fixture(params=["pickled", pytest.param("ray", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "ray":
        request.getfixturevalue("local_ray")
    else:
        monkeypatch.setattr(options, "RayEngine", Pickled)
    monkeypatch.setattr(detect_on_ray, "_PART_IMAGES", 3)


def _run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("asked", [("--multi-label",), ("--vocabulary", "bar, circle", "--tile", 64)])
def test_detect_writes_the_same_files(model: Path, images: Path, tmp_path: Path, asked: tuple[Any, ...]) -> None:
    command = ("detect", model, images, "--threshold", 0.2, "--save", "images,json,csv,coco", *asked)
    assert _run(*command, "--out", tmp_path / "local").exit_code == 0
    result = _run(*command, "--out", tmp_path / "ray", "--engine", "ray", "--actors", 2)
    assert result.exit_code == 0, result.output
    local = _files(tmp_path / "local")
    assert sum("_detected" in name for name in local) == 18 and "000004_detected_2.jpg" in local
    assert _files(tmp_path / "ray") == local
    assert "of 18 images" in result.output and "skipped 2 that cannot be read" in result.output


@pytest.mark.usefixtures("engine")
def test_label_writes_the_same_files(model: Path, images: Path, tmp_path: Path) -> None:
    (images / "000004.png").unlink()
    (images / "more images" / "000004.png").unlink()
    command = ("label", model, images, "--to", "yolo", "--threshold", 0.2)
    assert _run(*command, "--out", tmp_path / "local").exit_code == 0
    result = _run(*command, "--out", tmp_path / "ray", "--engine", "ray", "--actors", 2)
    assert result.exit_code == 0, result.output
    assert _files(tmp_path / "ray") == _files(tmp_path / "local")


@pytest.mark.usefixtures("engine")
def test_a_file_that_is_given_twice_is_drawn_twice(model: Path, images: Path, tmp_path: Path) -> None:
    command = ("detect", model, images / "000004.jpg", images / "000011.jpg", images / "000004.jpg", "--threshold", 0.2)
    assert _run(*command, "--out", tmp_path / "local").exit_code == 0
    assert _run(*command, "--out", tmp_path / "ray", "--engine", "ray").exit_code == 0
    assert "000004_detected_2.jpg" in _files(tmp_path / "ray")
    assert _files(tmp_path / "ray") == _files(tmp_path / "local")


def test_ctrl_c_before_the_first_part_is_not_an_error(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Pickled):
        def run(self, load: Any, jobs: Any) -> Iterator[Any]:
            raise KeyboardInterrupt

    monkeypatch.setattr(options, "RayEngine", Interrupted)
    result = _run("detect", model, images, "--out", tmp_path / "out", "--engine", "ray")
    assert result.exit_code == 130 and "Interrupted" in result.stderr and "so far" not in result.stderr


@pytest.mark.parametrize("source", ["clip.mp4", "images"])
def test_what_cannot_be_shared_is_refused(
    model: Path, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "RayEngine", Pickled)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"no image")
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    result = _run("detect", model, tmp_path / source, "--out", tmp_path / "out", "--engine", "ray")
    expected = "--engine ray takes image files" if source == "clip.mp4" else "a.jpg"
    assert result.exit_code == 2 and expected in result.output

"""open_source: everything that contains images gives the same frames."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ezsd.errors import DataError, MissingExtraError
from ezsd.inference.sources import open_source
from ezsd.inference.video import camera_format, video_writer

Pixels = np.ndarray[Any, Any]


def _pixels(seed: int, height: int = 20, width: int = 30) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images in a folder with subfolders, named so that text order and natural order differ."""
    root = tmp_path_factory.mktemp("images")
    for seed, name in enumerate(["frame_1.png", "frame_2.png", "frame_10.png", "more/a b.PNG", "more/[1].png"]):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(_pixels(seed)).save(path)
    (root / "notes.txt").write_text("not an image")
    (root / ".hidden.png").write_bytes((root / "frame_1.png").read_bytes())
    return root


def make_video(path: Path, frames: int = 12, fps: float = 10, size: tuple[int, int] = (64, 48)) -> Path:
    """Write a video whose n-th frame has the gray value 20 n."""
    with video_writer(path, fps, size) as write:
        for number in range(frames):
            write(np.full((size[1], size[0], 3), 20 * number % 256, np.uint8))
    return path


def test_folders_are_searched_in_natural_order(folder: Path) -> None:
    source = open_source(folder)
    frames = list(source)
    assert source.total == 5 and source.problems == []
    assert [frame.file_name for frame in frames] == [
        "frame_1.png", "frame_2.png", "frame_10.png", "more/[1].png", "more/a b.PNG",
    ]  # fmt: skip
    np.testing.assert_array_equal(frames[1].pixels, _pixels(1))
    assert frames[0].path == folder / "frame_1.png"
    assert len(list(open_source(folder, exclude=folder / "more"))) == 3
    for around in (folder, folder.parent):  # the output folder is around the source
        assert len(list(open_source([folder, f"{folder}/**/*.png"], exclude=around))) == 9


def test_patterns_and_sequences_and_literal_names(folder: Path) -> None:
    def names(text: str) -> list[str]:
        return [frame.file_name for frame in open_source(f"{folder}/{text}")]

    assert names("frame_*.png") == ["frame_1.png", "frame_2.png", "frame_10.png"]
    assert names("frame_%d.png") == ["frame_1.png", "frame_2.png", "frame_10.png"]
    assert names("frame_%02d.png") == ["frame_10.png"]
    assert names("**/*.png")[-1] == "more/[1].png"
    assert names("more/[1].png") == ["[1].png"]


def test_images_in_memory_lists_and_generators(folder: Path) -> None:
    array = _pixels(1)
    tensor = torch.from_numpy(array).permute(2, 0, 1)

    def generated() -> Iterator[Any]:
        yield array
        yield folder / "frame_2.png"
        yield 3
        yield Image.fromarray(array)

    for given in (array, tensor, tensor.float() / 255, tensor.bfloat16(), Image.fromarray(array), [array], (tensor,)):
        frames = list(
            open_source(given if not isinstance(given, torch.Tensor) or given.dtype != torch.bfloat16 else tensor)
        )
        assert len(frames) == 1
        np.testing.assert_array_equal(frames[0].pixels, array)
    assert open_source([array, folder]).total == 6
    assert len(list(open_source(np.stack([array, array])))) == 2
    assert len(list(open_source(torch.stack([tensor] * 3)))) == 3
    source = open_source(generated())
    assert source.total is None
    frames = list(source)
    assert [frame.file_name for frame in frames] == ["image_000001.png", "frame_2.png", "image_000002.png"]
    assert len(source.problems) == 1 and "int" in source.problems[0]


def test_the_array_of_the_caller_is_copied() -> None:
    array = _pixels(0)
    frame = next(iter(open_source(array)))
    frame.pixels[:] = 0
    np.testing.assert_array_equal(array, _pixels(0))


def test_bad_files_are_named_and_the_rest_goes_on(folder: Path, tmp_path: Path) -> None:
    broken, text, damaged = tmp_path / "a.png", tmp_path / "b.jpg", tmp_path / "c.mp4"
    broken.write_bytes((folder / "frame_1.png").read_bytes()[:200])
    text.write_text("not an image")
    damaged.write_bytes(b"not a video")
    source = open_source([tmp_path, folder / "frame_1.png"])
    assert len(list(source)) == 1
    assert len(source.problems) == 3
    assert all(any(path.name in problem for problem in source.problems) for path in (broken, text, damaged))


def test_without_the_extra_videos_beside_images_are_skipped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes((folder / "frame_1.png").read_bytes())
    video = make_video(tmp_path / "photos/clip.mp4", frames=2)
    monkeypatch.setitem(sys.modules, "av", None)
    for given in (tmp_path / "photos", [video, tmp_path / "photos/a.png"], iter([video, tmp_path / "photos/a.png"])):
        source = open_source(given)
        assert [frame.file_name for frame in source] == ["a.png"]
        assert len(source.problems) == 1
        assert (
            "clip.mp4: a video, and its reader is missing" in source.problems[0]
            and "'ezsd[video]'" in source.problems[0]
        )
    for alone in (video, [video, video], f"{tmp_path}/photos/*.mp4"):
        with pytest.raises(MissingExtraError, match="PyAV"):
            open_source(alone)


def test_of_many_bad_files_ten_are_named_and_the_others_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(23):
        (tmp_path / f"{number}.jpg").write_text("not an image")
    source = open_source(tmp_path)
    with caplog.at_level("WARNING"):
        assert list(source) == []
    assert len(source.problems) == 23
    messages = [record.getMessage() for record in caplog.records]
    assert [message.startswith("skipped: ") for message in messages] == [True] * 11
    assert "0.jpg" in messages[0] and messages[-1] == "skipped: 13 more that cannot be read"
    with pytest.raises(DataError) as error:
        open_source([tmp_path / f"missing_{number}.jpg" for number in range(23)])
    assert len(error.value.problems) == 11 and "and 13 more" in error.value.problems[-1]


def test_cameras_are_opened_by_name_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    from av import device

    monkeypatch.setattr(sys, "platform", "win32")
    listed = [
        device.DeviceInfo("@device_sw_mic", "Microphone", False, ["audio"]),
        device.DeviceInfo("@device_pnp_1", "Webcam", True, ["video"]),
        device.DeviceInfo("@device_pnp_2", "Capture card", False, ["video", "audio"]),
    ]
    monkeypatch.setattr(device, "enumerate_input_devices", lambda form: listed if form == "dshow" else [])
    assert camera_format(0) == ("video=@device_pnp_1", "dshow")
    assert camera_format(1) == ("video=@device_pnp_2", "dshow")
    with pytest.raises(DataError, match=r"camera:2: .* camera:0 \(Webcam\), camera:1 \(Capture card\)"):
        open_source("camera:2")
    monkeypatch.setitem(sys.modules, "av.device", None)
    with pytest.raises(MissingExtraError, match="pip install --upgrade av"):
        open_source("camera:0")


@pytest.mark.parametrize(
    "given, message",
    [
        ("missing.jpg", "missing.jpg does not exist"),
        ("*.jpg", "matches no images"),
        ("%03d.jpg", "matches no images"),
        ("https://example.com/cat.jpg", "allow-network"),
        ("rtsp://camera/1", "allow-network"),
        (3, "int"),
        (None, "NoneType"),
        (["missing.jpg", 3.5], "float"),
        ("x" * 5000, "cannot be read as a path"),
    ],
)
def test_sources_that_do_not_exist_are_errors_at_once(
    given: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        open_source(given)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contains no images"):
        open_source(tmp_path)


def test_videos_give_every_nth_frame_with_its_time(tmp_path: Path) -> None:
    path = make_video(tmp_path / "gray.mp4")
    source = open_source(path)
    assert source.total == 12
    frames = list(source)
    assert [round(float(frame.pixels.mean()) / 20) for frame in frames] == list(range(12))
    third = list(open_source(path, stride=3))
    assert [frame.number for frame in third] == [0, 3, 6, 9]
    assert [frame.file_name for frame in third][1] == "gray_000003.jpg"
    assert third[1].seconds == pytest.approx(0.3) and third[1].video is third[0].video
    assert third[0].video is not None and third[0].video.fps == pytest.approx(10 / 3)
    assert open_source([path, path], stride=5).total == 6


def test_written_videos_play_in_browsers(tmp_path: Path) -> None:
    import av

    path = make_video(tmp_path / "gray.mp4", size=(65, 49))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (64, 48) and stream.average_rate == 10
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # plays while it loads
    assert [each.name for each in tmp_path.iterdir()] == ["gray.mp4"]


def test_a_video_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), video_writer(tmp_path / "a.mp4", 10, (64, 48)) as write:
        write(np.zeros((48, 64, 3), np.uint8))
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_video_gives_the_frames_before_the_damage(tmp_path: Path) -> None:
    path = make_video(tmp_path / "gray.mp4", frames=60, size=(320, 240))
    path.write_bytes(path.read_bytes()[:-400])
    source = open_source(path)
    assert 0 < len(list(source)) <= 60


def test_urls_are_read_when_the_network_is_allowed(folder: Path, tmp_path: Path) -> None:
    make_video(tmp_path / "gray.mp4")
    Image.fromarray(_pixels(1)).save(tmp_path / "cat.png")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        source = open_source(
            [f"{address}/cat.png?size=1", f"{address}/gray.mp4", f"{address}/none.png"], allow_network=True
        )
        frames = list(source)
    finally:
        server.shutdown()
    np.testing.assert_array_equal(frames[0].pixels, _pixels(1))
    assert frames[0].file_name == "cat.png" and len(frames) == 13
    assert len(source.problems) == 1 and "none.png" in source.problems[0]


def test_a_local_playlist_cannot_open_addresses(tmp_path: Path) -> None:
    path = tmp_path / "list.ts"
    path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    source = open_source(path)
    assert list(source) == [] and len(source.problems) == 1


def test_a_consumer_can_stop_early(folder: Path) -> None:
    frames = iter(open_source([folder] * 20))
    next(frames)
    frames.close()  # type: ignore[attr-defined]


def test_sources_and_outputs_do_not_need_torch() -> None:
    code = (
        "import sys\nimport ezsd.commands.detect, ezsd.commands.label, ezsd.inference.outputs\n"
        "import ezsd.inference.sources, ezsd.inference.stream, ezsd.inference.vocabulary\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

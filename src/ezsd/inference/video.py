"""Read and write videos with PyAV (extra ``video``); without torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ezsd.errors import ArtifactError, DataError, MissingExtraError
from ezsd.utils.files import written_whole

_DEFAULT_FPS = 25.0  # of streams that do not say theirs


@dataclass(frozen=True)
class Video:
    """A video, camera or stream.

    Attributes:
        name: Its path or URL.
        file_name: A relative path with slashes, as in :class:`ezsd.inference.sources.Frame`.
        fps: Frames per second that are used, after the stride.
    """

    name: str
    file_name: str
    fps: float


@dataclass(frozen=True)
class OpenedVideo:
    """A video that is being read.

    Attributes:
        name: Its path or URL.
        container: The container of PyAV.
        fps: Frames per second.
        frames: The number of frames; None if the file does not say it.
    """

    name: str
    container: Any
    fps: float
    frames: int | None


@contextmanager
def open_video(location: str, form: str | None = None) -> Iterator[OpenedVideo]:
    """Open a video file, stream or camera.

    Args:
        location: A path, URL or device.
        form: The format of PyAV; None = recognized from the content.

    Raises:
        DataError: It cannot be opened, or has no video.
        MissingExtraError: PyAV is not installed.
    """
    av = _av()
    # A local file must not make the decoder open addresses (playlists can name any).
    options = {} if form or "://" in location else {"protocol_whitelist": "file,crypto,data"}
    try:
        container = av.open(location, format=form, options=options, timeout=None if form else 30.0)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"{location}: cannot be read as a video ({error})") from None
    with container:
        if not container.streams.video:
            raise DataError(f"{location}: the file has no video")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = stream.average_rate or stream.guessed_rate
        yield OpenedVideo(location, container, float(rate) if rate else _DEFAULT_FPS, _frame_count(stream, rate))


def _frame_count(stream: Any, rate: Fraction | None) -> int | None:
    if stream.frames:
        return int(stream.frames)
    if stream.duration and stream.time_base and rate:
        return round(float(stream.duration * stream.time_base * rate))
    return None


def video_frames(opened: OpenedVideo, stride: int) -> Iterator[tuple[int, float | None, Any]]:
    """Yield the number, time (seconds) and PyAV frame of every ``stride``-th frame.

    Raises:
        DataError: The video is damaged; the frames before the damage were yielded.
    """
    av = _av()
    number = -1
    try:
        for number, image in enumerate(opened.container.decode(video=0)):
            if number % stride == 0:
                yield number, image.time, image
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"{opened.name}: damaged after frame {number} ({error})") from None
    if number < 0:
        raise DataError(f"{opened.name}: the video has no frames")


def frame_pixels(image: Any) -> np.ndarray[Any, Any]:
    """Convert a frame of PyAV to upright RGB, uint8 [H, W, 3]."""
    pixels = image.to_ndarray(format="rgb24")
    turns = round(getattr(image, "rotation", 0) / 90) % 4  # counterclockwise, as phones store it
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def camera_format(number: int) -> tuple[str, str]:
    """Return the device and the format of PyAV of a local camera.

    Raises:
        DataError: Windows has no camera of this number.
        MissingExtraError: PyAV is not installed, or cannot list the cameras of Windows.
    """
    if sys.platform == "darwin":
        return str(number), "avfoundation"
    if sys.platform == "win32":
        return f"video={_windows_camera(number)}", "dshow"
    return f"/dev/video{number}", "v4l2"


def _windows_camera(number: int) -> str:
    """Return the name by which DirectShow opens a camera; it knows no numbers."""
    av = _av()
    try:
        from av.device import enumerate_input_devices
    except ImportError:
        raise MissingExtraError(
            f"camera:{number}: this PyAV cannot list cameras. Install it with: pip install --upgrade av"
        ) from None
    try:
        found = [each for each in enumerate_input_devices("dshow") if set(each.media_types) != {"audio"}]
    except (av.error.FFmpegError, OSError, ValueError):  # also if there is none
        found = []
    if number >= len(found):
        names = ", ".join(f"camera:{place} ({each.description})" for place, each in enumerate(found)) or "none"
        raise DataError(f"camera:{number}: there is no such camera. Cameras of this machine: {names}.")
    return str(found[number].name)


@contextmanager
def video_writer(path: Path, fps: float, size: tuple[int, int]) -> Iterator[Callable[[np.ndarray[Any, Any]], None]]:
    """Write an MP4 (H.264, yuv420p) that browsers and phones play. The file appears when it is complete.

    Args:
        path: The file to write.
        fps: Frames per second.
        size: Width and height in pixels; odd sizes lose their last column or row.

    Yields:
        ``write(pixels)``, which appends a frame, uint8 RGB [H, W, 3]; frames of another size are resized.

    Raises:
        ArtifactError: The file cannot be written, or PyAV was built without an H.264 encoder.
        MissingExtraError: PyAV is not installed.
    """
    av = _av()
    if "libx264" not in av.codecs_available:
        raise ArtifactError(f"Cannot write {path}: this build of PyAV has no H.264 encoder (libx264).")
    with written_whole(path) as temporary:
        # The index is moved to the front, so that a browser plays the video while it loads.
        container = av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"})
        with container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
            stream.width, stream.height = (max(2, side // 2 * 2) for side in size)
            stream.pix_fmt = "yuv420p"

            def write(pixels: np.ndarray[Any, Any]) -> None:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                frame = frame.reformat(width=stream.width, height=stream.height, format="yuv420p")
                container.mux(stream.encode(frame))

            yield write
            container.mux(stream.encode())


def _av() -> Any:
    try:
        import av
        import av.error
    except ImportError:
        raise MissingExtraError("Videos require PyAV. Install it with: pip install 'ezsd[video]'") from None
    return av

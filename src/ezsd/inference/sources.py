"""One way in for images: files, folders, patterns, arrays, generators, videos, cameras and URLs; without torch."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

import numpy as np
from PIL import Image

from ezsd.data.formats.image_files import IMAGE_SUFFIXES
from ezsd.data.formats.problems import Problems
from ezsd.data.images import decode_pixels
from ezsd.errors import DataError, MissingExtraError
from ezsd.inference.inputs import is_tensor, read_pixels
from ezsd.inference.media_files import VIDEOS, files_below, inside, is_media, natural, until_magic
from ezsd.inference.video import Video, camera_format, frame_pixels, open_video, video_frames

logger = logging.getLogger(__name__)

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_CAMERA = re.compile(r"camera:(\d+)")
_NUMBERED = re.compile(r"%0?(\d*)d")
_READERS = min(8, os.cpu_count() or 1)  # a GPU detects as fast as several cores decode
_URL_BYTES, _URL_SECONDS = 100_000_000, 30
_WARNED = 10  # images that are named when they are skipped; more are counted


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a source.

    Attributes:
        pixels: [H, W, 3] uint8, RGB, upright.
        name: What to call it in messages: the path, URL, or place in the source.
        file_name: A relative path with slashes: below the folder that was given, else the name of the file. Frames of
            videos are called as if they were saved as images, as in ``clip_000012.jpg``.
        path: The image file; None if it is not a local file.
        video: The video that the frame belongs to; None for images.
        number: The number of the frame in its video, from 0.
        seconds: The time of the frame in its video; None if unknown.
    """

    pixels: np.ndarray[Any, Any]
    name: str
    file_name: str
    path: Path | None = None
    video: Video | None = None
    number: int = 0
    seconds: float | None = None


class ImageFile(NamedTuple):
    """An image file of a source; see :class:`Frame`."""

    path: Path
    file_name: str


Job = Callable[[], Frame]  # decodes one image in a thread; raises DataError


class Source:
    """The images of a source, in order. They are decoded in threads, a few ahead of the consumer.

    An image that cannot be read is skipped: its message is added to ``problems``, and the first ten are logged.

    Attributes:
        total: The number of images; None if it is not known (generators, streams, some videos).
        problems: One message for each image that was skipped so far.
    """

    def __init__(self, parts: Sequence[_Part]) -> None:
        counts = [part.count for part in parts]
        self.total = None if None in counts else sum(count or 0 for count in counts)
        self.problems: list[str] = []
        self._parts = parts

    def __iter__(self) -> Iterator[Frame]:
        """Yield the images that can be read."""
        waiting: deque[Future[Frame]] = deque()
        with ThreadPoolExecutor(_READERS) as pool:
            for job in (job for part in self._parts for job in part.jobs()):
                waiting.append(pool.submit(job))
                if len(waiting) > 2 * _READERS:
                    yield from self._read(waiting.popleft())
            while waiting:
                yield from self._read(waiting.popleft())
        self.count_skipped()

    @property
    def known_files(self) -> list[ImageFile]:
        """The image files of the source, beside whatever else is in it."""
        return [file for part in self._parts for file in part.files]

    def image_files(self, user: str, advice: str) -> list[ImageFile]:
        """Return the files of a source of image files, without reading them.

        Args:
            user: What takes image files only, for the message.
            advice: What to do with others, for the message.

        Raises:
            DataError: There is something else in it.
        """
        if any(part.others for part in self._parts):
            raise DataError(
                f"{user} takes image files, and folders and patterns of them; no videos, streams and URLs. {advice}"
            )
        return self.known_files

    def skip(self, problems: Sequence[str]) -> None:
        """Add the messages of images that cannot be read to ``problems``, and log the first ten of all."""
        for problem in problems:
            self.problems.append(problem)
            level = logging.WARNING if len(self.problems) <= _WARNED else logging.DEBUG
            logger.log(level, f"skipped: {problem}")

    def count_skipped(self) -> None:
        """Log the number of skipped images that were not named."""
        if (more := len(self.problems) - _WARNED) > 0:
            logger.warning(f"skipped: {more:,} more that cannot be read")

    def _read(self, future: Future[Frame]) -> Iterator[Frame]:
        try:
            frame = future.result()
        except DataError as error:
            self.skip(error.problems)
        else:
            yield frame


@dataclass(frozen=True)
class _Part:
    jobs: Callable[[], Iterator[Job]]
    count: int | None
    missing: MissingExtraError | None = None  # why nothing of it can be read
    files: Sequence[ImageFile] = ()
    others: bool = True  # whether it has something else than image files


@dataclass(frozen=True)
class _Options:
    allow_network: bool
    stride: int
    exclude: Path | None


def open_source(source: Any, *, allow_network: bool = False, stride: int = 1, exclude: Path | None = None) -> Source:
    """Open anything that contains images.

    Args:
        source: An image or video file; a folder (searched recursively, in natural order); a pattern such as
            ``images/**/*.jpg`` or ``frames/%05d.png``; a URL of an image, a video or a stream; ``camera:0``; a PIL
            image; a uint8 RGB array [H, W, 3] or [N, H, W, 3]; a tensor [3, H, W] or [N, 3, H, W]; a list of these, or
            a generator of them. A :class:`Source` is returned as it is.
        allow_network: Whether URLs may be opened.
        stride: Use every n-th frame of videos, cameras and streams.
        exclude: A folder that is left out of folders and patterns, such as the output folder.

    Raises:
        DataError: A path does not exist, a folder or pattern has no images, a URL is not allowed, or the type of the
            source is unknown. Problems of single images are collected while reading, in :attr:`Source.problems`.
        MissingExtraError: The source contains only videos, and PyAV is not installed. Beside images, they are skipped.
    """
    if stride < 1:
        raise DataError(f"stride {stride}: expected at least 1.")
    if isinstance(source, Source):
        return source
    options = _Options(allow_network, stride, None if exclude is None else exclude.resolve())
    parts = _parts(source, options, _Numbers())
    missing = [part.missing for part in parts if part.missing is not None]
    if missing and len(missing) == len(parts):
        raise missing[0]
    return Source(parts)


def source_of_files(files: Sequence[ImageFile]) -> Source:
    """Return a source of image files that were found before."""
    return Source([_of_files(files)])


def several_images(source: Any) -> str:
    """Return what a source of any number of images is, such as "a folder"; empty if it is none, such as an image."""
    if isinstance(source, Source):
        return "a source"
    if isinstance(source, Iterator):
        return "a generator"
    if not isinstance(source, (str, Path)):
        return ""
    text, path = str(source), Path(source)
    if _URL.match(text):
        return "a URL"
    if _CAMERA.fullmatch(text):
        return "a camera"
    try:
        if path.is_dir():
            return "a folder"
        if path.suffix.lower() in VIDEOS:
            return "a video"
        return "a pattern" if not path.exists() and (glob.has_magic(text) or _NUMBERED.search(path.name)) else ""
    except (OSError, ValueError):  # too long for a path, or with a zero byte
        return ""


class _Numbers:
    """Names for images without a file name."""

    def __init__(self) -> None:
        self.last = 0

    def next(self) -> str:
        self.last += 1
        return f"image_{self.last:06d}"


def _parts(source: Any, options: _Options, numbers: _Numbers) -> list[_Part]:
    if isinstance(source, (str, Path)):
        return [_from_text(str(source), options)]
    if isinstance(source, (np.ndarray, Image.Image)) or is_tensor(source):
        several = getattr(source, "ndim", 3) == 4
        images = [_in_memory(image, numbers) for image in (source if several else [source])]
        return [_Part(lambda: iter(images), len(images))]
    if isinstance(source, Source):
        return list(source._parts)
    if isinstance(source, (list, tuple)):
        parts: list[_Part] = []
        problems = Problems()
        for entry in source:
            try:
                parts += _parts(entry, options, numbers)
            except DataError as error:
                for problem in error.problems:
                    problems.add("sources that cannot be opened", problem)
        if problems:
            raise DataError(problems.shown())
        return parts
    if isinstance(source, Iterable) and not isinstance(source, (bytes, dict, set)):
        return [_Part(partial(_lazily, source, options, numbers), None)]
    raise DataError(
        f"Expected images as a path, folder, pattern, URL, PIL image, array, tensor, or a list or generator of them; "
        f"got {type(source).__name__}."
    )


def _lazily(source: Iterable[Any], options: _Options, numbers: _Numbers) -> Iterator[Job]:
    for entry in source:
        try:
            parts = _parts(entry, options, numbers)
        except DataError as error:
            yield partial(_raise, error)
        else:
            for part in parts:
                yield from part.jobs()


def _in_memory(image: Any, numbers: _Numbers) -> Job:
    name = numbers.next()
    return lambda: Frame(read_pixels(image), name, f"{name}.png")


def _from_text(text: str, options: _Options) -> _Part:
    if _URL.match(text):
        return _from_url(text, options)
    if camera := _CAMERA.fullmatch(text):
        location, form = camera_format(int(camera[1]))
        return _Part(partial(_video_jobs, location, text, text.replace(":", "_"), options, form), None)
    try:
        return _from_path(text, Path(text), options)
    except (OSError, ValueError) as error:  # too long for a path, or with a zero byte
        raise DataError(f"{text[:80]!r} cannot be read as a path: {error}") from None


def _from_path(text: str, path: Path, options: _Options) -> _Part:
    if path.is_dir():
        return _from_files(files_below(path, options.exclude), path, f"{path} contains", options)
    if path.exists():
        return _from_files([path], path.parent, "", options)
    if numbered := _NUMBERED.search(path.name):
        digits = rf"\d{{{numbered[1]}}}" if numbered[1] else r"\d+"
        before, after = path.name[: numbered.start()], path.name[numbered.end() :]
        fits = re.compile(re.escape(before) + digits + re.escape(after))
        found = [each for each in path.parent.glob("*") if fits.fullmatch(each.name)]
        return _from_files(sorted(found, key=natural), path.parent, f"{text} matches", options)
    if glob.has_magic(text):
        root = Path(*until_magic(path))
        exclude = None if inside(root, options.exclude) else options.exclude
        below = (Path(each) for each in glob.iglob(text, recursive=True))
        found = [each for each in below if is_media(each) and each.is_file() and not inside(each, exclude)]
        return _from_files(sorted(found, key=natural), root, f"{text} matches", options)
    raise DataError(f"{text} does not exist. Expected an image, a video, a folder, a pattern or a URL.")


def _from_files(paths: Sequence[Path], root: Path, where: str, options: _Options) -> _Part:
    if not paths:
        raise DataError(
            f"{where} no images or videos. Expected files such as {', '.join(IMAGE_SUFFIXES[:4] + VIDEOS[:1])}."
        )
    files = [ImageFile(path, path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name)
             for path in paths]  # fmt: skip
    videos = [path for path in paths if path.suffix.lower() in VIDEOS]
    if not videos:
        return _of_files(files)
    images = [file for file in files if file.path.suffix.lower() not in VIDEOS]
    frames: Sequence[int | None] = [0] * len(videos)
    missing = None
    try:
        frames = [_frames_of(path, options.stride) for path in videos]
    except MissingExtraError as error:  # videos beside images are named and skipped when they are read
        missing = error if len(videos) == len(paths) else None
    known = len(images) + sum(count or 0 for count in frames)
    return _Part(partial(_file_jobs, files, options), None if None in frames else known, missing, images)


def _of_files(files: Sequence[ImageFile]) -> _Part:
    return _Part(lambda: (partial(_read_file, file) for file in files), len(files), files=files, others=False)


def _file_jobs(files: Sequence[ImageFile], options: _Options) -> Iterator[Job]:
    for file in files:
        path = file.path
        if path.suffix.lower() in VIDEOS:
            try:
                yield from _video_jobs(str(path), str(path), file.file_name, options)
            except MissingExtraError as error:
                yield partial(_raise, DataError(f"{path}: a video, and its reader is missing. {error}"))
        else:
            yield partial(_read_file, file)


def _read_file(file: ImageFile) -> Frame:
    return Frame(decode_pixels(file.path), str(file.path), file.file_name, file.path)


def _from_url(url: str, options: _Options) -> _Part:
    if not options.allow_network:
        raise DataError(f"{url} is a URL, and the network is not allowed. Add --allow-network (allow_network=True).")
    parts = urlsplit(url)
    file_name = Path(unquote(parts.path)).name or parts.netloc
    if parts.scheme in ("http", "https") and Path(file_name).suffix.lower() in IMAGE_SUFFIXES:
        return _Part(lambda: iter([partial(_download, url, file_name)]), 1)
    return _Part(partial(_video_jobs, url, url, file_name, options), None)


def _download(url: str, file_name: str) -> Frame:
    try:
        with closing(urlopen(url, timeout=_URL_SECONDS)) as answer:
            content = answer.read(_URL_BYTES + 1)
    except (OSError, ValueError) as error:
        raise DataError(f"{url} cannot be read: {error}") from None
    if len(content) > _URL_BYTES:
        raise DataError(f"{url} has more than {_URL_BYTES // 1_000_000} MB.")
    return Frame(decode_pixels(Path(url), BytesIO(content)), url, file_name)


def _frames_of(path: Path, stride: int) -> int | None:
    try:
        with open_video(str(path)) as opened:
            return None if opened.frames is None else -(-opened.frames // stride)
    except DataError:
        return 0  # reported when it is read


def _video_jobs(location: str, name: str, file_name: str, options: _Options, form: str | None = None) -> Iterator[Job]:
    try:
        with open_video(location, form) as opened:
            video = Video(name, file_name, opened.fps / options.stride)
            for number, seconds, image in video_frames(opened, options.stride):

                def convert(number: int = number, seconds: float | None = seconds, image: Any = image) -> Frame:
                    place = f"{name}, frame {number}"
                    own = f"{file_name.rpartition('.')[0] or file_name}_{number:06d}.jpg"
                    return Frame(frame_pixels(image), place, own, None, video, number, seconds)

                yield convert
    except DataError as error:
        yield partial(_raise, error)


def _raise(error: DataError) -> Frame:
    raise error

"""Detect objects in everything a source contains: ``ezsd detect``. Works without torch."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import supervision as sv
from typing_extensions import Self

from ezsd.errors import DataError, RecipeError
from ezsd.inference.drawing import draw
from ezsd.inference.outputs import FORMATS, Labeled, image_json, labeled
from ezsd.inference.sources import Frame, Source
from ezsd.inference.stream import Found
from ezsd.inference.video import Video, video_writer
from ezsd.utils.files import write_json, written_whole
from ezsd.utils.format import counted, number
from ezsd.utils.progress import Advance, track

if TYPE_CHECKING:
    from ezsd.utils.precision import PrecisionChoice

logger = logging.getLogger(__name__)

SAVED = ("images", "json", *FORMATS)
_DRAWERS = 2
_WAITING = 8  # drawings that may wait to be written


@dataclass
class Summary:
    """What was found.

    Attributes:
        images: The number of images.
        found_in: The number of images with a detection.
        objects: The number of detections.
        best_below: The best score below a threshold; None if there was none.
        skipped: The number of images that could not be read.
        seconds: The time it took.
    """

    images: int = 0
    found_in: int = 0
    objects: int = 0
    best_below: float | None = None
    skipped: int = 0
    seconds: float = 0.0

    def add(self, found: Found) -> None:
        """Count one image."""
        count = len(found.detections)
        self.join(Summary(1, int(count > 0), count, found.best_below))

    def join(self, other: Summary) -> None:
        """Count what was found in other images."""
        self.images += other.images
        self.found_in += other.found_in
        self.objects += other.objects
        self.best_below = max((best for best in (self.best_below, other.best_below) if best is not None), default=None)

    def __str__(self) -> str:
        """Return the message for people."""
        rate = f", {self.images / self.seconds:.1f} images/s" if self.seconds else ""
        text = f"found {counted(self.objects, 'object')} in {self.found_in:,} of {counted(self.images, 'image')}{rate}"
        if not self.objects:
            best = "no name had any score" if self.best_below is None else f"the best score was {self.best_below:.3f}"
            text += f"; {best}. Lower --threshold to see more"
        return text + (f"; skipped {number(self.skipped)} that cannot be read" if self.skipped else "")


@dataclass
class Results:
    """The results of :func:`detect_source`.

    Attributes:
        images: The detections of each image.
        summary: What was found.
        problems: One message for each image that was skipped.
        files: The files that were written.
        interrupted: Whether Ctrl-C ended it; the results are those until then.
    """

    images: list[Labeled] = field(default_factory=list)
    summary: Summary = field(default_factory=Summary)
    problems: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    interrupted: bool = False

    def interrupt(self) -> None:
        """Note that these results are not all."""
        self.interrupted = True
        if self.images:
            logger.warning("interrupted: the results so far are written")


@dataclass(frozen=True)
class Asked:
    """What to detect, and how.

    Attributes:
        model: As in :func:`ezsd.inference.loading.load_detector`.
        teacher: As there.
        precision: As there.
        vocabulary: As in :meth:`ezsd.Detector.stream`.
        options: Further arguments of ``stream``.
        drawn: The folder of drawn images and videos; None = nothing is drawn.
    """

    model: str
    teacher: str | None
    precision: PrecisionChoice
    vocabulary: Any
    options: dict[str, Any] = field(default_factory=dict)
    drawn: Path | None = None


def detect_source(
    detections: Iterator[Found], source: Source, title: str = "detect", drawn: Path | None = None
) -> Results:
    """Go through the detections of a source, show progress, and draw them. Ctrl-C ends it; what was found is kept.

    Args:
        detections: What ``stream`` of a detector returns for ``source``.
        source: The source, for its total and its problems.
        title: The title of the progress display.
        drawn: The folder to draw to; None = nothing is drawn.

    Raises:
        DataError: No image could be read.
    """
    began = time.monotonic()
    with track(source.total, title) as advance:
        results = collect(detections, None if drawn is None else Drawings(drawn), advance)
    return finished(results, source, time.monotonic() - began)


def collect(detections: Iterator[Found], drawings: Drawings | None, advance: Advance) -> Results:
    """Go through detections and draw them. Ctrl-C ends it; what was found is kept."""
    results = Results()
    with drawings or nullcontext():
        try:
            for found in detections:
                results.images.append(labeled(found.frame, found.detections))
                results.summary.add(found)
                if drawings is not None:
                    drawings.add(found.frame, found.detections)
                advance(1, counted(results.summary.objects, "object"))
        except KeyboardInterrupt:  # the only way to end a camera
            results.interrupt()
        if drawings is not None:
            drawings.finish()
    return results


def finished(results: Results, source: Source, seconds: float) -> Results:
    """Complete the results of a source by its problems and the time it took.

    Raises:
        DataError: No image could be read.
        KeyboardInterrupt: Ctrl-C came before the first result; there is nothing to write.
    """
    results.problems = source.problems
    results.summary.skipped, results.summary.seconds = len(source.problems), seconds
    if not results.images:
        if results.interrupted:
            raise KeyboardInterrupt
        raise DataError(_nothing_read(source.problems))
    return results


def _nothing_read(problems: Sequence[str]) -> str:
    if len(problems) > 1:
        first = problems[0]  # all were named in the log
        return f"None of {counted(len(problems), 'image')} can be read, such as {first}"
    return problems[0] if problems else "The source has no images."


def save(results: Results, names: Sequence[str], formats: Sequence[str], out: Path, about: dict[str, Any]) -> None:
    """Write the results in some formats; the paths are added to ``results.files``.

    Args:
        results: The results.
        names: The vocabulary.
        formats: Of SAVED.
        out: The folder to write to.
        about: Further keys of detections.json, which is {"model", "vocabulary", "threshold" (null if calibrated),
            "thresholds" (by name), "skipped", "images": [{"image", "file_name", "width", "height", "detections":
            [{"name", "score", "box", "mask", "track", "other_names"}]}]}; boxes are xyxy in pixels.

    Raises:
        ArtifactError: A file cannot be written.
    """
    if "json" in formats:
        path = out / "detections.json"
        images = [image_json(image) for image in results.images]
        write_json(path, {**about, "vocabulary": list(names), "skipped": results.problems, "images": images})
        results.files.append(path)
    results.files += [write(out, results.images, names) for key, write in FORMATS.items() if key in formats]


def check_formats(formats: Sequence[str], known: Sequence[str], option: str) -> tuple[str, ...]:
    """Return the formats of an option that is a comma-separated text or repeated.

    Raises:
        RecipeError: A format is unknown.
    """
    wanted = [part.strip() for text in formats for part in text.split(",") if part.strip()]
    if wrong := [part for part in wanted if part not in known]:
        raise RecipeError(f"{option} {', '.join(wrong)}: expected of {', '.join(known)}.")
    return tuple(dict.fromkeys(wanted))


class Drawings:
    """Draws detections in threads: images as JPEG files, videos as MP4.

    Args:
        folder: The folder to write to. Nothing in it is replaced except drawings of the same source.
        names: The drawings of image files in the order of their use, if they were chosen before.
    """

    def __init__(self, folder: Path, names: Mapping[Path, Sequence[Path]] | None = None) -> None:
        self.folder = folder
        self.files: list[Path] = []
        self._pool = ThreadPoolExecutor(_DRAWERS)
        self._waiting: deque[tuple[Future[Any], Callable[[Any], None] | None]] = deque()
        self._taken: set[Path] = set()
        self._names = {path: deque(drawings) for path, drawings in (names or {}).items()}
        self._video: Video | None = None
        self._open = ExitStack()
        self._write: Callable[[np.ndarray[Any, Any]], None] | None = None

    def __enter__(self) -> Self:
        """Return the drawings."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop the threads; a video that is not finished is removed."""
        self._pool.shutdown(cancel_futures=True)
        self._open.__exit__(*error)

    def add(self, frame: Frame, detections: sv.Detections) -> None:
        """Draw the detections of an image or of the next frame of a video."""
        if frame.video is None:
            chosen = self._names.get(frame.path) if frame.path else None
            path = chosen.popleft() if chosen else self.free_name(frame.file_name, ".jpg")
            self._waiting.append((self._pool.submit(_draw_file, frame, detections, path), None))
        else:
            self._waiting.append((self._pool.submit(_drawn, frame, detections), self._sink(frame.video)))
        while len(self._waiting) > _WAITING:
            self._take()

    def finish(self) -> None:
        """Wait for all drawings, and complete the last video."""
        while self._waiting:
            self._take()
        self._open.close()
        self._video = self._write = None

    def _take(self) -> None:
        future, sink = self._waiting.popleft()
        result = future.result()
        if sink is not None:
            sink(result)

    def _sink(self, video: Video) -> Callable[[np.ndarray[Any, Any]], None]:
        if video is not self._video:
            self.finish()
            self._video = video
        return self._write_frame

    def _write_frame(self, pixels: np.ndarray[Any, Any]) -> None:
        if self._write is None and self._video is not None:
            path = self.free_name(self._video.file_name, ".mp4")
            size = pixels.shape[1], pixels.shape[0]
            self._write = self._open.enter_context(video_writer(path, self._video.fps, size))
        if self._write is not None:
            self._write(pixels)

    def free_name(self, file_name: str, suffix: str) -> Path:
        """Return and take a path that replaces neither an input image nor another drawing of this call."""
        inside = PurePosixPath(file_name)
        inside = inside if ".." not in inside.parts else PurePosixPath(inside.name)
        path, count = self.folder / inside.with_name(f"{inside.stem}_detected{suffix}"), 1
        while path in self._taken:
            count += 1
            path = path.with_name(f"{inside.stem}_detected_{count}{suffix}")
        self._taken.add(path)
        self.files.append(path)
        return path


def _drawn(frame: Frame, detections: sv.Detections) -> np.ndarray[Any, Any]:
    return np.asarray(draw(frame.pixels, detections))


def _draw_file(frame: Frame, detections: sv.Detections, path: Path) -> None:
    with written_whole(path) as temporary:
        draw(frame.pixels, detections).save(temporary, format="JPEG", quality=92)

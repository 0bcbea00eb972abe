"""Detect objects in image files with the actors of Ray. The results are those of one process."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ezsd.commands.detect import Asked, Drawings, Results, collect, finished
from ezsd.inference.loading import load_detector
from ezsd.inference.sources import ImageFile, Source, source_of_files
from ezsd.utils.format import counted
from ezsd.utils.progress import silent, track
from ezsd.utils.ray_engine import RayEngine

_PART_IMAGES = 64  # files of one job


def detect_files(engine: RayEngine, asked: Asked, source: Source, title: str = "detect") -> Results:
    """Detect objects in the image files of a source. Ctrl-C ends it; what was found until then is returned.

    Args:
        engine: Where the actors run. They must see the model, the images and the output folder under the same paths.
        asked: What they do; its vocabulary has its embeddings.
        source: The files; its problems are those of the actors.
        title: The title of the progress display.

    Raises:
        DataError: The source has something else than image files, or none could be read.
        ArtifactError: Ray cannot be used, or the model cannot be loaded.
    """
    began = time.monotonic()
    files = source.image_files("--engine ray", "Leave it out for those.")
    parts = _parts(files, asked.drawn)
    results, done, interrupted = Results(), dict[int, Results](), False
    with track(source.total, title) as advance:
        try:
            for index, part in engine.run(partial(_load, asked), parts):
                done[index] = part
                source.skip(part.problems)
                results.summary.join(part.summary)
                advance(len(parts[index].files), counted(results.summary.objects, "object"))
        except KeyboardInterrupt:
            interrupted = True
    source.count_skipped()
    ordered = [part for _, part in sorted(done.items())]
    results.images = [image for part in ordered for image in part.images]
    if interrupted:
        results.interrupt()
    source.problems = [problem for part in ordered for problem in part.problems]
    return finished(results, source, time.monotonic() - began)


@dataclass(frozen=True)
class _Part:
    index: int
    files: Sequence[ImageFile]
    drawings: dict[Path, list[Path]]  # by image file, which may be given several times


def _parts(files: Sequence[ImageFile], folder: Path | None) -> list[_Part]:
    drawings = [] if folder is None else _drawings(files, folder)
    parts: list[_Part] = []
    for start in range(0, len(files), _PART_IMAGES):
        own, names = files[start : start + _PART_IMAGES], defaultdict[Path, list[Path]](list)
        for file, drawing in zip(own, drawings[start:], strict=False):
            names[file.path].append(drawing)
        parts.append(_Part(len(parts), own, dict(names)))
    return parts


def _drawings(files: Sequence[ImageFile], folder: Path) -> list[Path]:
    with Drawings(folder) as drawings:
        return [drawings.free_name(file.file_name, ".jpg") for file in files]


def _load(asked: Asked, device: str) -> Callable[[_Part], tuple[int, Results]]:
    detector = load_detector(asked.model, device, asked.teacher, asked.precision)
    return partial(_detect_part, detector, asked)


def _detect_part(detector: Any, asked: Asked, part: _Part) -> tuple[int, Results]:
    source = source_of_files(part.files)
    drawings = None if asked.drawn is None else Drawings(asked.drawn, part.drawings)
    results = collect(detector.stream(source, asked.vocabulary, **asked.options), drawings, silent)
    results.problems = source.problems
    return part.index, results

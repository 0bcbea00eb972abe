"""Detect objects in image files: ``ezsd detect``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ezsd.errors import DataError
from ezsd.inference.calls import Pixels
from ezsd.inference.drawing import draw
from ezsd.inference.inputs import read_pixels
from ezsd.inference.loading import load_detector
from ezsd.inference.outputs import detections_json
from ezsd.utils.files import write_json, written_whole
from ezsd.utils.progress import track

_AT_ONCE = 16  # maximum number of images in memory
_BATCH = 4


def detect_files(model: Path, images: Sequence[Path], vocabulary: str | None, threshold: float, out: Path) -> Path:
    """Detect objects in image files, draw them, and write detections.json.

    Images that cannot be read are reported at the end, after all other images are processed.

    Args:
        model: An ONNX file, a model folder, or a run folder that contains one.
        images: The image files.
        vocabulary: Names separated by commas; None uses the names of the model.
        threshold: The minimum score of a detection.
        out: The output folder: one drawn image per image, and detections.json: {"model", "vocabulary", "threshold",
            "images": [{"image", "drawn", "detections": [{"name", "score", "box", "mask"}]}]}; boxes are xyxy in
            pixels.

    Returns:
        The path of detections.json.

    Raises:
        ArtifactError: The model cannot be used, or ``out`` cannot be written.
        RecipeError: The vocabulary is invalid.
        DataError: Images cannot be read.
    """
    detector = load_detector(model)
    names = detector.vocabulary(vocabulary)
    entries: list[dict[str, Any]] = []
    problems: list[str] = []
    taken: set[Path] = set()
    with track(len(images), "detect") as advance:
        for start in range(0, len(images), _AT_ONCE):
            part = images[start : start + _AT_ONCE]
            loaded = _read(part, problems)
            for (path, image), found in zip(
                loaded, detector([image for _, image in loaded], names, threshold, _BATCH), strict=True
            ):
                drawn = _free_name(out, path.stem, taken)
                with written_whole(drawn) as temporary:
                    draw(image, found).save(temporary, format="JPEG", quality=92)
                entries.append({"image": str(path), "drawn": drawn.name, "detections": detections_json(found)})
            advance(len(part), "")
    result = out / "detections.json"
    write_json(result, {"model": str(model), "vocabulary": list(names), "threshold": threshold, "images": entries})
    if problems:
        raise DataError([*problems, f"The other {len(entries)} images were processed: see {result}"])
    return result


def _read(paths: Sequence[Path], problems: list[str]) -> list[tuple[Path, Pixels]]:
    loaded = []
    for path in paths:
        try:
            loaded.append((path, read_pixels(path)))
        except DataError as error:
            problems += error.problems
    return loaded


def _free_name(folder: Path, stem: str, taken: set[Path]) -> Path:
    """Return a path for a drawn image that replaces neither an input image nor another drawing of this call."""
    path, number = folder / f"{stem}_detected.jpg", 1
    while path in taken:
        number += 1
        path = folder / f"{stem}_detected_{number}.jpg"
    taken.add(path)
    return path

"""Image files in, drawn images and one ``detections.json`` out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ezsd.detector.model_folder import CONFIG
from ezsd.errors import DataError
from ezsd.inference.detector import Detector, detections_json
from ezsd.inference.drawing import draw
from ezsd.inference.inputs import read_any, vocabulary_names
from ezsd.run_folder import RunFolder
from ezsd.utils.files import write_json, written_whole
from ezsd.utils.progress import track

_AT_ONCE = 16  # images in memory
_BATCH = 4


def detect_files(model: Path, images: Sequence[Path], vocabulary: str | None, threshold: float, out: Path) -> Path:
    """Detect in image files; images that cannot be read are told at the end, the others are done all the same.

    Args:
        model: a model folder, or the run folder it is in.
        images: files.
        vocabulary: names with commas between them; None = the model's own.
        threshold: detections with a lower score are left out.
        out: a drawn image for each image, and detections.json: {"model", "vocabulary", "threshold", "images":
            [{"image", "drawn", "detections": [{"name", "score", "box", "mask"}]}]}; boxes xyxy in pixels.

    Returns:
        the path of detections.json.

    Raises:
        ArtifactError: the model cannot be used, or ``out`` cannot be written.
        RecipeError: the vocabulary cannot be used.
        DataError: images cannot be read.
    """
    inner = RunFolder(model).model
    detector = Detector.load(inner if (inner / CONFIG).is_file() else model)
    names = vocabulary_names(vocabulary, detector.config.names)
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
        raise DataError([*problems, f"The other {len(entries)} images are done: {result}"])
    return result


def _read(paths: Sequence[Path], problems: list[str]) -> list[tuple[Path, Tensor]]:
    loaded = []
    for path in paths:
        try:
            loaded.append((path, read_any(path)))
        except DataError as error:
            problems += error.problems
    return loaded


def _free_name(folder: Path, stem: str, taken: set[Path]) -> Path:
    """Name a drawn image so that it replaces neither an image nor another drawing of this call."""
    path, number = folder / f"{stem}_detected.jpg", 1
    while path in taken:
        number += 1
        path = folder / f"{stem}_detected_{number}.jpg"
    taken.add(path)
    return path

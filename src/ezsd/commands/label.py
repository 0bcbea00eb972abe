"""Write pre-annotations for annotation tools: ``ezsd label``. Works without torch."""

from __future__ import annotations

from pathlib import Path

from ezsd.commands.detect import Results
from ezsd.inference.outputs import (
    LOCAL_FILES,
    check_distinct,
    link_images,
    write_coco,
    write_cvat,
    write_label_studio,
    write_yolo,
)
from ezsd.inference.sources import Source

TARGETS = ("coco", "yolo", "label-studio", "cvat")


def check_image_files(source: Source, target: str) -> None:
    """Check that a tool can find the images again, before anything is detected.

    Args:
        source: The images.
        target: As in :func:`write_labels`.

    Raises:
        DataError: There is something else than image files, or labels of two images would share a name.
    """
    files = source.image_files("ezsd label", "Save images, or the frames of videos, as files first.")
    check_distinct((file.file_name for file in files), target)


def write_labels(
    results: Results, names: tuple[str, ...], target: str, out: Path, image_url: str = LOCAL_FILES
) -> Path:
    """Write detections so that an annotation tool imports them.

    Args:
        results: The detections of image files.
        names: The vocabulary.
        target: Of TARGETS: ``coco`` (CVAT, FiftyOne, Roboflow), ``yolo`` (with the images, so that the folder is a
            complete data set), ``label-studio``, ``cvat``.
        out: The folder to write to.
        image_url: The start of the address of images, for Label Studio.

    Returns:
        The file to import.

    Raises:
        ArtifactError: A file cannot be written.
    """
    if target == "yolo":
        link_images(out, results.images)
        return write_yolo(out, results.images, names)
    if target == "label-studio":
        return write_label_studio(out, results.images, names, image_url)
    return (write_coco if target == "coco" else write_cvat)(out, results.images, names)

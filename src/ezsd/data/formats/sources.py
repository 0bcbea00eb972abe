"""Open the parts of a data set in any format, with boxes in pixels."""

from __future__ import annotations

from pathlib import Path

from ezsd.data.formats.coco import OpenedPart, PartReading, count_boxes, open_part, select_boxes
from ezsd.data.formats.coco_json import as_annotations
from ezsd.data.formats.recognize import Source
from ezsd.data.formats.rewrite import with_pixel_boxes
from ezsd.errors import DataError
from ezsd.recipe import Part
from ezsd.utils.format import counted


def open_source(source: Source, written: Path, box_format: str | None = None) -> OpenedPart:
    """Open one part of a data set.

    Args:
        source: The part.
        written: The COCO file that its annotations become, if they cannot be used as they are.
        box_format: See :func:`ezsd.data.formats.recognize.open_dataset`.

    Raises:
        DataError: The annotation file cannot be read.
    """
    new = Part(images=source.images, annotations=written)
    if source.content is not None:
        return open_part(new, as_annotations(source.content), where=str(source.origin or written))
    opened = open_part(Part(images=source.images, annotations=source.annotations or Path()))
    if box_format is None:
        return opened
    sizes = {image.image_id: (image.width, image.height) for image in select_boxes(opened).images}
    return opened.with_content(new, with_pixel_boxes(opened.content, sizes, box_format))


def check_box_format(reading: PartReading, box_format: str | None) -> None:
    """Raise DataError if most boxes of a part are invalid as boxes of a format that was given."""
    wrong, right = len(reading.of_items), sum(count_boxes(reading.images)[0].values())
    if box_format is not None and wrong > right:
        counts = f"{counted(wrong, 'problem')}, and {counted(right, 'box', 'boxes')} without"
        text = f"--box-format {box_format} does not fit: {counts}. Leave it out."
        raise DataError([text, *reading.of_items.shown(reading.where)])

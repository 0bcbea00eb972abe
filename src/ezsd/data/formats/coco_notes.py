"""Notes on what was read from a COCO file: nothing is wrong, but people want to know."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ezsd.data.formats.coco_boxes import Boxes, copies
from ezsd.data.formats.coco_entries import Record
from ezsd.data.formats.coco_json import Annotations
from ezsd.data.formats.problems import Problems
from ezsd.data.formats.xml_files import UNREADABLE
from ezsd.data.images import ImageCheck
from ezsd.utils.format import counted, plural

_MANY_CROWDS = 0.5  # of the boxes; tools that export masks as crowds do so for most


def size_notes(records: Sequence[Record], checks: Sequence[ImageCheck]) -> list[str]:
    """Return notes on images that are turned, and on those without a size in the annotations."""
    usable = [(record, check) for record, check in zip(records, checks, strict=True) if not check.problem]
    turned = [record.path.name for record, check in usable if check.turned]
    unsized = [record.path.name for record, _ in usable if record.width is None or record.height is None]
    notes = []
    if turned:
        are = plural(len(turned), "is turned by its", "are turned by their")
        notes.append(f"{len(turned):,} of {counted(len(records), 'image')} {are} EXIF orientation (the first is "
                     f"{turned[0]}). Boxes are read as those of the upright images, as viewers show them; if they do "
                     "not fit, save the images upright (mogrify -auto-orient) and label them again.")  # fmt: skip
    if unsized:
        notes.append(f"The annotations have no usable width and height of {counted(len(unsized), 'image')} (the first "
                     f"is {unsized[0]}); those of the files are used.")  # fmt: skip
    return notes


def name_notes(names: Sequence[str]) -> list[str]:
    """Return a note on names whose letters were lost or changed when a file was saved."""
    garbled = [name for name in names if _is_garbled(name)]
    if not garbled:
        return []
    return [f"{counted(len(garbled), 'name seems', 'names seem')} to be garbled by saving a file in another encoding "
            f"(the first is {garbled[0]!r}); a teacher cannot read such a name. Correct the names in the "
            "annotations."]  # fmt: skip


def _is_garbled(name: str) -> bool:
    """Return whether a name has replaced or control characters, or is UTF-8 that was read as Windows-1252."""
    if any(character == UNREADABLE or unicodedata.category(character) == "Cc" for character in name):
        return True
    try:
        return not name.isascii() and bool(name.encode("cp1252").decode("utf-8"))
    except UnicodeError:
        return False


def box_notes(crowd: NDArray[np.bool_], left_out: Problems) -> list[str]:
    """Return notes on crowd boxes and on boxes without area."""
    notes = []
    if crowd.any():
        many = crowd.mean() > _MANY_CROWDS
        cause = " CVAT exports masks as crowds: if they are single objects, set iscrowd to 0, or export polygons."
        notes.append(f"{crowd.sum():,} of {counted(len(crowd), 'box', 'boxes')} "
                     f"{plural(int(crowd.sum()), 'is a crowd', 'are crowds')} (iscrowd 1), which are not "
                     f"learned.{cause if many else ''}")  # fmt: skip
    if left_out:
        notes.append(f"Boxes without width or height are left out; {len(left_out):,} in all, the first is "
                     f"{next(iter(left_out))}.")  # fmt: skip
    return notes


def drawn_notes(content: Annotations, rows: NDArray[np.int64]) -> list[str]:
    """Return a note on boxes that the file does not have."""
    drawn = rows[content.drawn[rows]]
    if not len(drawn):
        return []
    return [f"{len(drawn):,} of {counted(len(rows), 'annotation')} {plural(len(drawn), 'has', 'have')} no bbox (the "
            f"first is annotation {content.ids[int(drawn[0])]}); the boxes around their segmentations are "
            "used."]  # fmt: skip


def copy_notes(content: Annotations, records: Sequence[Record], boxes: Boxes, crowd: NDArray[np.bool_]) -> list[str]:
    """Return a note on boxes that repeat another one."""
    again = copies(boxes, crowd)
    if not len(again):
        return []
    row, record = int(boxes.rows[again[0]]), records[boxes.image[again[0]]]
    own = f"{record.label_file}, {content.places[row]}" if record.label_file and content.places[row] else ""
    return [f"{len(again):,} of {len(boxes.rows):,} boxes {plural(len(again), 'repeats', 'repeat')} another box of the "
            f"same image and name; the first is {own or f'annotation {content.ids[row]}'}. All are used: in the "
            "figures, each repeated box counts as an object that is not found. Remove them."]  # fmt: skip


def mask_notes(
    content: Annotations,
    rows: NDArray[np.int64],
    segmentations: Sequence[Any],
    missing: NDArray[np.bool_],
    has_masks: bool,
) -> list[str]:
    """Return notes on boxes without a mask: those whose segmentation is broken, and those that have none."""
    given = np.array([entry is not None for entry in segmentations], dtype=np.bool_)
    broken = np.flatnonzero(given & missing)
    notes = []
    if len(broken):
        notes.append(f"{len(broken):,} of {counted(int(given.sum()), 'segmentation')} cannot be read (the first is "
                     f"that of annotation {content.ids[int(rows[broken[0]])]}; expected polygons of at least three "
                     "points or an RLE of the image size). Their boxes are used, without a mask.")  # fmt: skip
    if given.any() and missing.any():
        which = "the others" if has_masks else "none, because at least half of the boxes need one"
        setting = " detector.masks: false learns no masks." if has_masks else ""
        notes.append(f"{missing.sum():,} of {len(missing):,} boxes {plural(int(missing.sum()), 'has', 'have')} no "
                     f"mask. Masks are learned and measured from {which}.{setting}")  # fmt: skip
    return notes

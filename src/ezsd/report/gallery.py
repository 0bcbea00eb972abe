"""Cards of single images: objects found and missed, false detections, and proposals of the teacher."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import supervision as sv
import torch
from faster_coco_eval.core import mask as rle
from PIL import Image

from ezsd.data.samples import AnnotatedImage, have_mask, masks_of, read_image
from ezsd.data.target_store import Regions
from ezsd.report.matching import (
    Outcome,
    met_rows,
    novel_rows,
)

_SIDE = 480  # longer side of an embedded image in pixels
_QUALITY = 78


_GOLDEN_ANGLE = 137.508  # degrees of hue between consecutive names, so that they have different colors
_OUTLINE_DETAIL = 0.6  # share of the points of a mask's outline that is removed
_DRAWN_FALSE = 10  # maximum false detections drawn; an untrained detector has a hundred per image
_TEXT_SHARE = 34  # longer side of an image divided by the text size
_LETTER_WIDTH = 0.66  # approximate width of a letter divided by the text size
_TIMES = "\N{MULTIPLICATION SIGN}"
_ORDER = ("novel", "base", "crowd")  # priority of ground truth labels if they do not all fit


@dataclass(frozen=True)
class Mark:
    """A box drawn on an image.

    Attributes:
        kind: base, novel, missed, false, crowd or proposal; determines color and line style.
        box: x, y, width, height in pixels of the image.
        text: The text of the label.
        hue: The hue of a proposal's name, in 0..360.
        outline: The SVG path of the mask; empty without a mask.
        label: x, y of the left end of the text's baseline; None if the text would cover a more important one.
    """

    kind: str
    box: tuple[int, int, int, int]
    text: str
    hue: int = 0
    outline: str = ""
    label: tuple[int, int] | None = None


@dataclass(frozen=True)
class Panel:
    """An image with marks.

    Attributes:
        title: The heading.
        described: The description for screen readers.
        marks: The marks in drawing order, the most important last.
    """

    title: str
    described: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Card:
    """One image of the gallery.

    Attributes:
        name: The name of the image file.
        width: The width of the image in pixels, the unit of all marks.
        height: The height of the image in pixels.
        image: The image as a data URI (JPEG).
        text_size: The text size of all marks, in pixels of the image.
        panels: The panels that are drawn.
        notes: Pairs (kind, text) that describe the panels in words.
    """

    name: str
    width: int
    height: int
    image: str
    text_size: int
    panels: tuple[Panel, ...]
    notes: tuple[tuple[str, str], ...]


def detection_card(outcome: Outcome, names: Sequence[str], base: int) -> Card:
    """Draw a val image with its ground truth, and with its detections and missed objects.

    Args:
        outcome: The outcome of the image.
        names: The names; label 1 is the first.
        base: The number of base names; larger labels are novel.

    Raises:
        DataError: The image cannot be read.
    """
    image = outcome.image
    truth = _truth(image, names, base)
    missed = [Mark("missed", truth[row].box, truth[row].text) for row in outcome.missed]
    marks = []
    for entry, hit in zip(outcome.detections, outcome.found, strict=True):
        kind = "false" if not hit else "base" if entry["category_id"] <= base else "novel"
        outline = _outline(rle.decode(entry["segmentation"])) if "segmentation" in entry else ""
        text = f"{names[entry['category_id'] - 1]} {entry['score']:.2f}"
        marks.append(Mark(kind, _rounded(entry["bbox"]), text, outline=outline))
    hits = [mark for mark in marks if mark.kind != "false"]
    false = [mark for mark in marks if mark.kind == "false"]
    notes = (("found", _with_scores(hits)), ("missed", _counted([mark.text for mark in missed])),
             ("false", _with_scores(false)))  # fmt: skip
    drawn = "" if len(false) <= _DRAWN_FALSE else f" (the {_DRAWN_FALSE} highest-scoring of {len(false)} false ones)"
    detected = Panel(f"Detections{drawn}", f"Found: {notes[0][1]}. Missed: {notes[1][1]}. False: {notes[2][1]}.",
                     _labeled((*hits, *missed, *false[:_DRAWN_FALSE]), image))  # fmt: skip
    return _card(image, (_truth_panel(truth, image), detected), notes)


def proposal_card(image: AnnotatedImage, regions: Regions, names: Sequence[str], base: int, shown: int) -> Card:
    """Draw a train image with its ground truth, and with its best proposals and the names the teacher gives them.

    Args:
        image: The image with all its boxes, including novel ones.
        regions: The regions of stage propose for this image.
        names: The names, for the labels of both image and regions; label 1 is the first.
        base: The number of base names; larger labels are novel.
        shown: The maximum number of proposals.

    Raises:
        DataError: The image cannot be read.
    """
    best = regions[~regions.is_base_box][torch.arange(min(shown, int((~regions.is_base_box).sum())))]
    marks = []
    for box, label, weight in zip(best.boxes.tolist(), best.labels.tolist(), best.weights.tolist(), strict=True):
        x1, y1, x2, y2 = box
        hue = round(label * _GOLDEN_ANGLE) % 360
        marks.append(Mark("proposal", _rounded((x1, y1, x2 - x1, y2 - y1)), f"{names[label - 1]} {weight:.2f}", hue))
    described = _counted([mark.text.rpartition(" ")[0] for mark in marks])
    rows = novel_rows(image, base)
    met = met_rows(image, best, rows)
    novel = [names[int(image.labels[row]) - 1] for row in rows]
    notes = (
        ("names given by the teacher", described),
        (
            "novel objects",
            "none" if not rows else f"{_counted(novel)}: {sum(met)} of {len(rows)} covered by a proposal",
        ),
    )
    panel = Panel("Proposals of the teacher", f"Names of the proposals: {described}.", _labeled(marks, image))
    return _card(image, (_truth_panel(_truth(image, names, base), image), panel), notes)


def _truth(image: AnnotatedImage, names: Sequence[str], base: int) -> list[Mark]:
    masks = None if image.segmentations is None else masks_of(image).numpy()
    drawn = torch.zeros_like(image.crowd) if masks is None else have_mask(image) & ~image.crowd
    marks = []
    for row, (label, crowd) in enumerate(zip(image.labels.tolist(), image.crowd.tolist(), strict=True)):
        x1, y1, x2, y2 = image.boxes[row].tolist()
        kind = "crowd" if crowd else "base" if label <= base else "novel"
        outline = _outline(masks[row]) if masks is not None and drawn[row] else ""
        text = f"{names[label - 1]} (crowd)" if crowd else names[label - 1]
        marks.append(Mark(kind, _rounded((x1, y1, x2 - x1, y2 - y1)), text, outline=outline))
    return marks


def _truth_panel(marks: Sequence[Mark], image: AnnotatedImage) -> Panel:
    described = f"Objects: {_counted([mark.text for mark in marks])}."
    return Panel("Ground truth", described, _labeled(sorted(marks, key=lambda mark: _ORDER.index(mark.kind)), image))


def _labeled(marks: Sequence[Mark], image: AnnotatedImage) -> tuple[Mark, ...]:
    """Place the labels of marks (most important first) where they fit; return the marks, most important last."""
    size = _text_size(image)
    taken: list[tuple[float, float, float, float]] = []
    placed = []
    for mark in marks:
        x, y, _, height = mark.box
        length = len(mark.text) * size * _LETTER_WIDTH
        left = max(0.0, min(x + size / 5, image.width - length))
        label = None
        for line in (y - size / 4, y + size, y + height - size / 4, y + height + size):
            place = (left, line - size, left + length, line + size / 5)
            inside = size <= line <= image.height
            if inside and not any(_meet(place, other) for other in taken):
                taken.append(place)
                label = (round(left), round(line))
                break
        placed.append(replace(mark, label=label))
    return tuple(reversed(placed))


def _meet(first: tuple[float, float, float, float], second: tuple[float, float, float, float]) -> bool:
    across = min(first[2], second[2]) > max(first[0], second[0])
    return across and min(first[3], second[3]) > max(first[1], second[1])


def _text_size(image: AnnotatedImage) -> int:
    return max(1, round(max(image.width, image.height) / _TEXT_SHARE))


def _outline(mask: np.ndarray[Any, Any]) -> str:
    """Return the outline of a mask [H, W] as an SVG path; empty if the mask is too small for an outline."""
    polygons = sv.mask_to_polygons(mask)
    kept = [sv.approximate_polygon(polygon, percentage=_OUTLINE_DETAIL) for polygon in polygons if len(polygon) > 2]
    return "".join("M" + "L".join(f"{x} {y}" for x, y in polygon.astype(int).tolist()) + "Z" for polygon in kept)


def _card(image: AnnotatedImage, panels: tuple[Panel, ...], notes: tuple[tuple[str, str], ...]) -> Card:
    pixels = Image.fromarray(read_image(image).permute(1, 2, 0).numpy())
    pixels.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    pixels.save(content, format="JPEG", quality=_QUALITY, optimize=True)
    uri = f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
    return Card(image.path.name, image.width, image.height, uri, _text_size(image), panels, notes)


def _counted(texts: Sequence[str]) -> str:
    """List names with their counts, such as "person × 3, cup"; "none" if ``texts`` is empty."""
    counts = Counter(texts)
    return ", ".join(text if count == 1 else f"{text} {_TIMES} {count}" for text, count in counts.items()) or "none"


def _with_scores(marks: Sequence[Mark]) -> str:
    """List names of detections with their counts and highest scores, such as "person × 3 (up to 0.98)"."""
    scores: dict[str, list[str]] = {}
    for mark in marks:
        name, _, score = mark.text.rpartition(" ")
        scores.setdefault(name, []).append(score)
    texts = (f"{name} ({best[0]})" if len(best) == 1 else f"{name} {_TIMES} {len(best)} (up to {max(best)})"
             for name, best in scores.items())  # fmt: skip
    return ", ".join(texts) or "none"


def _rounded(box: Sequence[float]) -> tuple[int, int, int, int]:
    x, y, width, height = (round(side) for side in box)
    return x, y, max(width, 1), max(height, 1)

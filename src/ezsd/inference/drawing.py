"""Draw detections on images."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import supervision as sv
from PIL import Image, ImageDraw, ImageFont

from ezsd.inference.fonts import font_for
from ezsd.inference.inputs import ImageInput, read_pixels
from ezsd.inference.label_places import place_labels
from ezsd.inference.view import names_of, scores_of

_DRAWN_SIDE = 640  # smaller images are enlarged to this long side, so that labels are readable
_PADDING = 3  # around the text of a label, in pixels
_PALETTE = sv.ColorPalette.DEFAULT  # it is made anew by each access
_CUT = "\N{HORIZONTAL ELLIPSIS}"


def draw(image: ImageInput, detections: sv.Detections) -> Image.Image:
    """Draw detections with names and scores. Images with a long side below 640 pixels are enlarged first.

    Raises:
        DataError: The image cannot be read.
    """
    scene = Image.fromarray(read_pixels(image))
    scale = max(1.0, _DRAWN_SIDE / max(scene.size))
    size = round(scene.width * scale), round(scene.height * scale)
    shown = _enlarged(detections, scale, size)
    scene = scene.resize(size, Image.Resampling.BICUBIC)
    if shown.mask is not None:
        scene = sv.MaskAnnotator(_PALETTE, opacity=0.4).annotate(scene, shown)
    drawn: Image.Image = sv.BoxAnnotator(_PALETTE, max(2, round(min(size) / 300))).annotate(scene, shown)
    _write_labels(drawn, shown)
    return drawn


def _write_labels(scene: Image.Image, shown: sv.Detections) -> None:
    """Write name and score of each detection; the best get the best places, and none leaves the image."""
    font_size = max(12, round(min(scene.size) / 45))
    fonts = [_font(font_for(name), font_size) for name in names_of(shown).tolist()]
    tracks = [-1] * len(shown) if shown.tracker_id is None else shown.tracker_id
    labels = [
        _fitting(f"#{track} " if track >= 0 else "", name, f" {score:.2f}", font, scene.width - 2 * _PADDING)
        for name, score, track, font in zip(names_of(shown).tolist(), scores_of(shown), tracks, fonts, strict=True)
    ]
    sizes = [
        (int(font.getlength(label)) + 1 + 2 * _PADDING, sum(font.getmetrics()) + 2 * _PADDING)
        for label, font in zip(labels, fonts, strict=True)
    ]
    places = place_labels(shown.xyxy[::-1], sizes[::-1], scene.size)[::-1]
    classes = np.zeros(len(shown), dtype=int) if shown.class_id is None else shown.class_id
    pen = ImageDraw.Draw(scene)
    for label, font, (width, height), (left, top), index in zip(labels, fonts, sizes, places, classes, strict=True):
        color = _PALETTE.by_idx(int(index))
        pen.rectangle((left, top, left + width - 1, top + height - 1), fill=color.as_rgb())
        pen.text((left + _PADDING, top + _PADDING), label, fill=_readable_on(color).as_rgb(), font=font)


@lru_cache(maxsize=64)
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def _fitting(before: str, name: str, after: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Return the label, with the end of a name that is wider than the image cut off."""
    name = " ".join(name.split())  # a line break would make the label higher
    kept = len(name)
    while font.getlength(label := before + name[:kept] + _CUT * (kept < len(name)) + after) > width and kept:
        kept -= 1
    return label


def _enlarged(detections: sv.Detections, scale: float, size: tuple[int, int]) -> sv.Detections:
    """Scale boxes and masks to ``size`` (width, height), in ascending order of score, so that the best is on top."""
    order = np.argsort(scores_of(detections), kind="stable")
    masks = None if detections.mask is None else detections.mask[order]
    if masks is not None and scale > 1:
        masks = np.array([np.asarray(Image.fromarray(mask).resize(size)) for mask in masks], bool)
        masks = masks.reshape(-1, *size[::-1])
    return sv.Detections(
        xyxy=detections.xyxy[order] * scale,
        mask=masks,
        confidence=scores_of(detections)[order],
        class_id=None if detections.class_id is None else detections.class_id[order],
        tracker_id=None if detections.tracker_id is None else detections.tracker_id[order],
        data={"class_name": names_of(detections)[order]},
    )


def _readable_on(color: sv.Color) -> sv.Color:
    brightness = 0.299 * color.r + 0.587 * color.g + 0.114 * color.b
    return sv.Color.BLACK if brightness > 140 else sv.Color.WHITE

"""Draw detections on images."""

from __future__ import annotations

import numpy as np
import supervision as sv
from PIL import Image

from ezsd.inference.fonts import font_for
from ezsd.inference.inputs import ImageInput, read_pixels
from ezsd.inference.view import names_of, scores_of

_DRAWN_SIDE = 640  # smaller images are enlarged to this long side, so that labels are readable


def draw(image: ImageInput, detections: sv.Detections) -> Image.Image:
    """Draw detections with names and scores. Images with a long side below 640 pixels are enlarged first.

    Raises:
        DataError: The image cannot be read.
    """
    scene = Image.fromarray(read_pixels(image))
    scale = max(1.0, _DRAWN_SIDE / max(scene.size))
    size = round(scene.width * scale), round(scene.height * scale)
    shown = _enlarged(detections, scale, size)
    scene = scene.resize(size, Image.Resampling.LANCZOS)
    if shown.mask is not None:
        scene = sv.MaskAnnotator(opacity=0.4).annotate(scene, shown)
    scene = sv.BoxAnnotator(thickness=max(2, round(min(size) / 300))).annotate(scene, shown)
    palette, names = sv.ColorPalette.DEFAULT, names_of(shown)
    writer = sv.RichLabelAnnotator(
        color=palette,
        text_color=sv.ColorPalette([_readable_on(color) for color in palette.colors]),
        font_path=str(font_for("".join(names))),
        font_size=max(12, round(min(size) / 45)),
        text_padding=3,
        smart_position=True,
    )
    tracks = [-1] * len(shown) if shown.tracker_id is None else shown.tracker_id
    labels = [
        (f"#{track} " if track >= 0 else "") + f"{name} {score:.2f}"
        for name, score, track in zip(names, scores_of(shown), tracks, strict=True)
    ]
    drawn: Image.Image = writer.annotate(scene, shown, labels)
    return drawn


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

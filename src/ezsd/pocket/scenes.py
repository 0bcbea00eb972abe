"""Scenes of OpenMoji pictograms: the images of the pocket data set and their labels.

A scene has a smooth background with some clutter, three to seven objects, up to three pictograms that belong to no
category, and a tone: it is darkened, tinted, blurred, reduced in contrast and slightly noisy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ezsd.pocket.pictograms import DISTRACTORS, PICTOGRAMS, draw
from ezsd.utils.files import digest

SIDE = 160  # width and height of a scene, pixels
OBJECTS = (3, 7)
DISTRACTORS_IN_SCENE = (0, 3)
OBJECT_SIDES = (24.0, 72.0)  # longer side before rotation, pixels; log-uniform
TURN = 30.0  # maximum rotation in either direction, degrees
OVERLAP = 0.35  # maximum overlap as a fraction of the smaller of two boxes
VISIBLE = 0.25  # minimum visible fraction of an object; objects below it are not labeled
_TRIES = 20

Rng = np.random.Generator


class Tone(NamedTuple):
    """Ranges of the uniform distributions that the tone of a scene is drawn from."""

    contrast: tuple[float, float] = (0.4, 0.8)  # factor on the distance from the mean color
    gain: tuple[float, float] = (0.42, 0.88)
    tint: tuple[float, float] = (0.72, 1.1)  # factor per channel
    blur: tuple[float, float] = (0.0, 1.0)  # sigma, pixels
    noise: tuple[float, float] = (2.0, 8.0)  # standard deviation, pixel values 0..255


TONE = Tone()


class PlacedObject(NamedTuple):
    """The visible part of one object in a scene."""

    name: str
    mask: NDArray[np.bool_]  # [SIDE, SIDE]


def scene_law() -> str:
    """Return a digest of the names, pictograms and ranges that scenes are drawn from."""
    ranges = [SIDE, OBJECTS, DISTRACTORS_IN_SCENE, OBJECT_SIDES, TURN, OVERLAP, VISIBLE, TONE]
    return digest(str([PICTOGRAMS, DISTRACTORS, ranges]))


def make_scene(
    rng: Rng, names: tuple[str, ...], tone: Tone = TONE, pictograms: Mapping[str, tuple[str, ...]] = PICTOGRAMS
) -> tuple[Image.Image, list[PlacedObject]]:
    """Draw one scene.

    Args:
        rng: The random generator of all choices.
        names: The names to draw objects from, with equal probability.
        tone: The ranges of the tone.
        pictograms: The OpenMoji files of each name.

    Returns:
        RGB image of ``SIDE`` x ``SIDE`` pixels, and the labeled objects from back to front.
    """
    objects = [str(name) for name in rng.choice(names, rng.integers(OBJECTS[0], OBJECTS[1] + 1))]
    others = rng.integers(DISTRACTORS_IN_SCENE[0], DISTRACTORS_IN_SCENE[1] + 1)
    everything: list[str | None] = [*objects, *[None] * others]
    canvas = calm_background(rng, SIDE)
    _clutter(canvas, rng)
    owner = Image.new("L", canvas.size)
    placed: list[tuple[str | None, int]] = []  # name and full area; ``owner`` contains the index + 1
    boxes: list[tuple[int, int, int, int]] = []
    for index in rng.permutation(len(everything)):
        name = everything[index]
        codes = DISTRACTORS if name is None else pictograms[name]
        image, solid = turned(codes[rng.integers(len(codes))], rng, OBJECT_SIDES, TURN)
        box = _free_place(image.size, boxes, rng)
        if box is None:
            continue
        boxes.append(box)
        placed.append((name, int(np.count_nonzero(np.asarray(solid)))))
        canvas.paste(image, box[:2], image)
        owner.paste(len(placed), box[:2], solid)
    seen = np.asarray(owner)
    found = []
    for number, (name, area) in enumerate(placed, start=1):
        mask = seen == number
        if name is not None and mask.sum() >= VISIBLE * area:
            found.append(PlacedObject(name, mask))
    return toned(canvas, rng, tone), found


def calm_background(rng: Rng, side: int) -> Image.Image:
    """Return a smooth background of muted colors near one color: RGB, ``side`` x ``side`` pixels."""
    base = rng.uniform(110, 245, 3)
    base = base.mean() + 0.5 * (base - base.mean())  # muted
    cells = np.clip(base + rng.normal(0, 12, (4, 4, 3)), 0, 255).astype(np.uint8)
    return Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)


def turned(code: str, rng: Rng, sides: tuple[float, float], turn: float) -> tuple[Image.Image, Image.Image]:
    """Return a pictogram with random size, flip and rotation.

    Args:
        code: An OpenMoji file.
        rng: The random generator of all choices.
        sides: Minimum and maximum of the longer side before rotation, pixels.
        turn: Maximum rotation in either direction, degrees.

    Returns:
        RGBA image and the area it covers (mode L, 0 or 255), both of the same size.
    """
    image, solid = draw(code)
    side = math.exp(rng.uniform(math.log(sides[0]), math.log(sides[1])))
    flip, angle = rng.random() < 0.5, rng.uniform(-turn, turn)
    factor = side / max(image.size)
    size = (max(3, round(image.width * factor)), max(3, round(image.height * factor)))
    parts = []
    for part in (image, solid):
        small = part.resize(size, Image.Resampling.BILINEAR)
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else small
        parts.append(small.rotate(angle, Image.Resampling.BILINEAR, expand=True))
    return parts[0], parts[1].point(lambda value: 255 * (value > 127))


def toned(image: Image.Image, rng: Rng, tone: Tone) -> Image.Image:
    """Apply a random tone, drawn from the ranges of ``tone``, to an image."""
    pixels = np.asarray(image).astype(np.float32)
    mean = pixels.mean((0, 1))
    pixels = mean + rng.uniform(*tone.contrast) * (pixels - mean)
    pixels *= rng.uniform(*tone.gain) * rng.uniform(*tone.tint, 3).astype(np.float32)
    pixels = _blurred(pixels, rng.uniform(*tone.blur))
    pixels += rng.uniform(*tone.noise) * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _blurred(pixels: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Apply a separable Gaussian blur with five taps; edge pixels are repeated."""
    weights = np.exp(-(np.arange(-2, 3) ** 2) / (2 * max(sigma, 0.2) ** 2))
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (0, 1):
        padded = np.pad(pixels, [(2, 2) if axis == other else (0, 0) for other in range(3)], mode="edge")
        length = pixels.shape[axis]
        pixels = sum(weight * padded.take(range(tap, tap + length), axis) for tap, weight in enumerate(weights))
    return pixels


def _clutter(canvas: Image.Image, rng: Rng) -> None:
    """Draw a few shapes in colors close to the background."""
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(2, 7)):
        x, y = (int(value) for value in rng.integers(-10, SIDE, 2))
        width, height = (int(value) for value in rng.integers(6, 60, 2))
        middle = canvas.getpixel((min(max(x, 0), SIDE - 1), min(max(y, 0), SIDE - 1)))
        color = tuple(int(value) for value in np.clip(np.array(middle) + rng.normal(0, 22, 3), 0, 255))
        kind = rng.integers(3)
        if kind == 0:
            pen.rectangle((x, y, x + width, y + height), fill=color)
        elif kind == 1:
            pen.ellipse((x, y, x + width, y + height), fill=color)
        else:
            pen.line((x, y, x + 2 * width, y + height), fill=color, width=int(rng.integers(1, 5)))


def _free_place(
    size: tuple[int, int], boxes: list[tuple[int, int, int, int]], rng: Rng
) -> tuple[int, int, int, int] | None:
    """Return a random position (xyxy) that overlaps no other box by more than ``OVERLAP``, or None.

    Up to a tenth of the width and height can lie outside the image.
    """
    width, height = size
    for _ in range(_TRIES):
        x = int(rng.integers(-(width // 10), SIDE - width + width // 10 + 1))
        y = int(rng.integers(-(height // 10), SIDE - height + height // 10 + 1))
        box = (x, y, x + width, y + height)
        if all(_shared(box, other) <= OVERLAP for other in boxes):
            return box
    return None


def _shared(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return max(width, 0) * max(height, 0) / min(areas)

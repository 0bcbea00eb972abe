"""Scenes of OpenMoji pictograms: what an image of the pocket data set shows, and where.

A scene is a calm background with a little clutter, three to seven objects, some pictograms that belong to no
category, and a tone: dim, tinted, of low contrast, blurred, a little noisy.
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

SIDE = 160  # pixels, both sides of a scene
OBJECTS = (3, 7)
DISTRACTORS_IN_SCENE = (0, 3)
OBJECT_SIDES = (24.0, 72.0)  # pixels, longer side before it is turned; sizes are uniform in their logarithm
TURN = 30.0  # degrees, to either side
OVERLAP = 0.35  # of the smaller of two boxes
VISIBLE = 0.25  # part of an object; with less it is not labelled
_TRIES = 20

Rng = np.random.Generator


class Tone(NamedTuple):
    """The ranges a scene's tone is drawn from, uniformly."""

    contrast: tuple[float, float] = (0.4, 0.8)  # distance from the mean colour is multiplied
    gain: tuple[float, float] = (0.42, 0.88)
    tint: tuple[float, float] = (0.72, 1.1)  # for each channel
    blur: tuple[float, float] = (0.0, 1.0)  # sigma, pixels
    noise: tuple[float, float] = (2.0, 8.0)  # standard deviation, of 255


TONE = Tone()


class PlacedObject(NamedTuple):
    """What can be seen of one object of a scene."""

    name: str
    mask: NDArray[np.bool_]  # [SIDE, SIDE]


def scene_law() -> str:
    """Digest of the names, pictograms and ranges that scenes are drawn from."""
    ranges = [SIDE, OBJECTS, DISTRACTORS_IN_SCENE, OBJECT_SIDES, TURN, OVERLAP, VISIBLE, TONE]
    return digest(str([PICTOGRAMS, DISTRACTORS, ranges]))


def make_scene(
    rng: Rng, names: tuple[str, ...], tone: Tone = TONE, pictograms: Mapping[str, tuple[str, ...]] = PICTOGRAMS
) -> tuple[Image.Image, list[PlacedObject]]:
    """Draw one scene.

    Args:
        rng: every choice is drawn from it.
        names: of the objects, each as likely as the others.
        tone: the law of its tone.
        pictograms: files of OpenMoji of each name.

    Returns:
        RGB image of ``SIDE`` x ``SIDE`` pixels, and the labelled objects from back to front.
    """
    objects = [str(name) for name in rng.choice(names, rng.integers(OBJECTS[0], OBJECTS[1] + 1))]
    others = rng.integers(DISTRACTORS_IN_SCENE[0], DISTRACTORS_IN_SCENE[1] + 1)
    everything: list[str | None] = [*objects, *[None] * others]
    canvas = calm_background(rng, SIDE)
    _clutter(canvas, rng)
    owner = Image.new("L", canvas.size)
    placed: list[tuple[str | None, int]] = []  # name and whole area; its number in ``owner`` is its place + 1
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
    """A smooth field of muted colours around one colour: RGB, ``side`` x ``side`` pixels."""
    base = rng.uniform(110, 245, 3)
    base = base.mean() + 0.5 * (base - base.mean())  # muted
    cells = np.clip(base + rng.normal(0, 12, (4, 4, 3)), 0, 255).astype(np.uint8)
    return Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)


def turned(code: str, rng: Rng, sides: tuple[float, float], turn: float) -> tuple[Image.Image, Image.Image]:
    """A pictogram of random size, flip and rotation.

    Args:
        code: a file of OpenMoji.
        rng: every choice is drawn from it.
        sides: shortest and longest longer side, pixels, before it is turned.
        turn: degrees, to either side.

    Returns:
        RGBA image and the area it covers (mode L, 0 or 255), of one size.
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
    """Give an image a tone drawn from ``tone``."""
    pixels = np.asarray(image).astype(np.float32)
    mean = pixels.mean((0, 1))
    pixels = mean + rng.uniform(*tone.contrast) * (pixels - mean)
    pixels *= rng.uniform(*tone.gain) * rng.uniform(*tone.tint, 3).astype(np.float32)
    pixels = _blurred(pixels, rng.uniform(*tone.blur))
    pixels += rng.uniform(*tone.noise) * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _blurred(pixels: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Gauss of up to five taps, along rows and columns; edges are repeated."""
    weights = np.exp(-(np.arange(-2, 3) ** 2) / (2 * max(sigma, 0.2) ** 2))
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (0, 1):
        padded = np.pad(pixels, [(2, 2) if axis == other else (0, 0) for other in range(3)], mode="edge")
        length = pixels.shape[axis]
        pixels = sum(weight * padded.take(range(tap, tap + length), axis) for tap, weight in enumerate(weights))
    return pixels


def _clutter(canvas: Image.Image, rng: Rng) -> None:
    """A few shapes in colours near the background's."""
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(2, 7)):
        x, y = (int(value) for value in rng.integers(-10, SIDE, 2))
        width, height = (int(value) for value in rng.integers(6, 60, 2))
        middle = canvas.getpixel((min(max(x, 0), SIDE - 1), min(max(y, 0), SIDE - 1)))
        colour = tuple(int(value) for value in np.clip(np.array(middle) + rng.normal(0, 22, 3), 0, 255))
        kind = rng.integers(3)
        if kind == 0:
            pen.rectangle((x, y, x + width, y + height), fill=colour)
        elif kind == 1:
            pen.ellipse((x, y, x + width, y + height), fill=colour)
        else:
            pen.line((x, y, x + 2 * width, y + height), fill=colour, width=int(rng.integers(1, 5)))


def _free_place(
    size: tuple[int, int], boxes: list[tuple[int, int, int, int]], rng: Rng
) -> tuple[int, int, int, int] | None:
    """A place (xyxy) that covers no more than ``OVERLAP`` of any smaller box; a tenth may lie outside the image."""
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

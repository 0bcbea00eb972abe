"""Zero-shot object detection: distil a vision-language teacher into a fast detector, from names only."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ezsd.predict import Detector as Detector
    from ezsd.recipe import Recipe as Recipe
    from ezsd.recipe import load_recipe as load_recipe
    from ezsd.run import run_recipe as run_recipe
    from ezsd.teacher import load_teacher as load_teacher

__version__ = "0.1.0"

_ROOMS = {
    "Detector": "ezsd.predict",
    "Recipe": "ezsd.recipe",
    "load_recipe": "ezsd.recipe",
    "load_teacher": "ezsd.teacher",
    "run_recipe": "ezsd.run",
}
__all__ = ["Detector", "Recipe", "__version__", "load_recipe", "load_teacher", "run_recipe"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that ``import ezsd`` does not load torch."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'ezsd' has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)

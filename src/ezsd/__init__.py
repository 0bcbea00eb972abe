"""Zero-shot object detection: distill a vision-language teacher into a fast detector, from names only."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ezsd._version import __version__

if TYPE_CHECKING:
    from ezsd.inference.detector import Detector as Detector
    from ezsd.pipeline.run import run_recipe as run_recipe
    from ezsd.recipe import Recipe as Recipe
    from ezsd.recipe import load_recipe as load_recipe
    from ezsd.teacher import load_teacher as load_teacher

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent unless the user configures logging

_MODULES = {
    "Detector": "ezsd.inference.detector",
    "Recipe": "ezsd.recipe",
    "load_recipe": "ezsd.recipe",
    "load_teacher": "ezsd.teacher",
    "run_recipe": "ezsd.pipeline.run",
}
__all__ = ["Detector", "Recipe", "__version__", "load_recipe", "load_teacher", "run_recipe"]


def __getattr__(name: str) -> Any:
    """Import a public name on first access, so that ``import ezsd`` does not load torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'ezsd' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)

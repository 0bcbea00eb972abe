"""Zero-shot object detection: distill a vision-language teacher into a fast detector, from names only."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ezsd._version import __version__

if TYPE_CHECKING:
    from ezsd.deploy.onnx_export import export_onnx as export_onnx
    from ezsd.hub.upload import push_to_hub as push_to_hub
    from ezsd.inference.detector import Detector as Detector
    from ezsd.inference.onnx_detector import OnnxDetector as OnnxDetector
    from ezsd.inference.sources import open_source as open_source
    from ezsd.pipeline.run import run_recipe as run_recipe
    from ezsd.recipe import Recipe as Recipe
    from ezsd.recipe import load_recipe as load_recipe
    from ezsd.teacher import load_teacher as load_teacher

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent unless the user configures logging

_MODULES = {
    "Detector": "ezsd.inference.detector",
    "OnnxDetector": "ezsd.inference.onnx_detector",
    "Recipe": "ezsd.recipe",
    "export_onnx": "ezsd.deploy.onnx_export",
    "load_recipe": "ezsd.recipe",
    "load_teacher": "ezsd.teacher",
    "open_source": "ezsd.inference.sources",
    "push_to_hub": "ezsd.hub.upload",
    "run_recipe": "ezsd.pipeline.run",
}
__all__ = [
    "Detector",
    "OnnxDetector",
    "Recipe",
    "__version__",
    "export_onnx",
    "load_recipe",
    "load_teacher",
    "open_source",
    "push_to_hub",
    "run_recipe",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first access, so that ``import ezsd`` does not load torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'ezsd' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)

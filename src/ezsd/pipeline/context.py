"""The context that all stages of a run share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ezsd.data.categories import CategorySplit
from ezsd.recipe import Recipe
from ezsd.run_folder import RunFolder
from ezsd.utils.ray_engine import RayEngine


@dataclass(frozen=True)
class RunContext:
    """One run: its recipe, names, folder and device.

    Attributes:
        recipe: The recipe, with absolute paths.
        split: Base and novel names.
        folder: The run folder, where results are written.
        device: The device of this process.
        engine: Where the images of a stage are shared out; None = in this process, or in those of torchrun.
    """

    recipe: Recipe
    split: CategorySplit
    folder: RunFolder
    device: str
    engine: RayEngine | None = None

    @property
    def norms(self) -> Path | None:
        """The adapted norm parameters of the teacher; None when the recipe does not adapt it."""
        return self.folder.norms if self.recipe.adapt.enabled else None

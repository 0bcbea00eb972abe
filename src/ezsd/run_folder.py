"""Where the files of a run are."""

from __future__ import annotations

from typing import Literal, get_args

Stage = Literal["adapt", "propose", "train", "evaluate"]
STAGES: tuple[Stage, ...] = get_args(Stage)
RECIPE = "recipe.yaml"
FOLDERS: dict[Stage, str] = {"adapt": "adapt", "propose": "targets", "train": "train", "evaluate": "evaluate"}

"""The teacher of a model, for names that the model does not know; loaded only where nothing foreign runs unasked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ezsd.detector.model_config import ModelConfig
from ezsd.detector.model_folder import NORMS, norms_of_folder
from ezsd.errors import ArtifactError
from ezsd.recipe_files import read_values
from ezsd.run_folder import RunFolder
from ezsd.teacher import Teacher, load_teacher
from ezsd.teacher.origin import Foreign, foreign, runs_code

_SAME = 0.99  # cosine of the text embeddings of one name; devices and versions differ by less


@dataclass(frozen=True)
class ModelTeacher:
    """The teacher of a model.

    Attributes:
        config: The config of the model.
        known: [C, D], the text embeddings of ``config.names``.
        norms: The file with the adapted norm parameters; None = not adapted.
        named: The teacher that the user named; None = that of the config.
        refused: Why the teacher of the config is loaded only if the user names it; None = it is loaded.
    """

    config: ModelConfig
    known: Tensor
    norms: Path | None = None
    named: str | None = None
    refused: Foreign | None = None

    @torch.no_grad()
    def load(self, device: str) -> Teacher:
        """Load the teacher.

        Raises:
            ArtifactError: It is foreign and the user did not name it, what the user named is another teacher, or its
                adapted norm parameters are missing.
            RecipeError: It is unknown or cannot be imported.
            MissingExtraError: Its packages are not installed.
        """
        config = self.config
        if self.refused is not None and self.named is None:
            raise ArtifactError(
                f"The model has the teacher {config.teacher}, which is loaded only if you name it: "
                f"{self.refused.reason}. The own names of the model need no teacher. For other names, give it, if you "
                f"trust it: --teacher {self.refused.named}, or teacher={self.refused.named!r} in Detector.load."
            )
        if config.adapted and self.norms is None:
            raise ArtifactError(
                f"The model folder has no {NORMS}, so its teacher {config.teacher} is not as it was adapted. The own "
                "names of the model need no teacher. For other names, copy the file from where the folder is from."
            )
        teacher = load_teacher(self.named or config.teacher, device, self.norms)
        if self.named is not None:
            self._check(teacher)
        return teacher

    def _check(self, teacher: Teacher) -> None:
        own = teacher.encode_names([self.config.prompt.replace("{name}", self.config.names[0])])[0].float().cpu()
        known = self.known[0].float().cpu()
        if own.shape != known.shape or float(own @ known) < _SAME:
            raise ArtifactError(
                f"teacher: {self.named} is not the teacher of the model, which is {self.config.teacher}: the text "
                f"embedding of {self.config.names[0]} differs. Give the teacher that the model was trained with."
            )


def teacher_of_model(
    folder: Path, config: ModelConfig, known: Tensor, named: str | None = None, from_hub: bool = False
) -> ModelTeacher:
    """Return the teacher of a model, not yet loaded.

    A model may be from somebody else, so what its config.json names is loaded with care: of a model from a hub, only
    the teachers of packages; of a folder, everything but code, and code only if the recipe of the run that the folder
    belongs to names it, too.

    Args:
        folder: The model folder.
        config: Its config.
        known: [C, D], its text embeddings.
        named: The teacher that the user named, if any.
        from_hub: Whether the folder was downloaded from a hub.
    """
    refused = foreign(config.teacher) if from_hub else None
    if not from_hub and runs_code(config.teacher) and not _is_of_the_run(folder, config.teacher):
        refused = foreign(config.teacher)
    return ModelTeacher(config, known, norms_of_folder(folder), named, refused)


def _is_of_the_run(folder: Path, teacher: str) -> bool:
    """Return whether a model folder is that of a run whose recipe names the teacher."""
    path = folder.absolute()
    run = RunFolder(path.parents[1] if len(path.parts) > 2 else path)
    return run.model == path and run.recipe.is_file() and read_values(run.recipe)[0].get("teacher") == teacher

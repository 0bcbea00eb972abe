"""Problems the user can mend. The command line prints them without a traceback and exits with 2."""

from __future__ import annotations

from collections.abc import Sequence


class EzsdError(Exception):
    """One or several problems; each says what is wrong, where, what was expected and what to do.

    Args:
        problems: one message, or several that are told at once.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class RecipeError(EzsdError):
    """The recipe, or a value given with ``--set``, cannot be used."""


class DataError(EzsdError):
    """Images or annotations cannot be used."""


class ArtifactError(EzsdError):
    """A file or folder that ezsd wrote (or should write) cannot be used."""


class MissingExtraError(EzsdError):
    """An optional package is not installed; the message names the extra."""

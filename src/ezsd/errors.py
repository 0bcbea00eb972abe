"""Errors that the user can fix. The command line prints them without a traceback and exits with code 2."""

from __future__ import annotations

from collections.abc import Sequence


class EzsdError(Exception):
    """One or more problems; each message says what is wrong, where, what was expected and what to do.

    Args:
        problems: One message, or several messages that are reported together.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class RecipeError(EzsdError):
    """The recipe or a value given with ``--set`` is invalid."""


class DataError(EzsdError):
    """Images or annotations are missing or invalid."""


class ArtifactError(EzsdError):
    """A file or folder that ezsd reads or writes is missing, damaged, of the wrong kind, or not writable."""


class MissingExtraError(EzsdError):
    """An optional package is not installed; the message names the extra."""

"""Names with their embeddings, and examples in place of names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ezsd.errors import RecipeError
from ezsd.inference.vocabulary import VocabularyInput, parse_vocabulary


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Names with their embeddings, as :meth:`ezsd.Detector.vocabulary` and ``vocabulary_from_crops`` make them.

    Attributes:
        names: The names that detections get.
        embeddings: [P, D] float32 on the CPU, unit length: one or more rows for each name; the best gives the score.
        owners: [P], the index of the name of each row.
    """

    names: tuple[str, ...]
    embeddings: Tensor
    owners: Tensor

    def __add__(self, other: Vocabulary) -> Vocabulary:
        """Return both vocabularies as one.

        Raises:
            RecipeError: A name is in both.
        """
        parse_vocabulary([*self.names, *other.names], ())
        owners = torch.cat([self.owners, other.owners + len(self.names)])
        return Vocabulary(self.names + other.names, torch.cat([self.embeddings, other.embeddings]), owners)

    @property
    def has_synonyms(self) -> bool:
        """Whether a name has more than one row."""
        return len(self.owners) > len(self.names)


AnyVocabulary: TypeAlias = "Vocabulary | VocabularyInput"
Example: TypeAlias = "Sequence[Any]"  # an image and a box (xyxy), or a list of such pairs


def examples_of(name: str, given: Example) -> list[tuple[Any, Any]]:
    """Return the pairs of an image and a box that were given for a name.

    Raises:
        RecipeError: It is not a pair or a list of pairs.
    """
    listed = list(given) if isinstance(given, (list, tuple)) else []
    pairs = [listed] if _is_pair(listed) and not _is_pair(listed[0]) else listed
    if not pairs or not all(_is_pair(pair) for pair in pairs):
        raise RecipeError(f"{name}: expected [image, [x1, y1, x2, y2]], or a list of such pairs.")
    return [(image, box) for image, box in pairs]


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and not isinstance(value[1], (str, int, float))

"""A note on names of a vocabulary that the teacher cannot tell apart. Without torch."""

from __future__ import annotations

import logging
from typing import Any

from numpy.typing import NDArray

from ezsd.inference.vocabulary import Names
from ezsd.utils.alike import alike_names

logger = logging.getLogger(__name__)
_SHOWN = 3  # pairs
_REMEMBERED = 1_000  # vocabularies that are not compared again; a service can be asked for any number of them


class NearNames:
    """Warns of names that the teacher can hardly tell apart, once for each vocabulary."""

    def __init__(self) -> None:
        self._compared: set[int] = set()

    def note(self, given: Names, text_embeddings: NDArray[Any]) -> None:
        """Warn of phrases of different names whose texts have a cosine above 0.95.

        Args:
            given: The vocabulary.
            text_embeddings: [P, D], unit length, the text embedding of each phrase.
        """
        asked = hash((given.phrases, given.templates))
        if asked in self._compared:
            return
        self._compared = {asked} if len(self._compared) >= _REMEMBERED else self._compared | {asked}
        owners = {phrase: name for name, phrases in zip(given.names, given.phrases, strict=True) for phrase in phrases}
        pairs = [
            f'"{first}" and "{second}"'
            for first, second, _ in alike_names(list(owners), text_embeddings)
            if owners[first] != owners[second]
        ]
        if pairs:
            more = f" and {len(pairs) - _SHOWN} more pairs" if len(pairs) > _SHOWN else ""
            logger.warning(
                f"the teacher can hardly tell {', '.join(pairs[:_SHOWN])}{more} apart; choose names that differ more"
            )

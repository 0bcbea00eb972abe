"""Names that a teacher cannot tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIKE = 0.95  # cosine of two texts that are the same for a teacher


def alike_names(
    names: Sequence[str], text_embeddings: NDArray[Any], limit: float = ALIKE
) -> list[tuple[str, str, float]]:
    """Return the pairs of names whose texts have a cosine above ``limit``, with the cosine; the most alike first.

    Args:
        names: C names.
        text_embeddings: [C, D], unit length, as :func:`ezsd.teacher.text_embeddings` returns them.
        limit: The cosine.
    """
    cosines = text_embeddings @ text_embeddings.T
    rows = np.argwhere(np.triu(cosines > limit, k=1)).tolist()
    pairs = [(names[first], names[second], float(cosines[first, second])) for first, second in rows]
    return sorted(pairs, key=lambda pair: -pair[2])

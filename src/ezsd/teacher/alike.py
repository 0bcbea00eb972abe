"""Names that a teacher cannot tell apart."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

ALIKE = 0.95  # cosine of two texts that are the same for a teacher


def alike_names(names: Sequence[str], text_embeddings: Tensor, limit: float = ALIKE) -> list[tuple[str, str, float]]:
    """Return the pairs of names whose texts have a cosine above ``limit``, with the cosine; the most alike first.

    Args:
        names: C names.
        text_embeddings: [C, D], unit length, as :func:`ezsd.teacher.text_embeddings` returns them.
        limit: The cosine.
    """
    cosines = (text_embeddings @ text_embeddings.T).triu(diagonal=1)
    rows = (cosines > limit).nonzero()
    values = cosines[rows[:, 0], rows[:, 1]]
    pairs = [
        (names[first], names[second], value)
        for (first, second), value in zip(rows.tolist(), values.tolist(), strict=True)
    ]
    return sorted(pairs, key=lambda pair: -pair[2])

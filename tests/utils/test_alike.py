"""Names that a teacher cannot tell apart."""

from __future__ import annotations

import numpy as np
import pytest

from ezsd.utils.alike import alike_names


def test_pairs_above_the_limit_are_returned_with_the_most_alike_first() -> None:
    text = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.0]])
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    found = alike_names(["a", "b", "c", "d"], text)
    assert [pair[:2] for pair in found] == [("a", "d"), ("a", "b"), ("b", "d")]
    assert found[0][2] == pytest.approx(1) and all(cosine > 0.95 for _, _, cosine in found)
    assert alike_names(["a"], text[:1]) == []
    assert len(alike_names(["a", "c", "e"], -text[[0, 2, 3]], -2.0)) == 3

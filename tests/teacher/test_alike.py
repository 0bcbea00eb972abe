"""Names that a teacher cannot tell apart."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from ezsd.teacher.alike import alike_names


def test_pairs_above_the_limit_are_returned_with_the_most_alike_first() -> None:
    text = normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.0]]), dim=1)
    found = alike_names(["a", "b", "c", "d"], text)
    assert [pair[:2] for pair in found] == [("a", "d"), ("a", "b"), ("b", "d")]
    assert found[0][2] == 1 and all(cosine > 0.95 for _, _, cosine in found)
    assert alike_names(["a"], text[:1]) == []

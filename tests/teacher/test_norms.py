"""Norm parameters are interpolated between the raw and the trained values."""

from __future__ import annotations

import torch

from ezsd.teacher.norms import copy_norms, interpolate_norms, set_norms
from tiny_teacher import ColourTeacher

RAW = {"weight": torch.tensor([1.0, 0.1]), "bias": torch.tensor([-2.0, 0.0])}
TRAINED = {"weight": torch.tensor([3.0, 0.7]), "bias": torch.tensor([0.0, 1e-7])}


def test_share_of_the_shift_is_added_to_the_raw_values() -> None:
    mixed = interpolate_norms(RAW, TRAINED, 0.25)
    torch.testing.assert_close(mixed["weight"], torch.tensor([1.5, 0.25]))
    torch.testing.assert_close(mixed["bias"], torch.tensor([-1.5, 2.5e-8]))


def test_share_0_and_share_1_are_exact() -> None:
    for share, expected in ((0.0, RAW), (1.0, TRAINED)):
        mixed = interpolate_norms(RAW, TRAINED, share)
        assert all(torch.equal(mixed[name], expected[name]) for name in expected)


def test_copies_do_not_change_with_the_teacher_and_restore_it() -> None:
    teacher = ColourTeacher()
    raw, before = copy_norms(teacher, ("image",)), teacher.fingerprint
    assert set(raw) == set(teacher.norm_parameters(("image",))) < set(teacher.norm_parameters())
    set_norms(teacher, {name: value + 1 for name, value in raw.items()})
    assert teacher.fingerprint != before
    set_norms(teacher, raw)
    assert teacher.fingerprint == before

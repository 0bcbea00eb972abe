"""Tests of the limits of a service."""

from __future__ import annotations

import pytest

from ezsd.deploy.service.limits import Limits, parse_limits
from ezsd.errors import RecipeError


def test_changes_replace_defaults() -> None:
    limits = parse_limits(["names=7", "upload_mb=0.5"])
    assert (limits.names, limits.upload_bytes, limits.images) == (7, 500_000, Limits().images)


def test_all_problems_are_reported_with_their_key() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_limits(["names=0", "speed=3", "images", "seconds=inf", "megapixels=many"])
    assert len(caught.value.problems) == 5
    text = str(caught.value)
    assert "names=0" in text and "unknown limit" in text and "KEY=VALUE" in text and "upload_mb, megapixels" in text

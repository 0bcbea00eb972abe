"""Tests of the public names."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ezsd


def test_every_public_name_exists() -> None:
    for name in ezsd.__all__:
        assert getattr(ezsd, name) is not None


def test_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="detector_of_everything"):
        ezsd.detector_of_everything  # noqa: B018


def test_importing_ezsd_does_not_load_torch() -> None:
    code = "import sys\nfrom ezsd import Recipe\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

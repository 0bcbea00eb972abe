"""The public names."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ezsd


def test_every_public_name_is_there() -> None:
    for name in ezsd.__all__:
        assert getattr(ezsd, name) is not None


def test_other_names_are_refused_as_in_any_module() -> None:
    with pytest.raises(AttributeError, match="detector_of_everything"):
        ezsd.detector_of_everything  # noqa: B018


def test_importing_ezsd_is_quick() -> None:
    code = "import sys\nfrom ezsd import Recipe\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

"""Commands in a Python that has only some of the installed packages."""

from __future__ import annotations

import re
from importlib.metadata import packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement

_CODE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from ezsd.cli import main
main()
"""


def listed_packages() -> list[str]:
    """Return the packages that docs/onnx.md installs beside ezsd."""
    page = (Path(__file__).parents[1] / "docs" / "onnx.md").read_text()
    return re.findall(r"^pip install ((?!-).*)$", page, re.MULTILINE)[0].split()


def packages_of_extra(extra: str) -> list[str]:
    """Return the packages of an extra of ezsd."""
    wanted = map(Requirement, requires("ezsd") or ())
    return [each.name for each in wanted if each.marker is not None and each.marker.evaluate({"extra": extra})]


def command_without_torch(packages: list[str]) -> str:
    """Return the code of the command ezsd where only packages, and what they require, can be imported."""
    installed = _with_requirements([*packages, "ezsd"])
    absent = [name for name, owners in packages_distributions().items() if not installed & {*map(_plain, owners)}]
    if "torch" not in absent:
        raise AssertionError("torch is among the packages")
    return _CODE.format(absent=absent)


def _with_requirements(names: list[str]) -> set[str]:
    """Return packages and all that they require, without those of ezsd, which is installed with --no-deps."""
    found: set[str] = set()
    while names:
        name = _plain(names.pop())
        if name in found:
            continue
        found.add(name)
        wanted = [] if name == "ezsd" else map(Requirement, requires(name) or ())
        names += [each.name for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")

"""The order of the rooms: each imports only rooms above it, so that none needs to know what is built on it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "ezsd"
# From the top; docs/architecture.md says what each is for. A package stands for all its modules.
ROOMS = [
    "errors", "files", "recipe", "progress",
    "data.categories", "data.pictures", "data.annotations", "data.coco", "data.augment",
    "data.pictograms", "data.scenes", "data.pocket",
    "teacher", "checkpoint", "crops", "pocket_teacher", "adapt", "targets",
    "detector", "inference", "train_data", "loop", "base_rpn", "candidates", "propose", "recall",
    "train", "metrics", "evaluate", "predict", "detect",
    "pages", "charts", "compare", "gallery", "report",
    "advice", "own_recipe", "own_data", "measure", "plan",
    "lock", "fingerprints", "run", "demo", "serve", "export", "cli", "__main__",
]  # fmt: skip


def _place(module: str) -> int | None:
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in ROOMS:
            return ROOMS.index(name)
    return None


def _imported(source: str) -> set[str]:
    """The modules of ezsd that the source imports, without the leading ``ezsd.``; wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            found.add("ezsd.<relative import>")
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("ezsd.") for name in found if name.startswith("ezsd.")}


def _faults(sources: Mapping[str, str]) -> list[str]:
    faults = []
    for module, source in sources.items():
        own = _place(module)
        if own is None:
            faults.append(f"{module} has no place in ROOMS")
            continue
        for name in _imported(source):
            place = _place(name)
            if place is None:
                if name not in ("__version__", "data"):
                    faults.append(f"{module} imports {name}, which has no place in ROOMS")
            elif place > own:
                faults.append(f"{module} imports {name}, a room below it")
    return faults


def _sources() -> dict[str, str]:
    sources = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if module not in ("", "data"):
            sources[module] = path.read_text(encoding="utf-8")
    return sources


def test_every_room_imports_only_rooms_above_it() -> None:
    sources = _sources()
    assert len(sources) > 15
    assert _faults(sources) == []


@pytest.mark.parametrize(
    "module, source",
    [
        ("files", "from ezsd.recipe import Recipe"),
        ("errors", "import ezsd.files"),
        ("data.coco", "from ezsd import teacher"),
        ("teacher.clip", "def late():\n    from ezsd.detector.rcnn import Rcnn"),
        ("train", "from .errors import EzsdError"),
        ("attic", "import json"),
        ("train", "from ezsd.attic import box"),
    ],
)
def test_an_import_against_the_order_is_seen(module: str, source: str) -> None:
    assert len(_faults({module: source})) == 1


def test_an_import_along_the_order_is_no_fault() -> None:
    assert _faults({"detector.rcnn": "from ezsd.detector.rpn import Rpn\nfrom ezsd.teacher import load_teacher"}) == []


def test_the_architecture_tells_what_every_room_is_for() -> None:
    text = (SOURCE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    for module in _sources():
        rows = (f"| `{module.replace('.', '/')}.py` |", f"| `{module.partition('.')[0]}/` |")
        assert any(row in text for row in rows), module

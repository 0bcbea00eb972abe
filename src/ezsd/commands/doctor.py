"""Check an installation: ``ezsd doctor``. Imports are inside functions, so that a broken package is reported."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ezsd._version import __version__
from ezsd.utils.format import byte_size

_PACKAGES = ("torch", "torchvision", "timm", "open_clip_torch", "accelerate", "numpy", "pillow", "supervision",
             "faster-coco-eval", "transformers")  # fmt: skip
_TEACHERS = ("offline", "pocket")
_LEAST_DISK = 5e9  # bytes, for checkpoints and targets of a small run
_LEAST_SHARED = 512e6  # bytes, for images passed by DataLoader workers


def examine() -> dict[str, Any]:
    """Return a description of this installation and its problems.

    Returns:
        JSON values: ``versions``, ``devices``, ``operators``, ``disk``, ``shared_memory``, ``extras``, ``teachers`` and
        ``problems``, a list of {"what", "do", "stops"}; ``stops`` is true if ezsd cannot be used.
    """
    problems: list[dict[str, Any]] = []

    def problem(what: str, do: str, stops: bool = False) -> None:
        problems.append({"what": what, "do": do, "stops": stops})

    return {
        "versions": _versions(),
        "devices": _devices(problem),
        "operators": _operators(problem),
        "disk": _disk(problem),
        "shared_memory": _shared_memory(problem),
        "extras": _extras(),
        "teachers": {name: _teacher(name, problem) for name in _TEACHERS},
        "problems": problems,
    }


def as_text(found: dict[str, Any]) -> Group:
    """Return the result of :func:`examine` as a table and a list of problems."""
    table = Table(title="ezsd doctor", title_justify="left", show_header=False)
    for section in ("versions", "devices", "operators", "disk", "shared_memory", "extras", "teachers"):
        table.add_section()
        for index, (name, value) in enumerate(found[section].items()):
            table.add_row(section.replace("_", " ") if index == 0 else "", Text(name), Text(str(value)))
    lines = [Text(f"Problem: {entry['what']}\n  Fix: {entry['do']}", style="red") for entry in found["problems"]]
    return Group(table, *(lines or [Text("No problems found.", style="green")]))


Report = Callable[..., None]


def _versions() -> dict[str, str]:
    found = {"ezsd": __version__, "python": platform.python_version(), "platform": platform.platform()}
    return found | {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _devices(problem: Report) -> dict[str, Any]:
    try:
        import torch
    except (ImportError, OSError) as error:
        problem(f"torch cannot be imported: {error}", "Reinstall it: pip install --force-reinstall torch", True)
        return {}
    devices: dict[str, Any] = {"cpu": f"{torch.get_num_threads()} threads of {os.cpu_count()} processors"}
    if not torch.cuda.is_available():
        devices["cuda"] = "not available"
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = f"{properties.name}, {_size(properties.total_memory)}"
    devices["mps"] = "available" if torch.backends.mps.is_available() else "not available"
    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        problem("an NVIDIA driver is installed, but torch finds no GPU", "Install the torch build for this driver.")
    return devices


def _operators(problem: Report) -> dict[str, str]:
    try:
        import torch
        from torchvision.ops import nms, roi_align

        boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.9]])
        kept = nms(boxes, torch.tensor([0.9, 0.8]), 0.5)
        pooled = roi_align(torch.ones(1, 1, 8, 8), [boxes], 2)
        if kept.tolist() != [0] or not bool((pooled == 1).all()):
            raise RuntimeError("nms or roi_align returned wrong values")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        problem(
            f"the operators of torchvision do not work: {_first_line(error)}",
            "Install torch and torchvision of matching versions from the same index, as in: "
            "pip install --force-reinstall torch torchvision",
            True,
        )
        return {"torchvision": "do not work"}
    return {"torchvision": "nms and roi_align work"}


def _disk(problem: Report) -> dict[str, str]:
    from ezsd.utils.files import cache_folder

    free = {}
    for name, path in (("working directory", Path.cwd()), ("cache", cache_folder())):
        existing = next(folder for folder in (path, *path.parents) if folder.exists())
        count = shutil.disk_usage(existing).free
        free[f"{name} ({path})"] = f"{_size(count)} free"
        if count < _LEAST_DISK:
            problem(f"only {_size(count)} are free for {path}", "Free some disk space, or use another --out.")
        if not os.access(existing, os.W_OK):
            problem(f"{existing} cannot be written", "Change its permissions, or set EZSD_CACHE to a writable folder.")
    return free


def _shared_memory(problem: Report) -> dict[str, str]:
    path = Path("/dev/shm")
    if not path.is_dir():
        return {str(path): "not used on this system"}
    size = shutil.disk_usage(path).total
    if size < _LEAST_SHARED:
        problem(
            f"shared memory has only {_size(size)}",
            "Set data.workers: 0, or start the container with --shm-size=2g.",
        )
    return {str(path): _size(size)}


def _extras() -> dict[str, str]:
    """Return the missing packages of each extra."""
    missing: dict[str, list[str]] = {}
    for requirement in metadata.requires("ezsd") or ():
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        if extra and extra[1] != "dev":
            package = re.split(r"[\s;<>=!~\[(]", requirement, maxsplit=1)[0]
            absent = missing.setdefault(extra[1], [])
            if _version(package) == "not installed":
                absent.append(package)
    return {
        name: f"missing {', '.join(absent)}: pip install 'ezsd[{name}]'" if absent else "installed"
        for name, absent in missing.items()
    }


def _teacher(name: str, problem: Report) -> str:
    started = time.monotonic()
    try:
        from ezsd.errors import EzsdError
        from ezsd.teacher import load_teacher
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return f"cannot be loaded: {_first_line(error)}"
    try:
        load_teacher(name)
    except EzsdError as error:
        problem(f"teacher {name} cannot be loaded: {error}", "Install the extra named above if you need this teacher.")
        return "cannot be loaded"
    except (ImportError, OSError, RuntimeError, AttributeError, ValueError) as error:
        return f"cannot be loaded: {_first_line(error)}"
    return f"loads in {time.monotonic() - started:.1f} s"


def _size(count: int) -> str:
    return byte_size(count).replace("\N{NO-BREAK SPACE}", " ")  # plain text for JSON


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

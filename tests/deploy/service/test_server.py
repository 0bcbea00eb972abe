"""Tests of the running service: slow clients, signals, addresses, the command line."""

from __future__ import annotations

import re
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from typer.testing import CliRunner

import ezsd.deploy.service.server as server
from ezsd.cli import app
from few_packages import command_without_torch, listed_packages, packages_of_extra
from service import image_bytes, process

JPEG = image_bytes()


def _detect(url: str, **options: Any) -> Any:
    return requests.post(f"{url}/v1/detect", files={"image": ("street.jpg", JPEG)}, timeout=60, **options)


@pytest.mark.slow
def test_sigterm_answers_all_requests_and_ends_with_zero(model: Path) -> None:
    with process(model, "--host", "0.0.0.0") as (running, log, url), ThreadPoolExecutor(30) as pool:
        assert "EZSD_TOKEN" in log  # anyone could use it
        answers = [pool.submit(_detect, url) for _ in range(30)]
        while not re.search(r"^ezsd_requests_in_progress 30", requests.get(f"{url}/metrics").text, re.MULTILINE):
            if sum(answer.done() for answer in answers) > 5:
                break  # a fast machine: some are answered before the last one is sent
        running.send_signal(signal.SIGTERM)
        assert [answer.result().status_code for answer in answers] == [200] * 30
        assert running.wait(120) == 0
        assert "all requests were answered" in running.stderr.read()  # type: ignore[union-attr]
        with pytest.raises(requests.ConnectionError):
            _detect(url)


def _raw(url: str, data: bytes) -> tuple[bytes, float]:
    """Send bytes, then nothing; return the answer and the seconds until the connection is closed."""
    parts, started = urlsplit(url), time.monotonic()
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        connection.sendall(data)
        answer = b""
        while received := connection.recv(65536):
            answer += received
    return answer, time.monotonic() - started


@pytest.mark.slow
def test_slow_uploads_and_slow_heads_are_refused(model: Path) -> None:
    head = b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
    with process(model, "--limit", "seconds=1") as (running, log, url), ThreadPoolExecutor(3) as pool:
        assert "EZSD_TOKEN" not in log
        with requests.Session() as patient:
            assert patient.get(f"{url}/ready").status_code == 200
            slow = [pool.submit(_raw, url, data) for data in (head + b"\r\n{", head, b"")]
            (answer, seconds), *others = [each.result() for each in slow]
            assert answer.startswith(b"HTTP/1.1 408") and b"more than 1 seconds" in answer and seconds < 10
            assert all(not answer and seconds < 3 * server._HEAD_SECONDS for answer, seconds in others)
            assert patient.get(f"{url}/ready").status_code == 200
        running.send_signal(signal.SIGINT)
        assert running.wait(120) == 0


@pytest.mark.parametrize("name", ["model", "baked"])
def test_onnx_files_are_served_without_torch(exported: Path, name: str) -> None:
    code = command_without_torch([*listed_packages(), *packages_of_extra("serve")])
    with process(exported / f"{name}.onnx", code=code) as (_, _, url):
        answer = _detect(url, data={"vocabulary": "bar", "threshold": "0"})
        assert answer.status_code == 200 and answer.json()["images"][0]["detections"]
        assert requests.get(url, timeout=60).status_code == 200


def test_a_port_in_use_and_bad_arguments_are_explained(model: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        used = CliRunner().invoke(app, ["serve", str(model), "--port", port])
    assert used.exit_code == 2 and f"port {port}" in used.stderr and "--port" in used.stderr
    limit = CliRunner().invoke(app, ["serve", str(model), "--limit", "speed=3"])
    assert limit.exit_code == 2 and "unknown limit" in limit.stderr
    token = CliRunner().invoke(app, ["serve", str(model)], env={"EZSD_TOKEN": "two words\n"})
    assert token.exit_code == 2 and "EZSD_TOKEN" in token.stderr
    device = CliRunner().invoke(app, ["serve", str(model), "--device", "cuda:99"])
    assert device.exit_code == 2 and "cuda:99" in device.stderr
    missing = CliRunner().invoke(app, ["serve", str(tmp_path)])
    assert missing.exit_code == 2 and "config.json" in missing.stderr


def test_a_missing_package_names_the_extra(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    for name in [name for name in sys.modules if name.startswith("ezsd.deploy.service.")]:
        monkeypatch.delitem(sys.modules, name)
    result = CliRunner().invoke(app, ["serve", str(model)])
    assert result.exit_code == 2 and "pip install 'ezsd[serve]'" in result.stderr

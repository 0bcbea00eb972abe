"""Run the steps of a Dockerfile without Docker, in a new Debian that is made with debootstrap; needs root.

    python docker/run_steps.py MODEL IMAGE --root /tmp/ezsd-root [--file docker/onnx.Dockerfile] [--bind DIR]...

The committed files are copied as the Dockerfile says, its commands run in the new system, and the service is started as
its user: it must become ready, pass the health check, detect objects, and end on SIGTERM. The base image is replaced by
Debian 12 with its Python; nothing else of this machine is visible, except folders named with --bind and pip's settings.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

REPOSITORY = Path(__file__).resolve().parents[1]
URL = "http://127.0.0.1:8000"
PACKAGES = "python3,python3-pip,python-is-python3,ca-certificates"
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    "LANG": "C.UTF-8",
    "PIP_BREAK_SYSTEM_PACKAGES": "1",  # Debian protects its Python; the base image does not
    "PIP_ROOT_USER_ACTION": "ignore",
}


class Machine:
    """The new system, with the state that the instructions of a Dockerfile change."""

    def __init__(self, root: Path, context: Path) -> None:
        self.root, self.context = root, context
        self.environment = dict(ENVIRONMENT) | {k: v for k, v in os.environ.items() if k.startswith("PIP_")}
        self.folder, self.user = "/", "0"
        self.entrypoint: list[str] = []
        self.command: list[str] = []
        self.health: list[str] = []

    def step(self, word: str, rest: str) -> None:
        """Carry out one instruction."""
        if word == "RUN":
            subprocess.run(self.inside(["/bin/sh", "-c", rest]), check=True, env=self.environment)
        elif word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                self._copy(self.context / source, self.root / self.folder.lstrip("/") / target)
        elif word in ("ENV", "ARG"):
            self.environment |= dict(part.split("=", 1) for part in shlex.split(rest))
        elif word == "WORKDIR":
            self.folder = rest
            (self.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "USER":
            self.user = rest
        elif word == "HEALTHCHECK":
            self.health = json.loads(rest[rest.index("[") :])
        elif word in ("ENTRYPOINT", "CMD"):
            setattr(self, "entrypoint" if word == "ENTRYPOINT" else "command", json.loads(rest))
        elif word not in ("FROM", "EXPOSE"):
            raise SystemExit(f"unknown instruction {word}")

    def inside(self, command: list[str]) -> list[str]:
        """Return a command that runs another one in the system, in the working directory, as the user."""
        there = f"cd {shlex.quote(self.folder)} && exec {shlex.join(command)}"
        return ["chroot", f"--userspec={self.user}:{self.user}", str(self.root), "/bin/sh", "-c", there]

    def _copy(self, source: Path, target: Path) -> None:
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy(source, target / source.name if target.is_dir() else target)


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile as (word, rest)."""
    lines = [line for line in dockerfile.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="The folder that becomes /model.")
    parser.add_argument("image", type=Path)
    parser.add_argument("--root", type=Path, required=True, help="The folder of the new system.")
    parser.add_argument("--file", type=Path, default=REPOSITORY / "docker/Dockerfile", help="The Dockerfile.")
    parser.add_argument("--bind", type=Path, action="append", default=[], help="A folder to show in the new system.")
    arguments = parser.parse_args()
    root: Path = arguments.root
    subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root], check=True)
    for file in ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"):
        shutil.copy(file, root / file.lstrip("/"))
    mounts = [(Path("/proc"), "proc"), (Path("/dev"), "dev"), *((path, str(path)) for path in arguments.bind)]
    try:
        for source, target in mounts:
            (root / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--bind", source, root / target.lstrip("/")], check=True)
        with tempfile.TemporaryDirectory() as context:
            archive = subprocess.run(["git", "-C", REPOSITORY, "archive", "HEAD"], check=True, stdout=subprocess.PIPE)
            subprocess.run(["tar", "-x", "-C", context], check=True, input=archive.stdout)
            machine = Machine(root, Path(context))
            for word, rest in instructions(arguments.file.read_text()):
                print(f"{word} {rest}", flush=True)
                machine.step(word, rest)
        shutil.copytree(arguments.model, root / "model")
        check(machine, arguments.image)
    finally:
        for _, target in reversed(mounts):
            subprocess.run(["umount", root / target.lstrip("/")], check=False)


def check(machine: Machine, image: Path) -> None:
    """Start the service as the container would, and use it."""
    command = machine.inside([*machine.entrypoint, *machine.command])
    with subprocess.Popen(command, env=machine.environment) as service:
        try:
            wait_until_ready(service)
            status = Path(f"/proc/{service.pid}/status").read_text()
            print("user:", re.findall(r"^Uid:\s+(\d+)", status, re.MULTILINE)[0])
            subprocess.run(machine.inside(machine.health), check=True, env=machine.environment)
            print("health check: passed")
            found = detect(image)
            print("detections:", len(found["images"][0]["detections"]), "of", len(found["vocabulary"]), "names")
            service.send_signal(signal.SIGTERM)
            print("exit status after SIGTERM:", service.wait(60))
        finally:
            service.kill()
    if service.returncode:
        raise SystemExit("the service failed")


def wait_until_ready(service: subprocess.Popen[bytes]) -> None:
    """Wait for /ready."""
    for _ in range(300):
        try:
            with urlopen(f"{URL}/ready"):
                return
        except URLError:
            time.sleep(1)
        if service.poll() is not None:
            break
    raise SystemExit("the service did not become ready")


def detect(image: Path) -> dict[str, list[dict[str, object]]]:
    """Detect objects in an image through the service."""
    head = '--x\r\nContent-Disposition: form-data; name="image"; filename="image"\r\n\r\n'
    body = head.encode() + image.read_bytes() + b"\r\n--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with urlopen(Request(f"{URL}/v1/detect", body, headers)) as response:
        return json.load(response)


if __name__ == "__main__":
    main()

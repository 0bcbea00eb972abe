"""A hub on localhost with the requests that ezsd makes through huggingface-hub: create, commit, describe, download."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StubHub:
    """The content of the hub: the files of each commit of each repository, newest last."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.requests: list[str] = []
        self.url = ""

    def add(self, repo_id: str, files: dict[str, bytes], removed: Sequence[str] = ()) -> str:
        commits = self.commits.setdefault(repo_id, {})
        files = {**next(reversed(commits.values()), {}), **files}
        files = {path: content for path, content in files.items() if path not in removed}
        commit = hashlib.sha1(repr((len(commits), sorted(files.items()))).encode()).hexdigest()
        commits[commit] = files
        return commit

    def find(self, repo_id: str, revision: str) -> str | None:
        commits = list(self.commits.get(repo_id, {}))
        return commits[-1] if commits and revision == "main" else revision if revision in commits else None


@contextmanager
def running_hub() -> Iterator[StubHub]:
    hub = StubHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._resolve(with_body=False)

        def do_GET(self) -> None:
            if not self.path.startswith("/api/"):
                self._resolve(with_body=True)
                return
            hub.requests.append(f"GET {self.path}")
            if not self.path.startswith("/api/models/"):
                self._send(404, {"error": self.path})
                return
            _, _, _, org, name, *rest = self.path.partition("?")[0].split("/")
            commit = hub.find(f"{org}/{name}", rest[1] if rest else "main")
            if commit is None:
                self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
                return
            siblings = [{"rfilename": path} for path in hub.commits[f"{org}/{name}"][commit]]
            self._send(200, {"id": f"{org}/{name}", "sha": commit, "siblings": siblings})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hub.requests.append(f"POST {self.path}")
            parts = self.path.partition("?")[0].split("/")
            if parts[2:] == ["repos", "create"]:
                given = json.loads(body)
                repo_id = f"{given['organization']}/{given['name']}"
                hub.requests.append(body.decode())
                if repo_id not in hub.commits:
                    hub.add(repo_id, {".gitattributes": b""})
                self._send(200, {"url": f"{hub.url}/{repo_id}"})
            elif parts[2:] == ["validate-yaml"]:
                self._send(200, {"errors": [], "warnings": []})
            elif parts[5] == "preupload":
                paths = [entry["path"] for entry in json.loads(body)["files"]]
                files = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
                self._send(200, {"files": files})
            else:
                lines = [json.loads(line) for line in body.splitlines()]
                files = {
                    line["value"]["path"]: base64.b64decode(line["value"]["content"])
                    for line in lines
                    if line["key"] == "file"
                }
                removed = [line["value"]["path"] for line in lines if line["key"] == "deletedFile"]
                commit = hub.add(f"{parts[3]}/{parts[4]}", files, removed)
                self._send(200, {"commitUrl": f"{hub.url}/{parts[3]}/{parts[4]}/commit/{commit}", "commitOid": commit})

        def _resolve(self, with_body: bool) -> None:
            org, name, _, revision, *path = self.path.partition("?")[0][1:].split("/")
            hub.requests.append(f"{self.command} {'/'.join(path)}")
            commit = hub.find(f"{org}/{name}", revision)
            content = hub.commits[f"{org}/{name}"][commit].get("/".join(path)) if commit else None
            if content is None:
                self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", str(commit))
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            for key, text in (headers or {}).items():
                self.send_header(key, text)
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()

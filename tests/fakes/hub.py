"""A stand-in for the Hugging Face hub, which tests cannot reach: as much of its API as the library's uploads ask for.

It keeps one repository in memory. What it answers is shaped after what the library expects, not after the hub's own
code: it shows that the library is used as it wants to be, and not that the hub takes what it is sent.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

#: Larger files, and tars, go to large file storage, as on the hub.
LARGE_BYTES = 1 << 20


@dataclass
class Repository:
    """What is in the repository, and what was done to it."""

    private: bool | None = None
    """None until it is made."""
    files: dict[str, bytes] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    """SHA-256 -> content, uploaded, though not all of it committed."""
    pointers: dict[str, str] = field(default_factory=dict)
    """File -> SHA-256, where it is in large file storage."""
    commits: list[str] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    """For each commit, whether there was an index after it."""
    uploads: int = 0
    damage: Callable[[bytes], bytes] = lambda data: data
    """Done to what is uploaded to large file storage."""
    die_after: int | None = None
    """Commits after which it refuses more."""

    def create(self, private: bool) -> int:
        if self.private is not None:
            return 409
        self.private = private
        self.files[".gitattributes"] = b"*.tar filter=lfs\n"
        return 200

    def commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.commits.append(value["summary"])
            elif line["key"] == "deletedFile":
                self.files.pop(value["path"])
                self.pointers.pop(value["path"], None)
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.large[value["oid"]]
                self.pointers[value["path"]] = hashlib.sha256(self.large[value["oid"]]).hexdigest()
            else:
                self.files[value["path"]] = base64.b64decode(value["content"])
        self.whole.append("dataset.json" in self.files or "SHA256SUMS" in self.files)

    def entry(self, name: str) -> dict[str, Any]:
        data = self.files[name]
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": git_hash(data)}
        if name in self.pointers:
            entry["lfs"] = {"oid": self.pointers[name], "size": len(data), "pointerSize": 130}
        return entry


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serving(repository: Repository) -> Iterator[str]:
    """Serve it on a free port; the address for HF_ENDPOINT."""

    class Handler(_Handler):
        holds = repository

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    holds: Repository

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        if path == "/api/repos/create":
            asked = json.loads(body)
            status = self.holds.create(asked["visibility"] == "private")
            self._json({"url": f"{self._home}/datasets/{asked['organization']}/{asked['name']}"}, status)
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            self._json({"files": [self._mode(each) for each in json.loads(body)["files"]]})
        elif path.endswith("/info/lfs/objects/batch"):
            self._json({"transfer": "basic", "objects": [self._upload(each) for each in json.loads(body)["objects"]]})
        elif "/commit/" in path:
            self._commit([json.loads(line) for line in body.splitlines()])
        elif "/paths-info/" in path:
            asked_for = parse_qs(body.decode())["paths"]
            self._json([self.holds.entry(name) for name in asked_for if name in self.holds.files])
        else:
            self._json({"error": f"unknown: {path}"}, 404)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.holds.large[self.path.rpartition("/")[2]] = self.holds.damage(data)
        self.holds.uploads += 1
        self._json({})

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if "/tree/" in path:
            self._json([self.holds.entry(name) for name in sorted(self.holds.files)])
        elif match := re.search(r"/resolve/[^/]+/(.*)", path):
            self._file(match[1])
        elif self.holds.private is None:
            self._json({"error": "Repository not found"}, 404)
        else:
            self._json({"id": "lab/shards", "private": self.holds.private, "sha": "0" * 40})

    def do_HEAD(self) -> None:
        self.do_GET()

    @property
    def _home(self) -> str:
        return f"http://{self.headers['Host']}"

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        large = file["size"] > LARGE_BYTES or file["path"].endswith(".tar")
        return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}

    def _upload(self, file: dict[str, Any]) -> dict[str, Any]:
        """Where to put it; nowhere, if it is there."""
        wanted = {"oid": file["oid"], "size": file["size"]}
        if file["oid"] in self.holds.large:
            return wanted
        return wanted | {"actions": {"upload": {"href": f"{self._home}/large/{file['oid']}"}}}

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        if self.holds.die_after is not None and len(self.holds.commits) >= self.holds.die_after:
            self._json({"error": "out of order"}, 400)
            return
        self.holds.commit(lines)
        self._json({"commitUrl": f"{self._home}/datasets/lab/shards/commit/0", "commitOid": "0" * 40, "success": True})

    def _file(self, name: str) -> None:
        if name not in self.holds.files:
            self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        data = self.holds.files[name]
        self._send(data, 200, {"ETag": f'"{git_hash(data)}"', "X-Repo-Commit": "0" * 40})

    def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, data: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

"""A Hugging Face hub on this machine, as far as huggingface_hub asks it: for `HF_ENDPOINT`.

The API is that of https://huggingface.co/docs/hub/api. Large files are LFS files: their address leads to another host,
their entity tag is their SHA-256, and small files have that of their git object.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.support.commands import ROOT

LFS_FROM_BYTES = 2**20


@dataclass
class Request:
    """What the hub was asked."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Repository:
    """A model on the hub. `gated` is the status of the answer to who asks for its files, or 0."""

    files: dict[str, bytes]
    gated: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    """Sizes that the hub claims, where they are not those of the files."""

    @property
    def commit(self) -> str:
        """Its only revision, which is `main`."""
        return hashlib.sha1("".join(map(self.etag, sorted(self.files))).encode()).hexdigest()  # noqa: S324 - as git's

    def size(self, name: str) -> int:
        """The size of a file that the hub claims."""
        return self.sizes.get(name, len(self.files[name]))

    def is_large(self, name: str) -> bool:
        """Whether it is an LFS file."""
        return len(self.files[name]) >= LFS_FROM_BYTES

    def etag(self, name: str) -> str:
        """The SHA-256 of a large file, or the SHA-1 of the git object of another."""
        return _etag(self.files[name], self.is_large(name))


@cache
def _etag(content: bytes, is_large: bool) -> str:
    if is_large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324 - as git's


class HubServer:
    """Serves `repositories`, and records the `requests`."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.token: str | None = None
        """The only token that is accepted, if one is given."""
        self.status = 0
        """The status of every answer, or 0."""
        self.cuts: list[int] = []
        """After how many bytes the next answers with a large file break off."""
        self.stall_after: int | None = None
        """After how many bytes an answer with a large file stands still, until `released`."""
        self.stalled, self.released = threading.Event(), threading.Event()
        self.spoiled: set[str] = set()
        """Files whose content arrives damaged."""
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def add(self, name: str, folder: Path, **options: Any) -> Repository:
        """Puts the files of a folder on the hub."""
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self.repositories[name] = Repository(files, **options)
        return self.repositories[name]

    @property
    def port(self) -> int:
        """Its port, on localhost and 127.0.0.1."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """For `HF_ENDPOINT`."""
        return f"http://127.0.0.1:{self.port}"

    def ranges(self) -> list[str]:
        """The ranges that were asked for, in order."""
        return [request.headers["range"] for request in self.requests if "range" in request.headers]

    def bodies(self) -> list[str]:
        """The paths of the large files whose content was asked for, in order."""
        return [item.path for item in self.requests if item.method == "GET" and item.path.startswith("/large/")]

    def close(self) -> None:
        """Stops."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: HubServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def _answer(self) -> None:
        hub = self.server_hub
        path = unquote(urlsplit(self.path).path)
        hub.requests.append(Request(self.command, path, {name.lower(): value for name, value in self.headers.items()}))
        given = self.headers.get("Authorization")
        if hub.status:
            self._send(hub.status)
        elif hub.token and given and given != f"Bearer {hub.token}":
            self._send(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path):
            self._repository(match[1], match[2], match[3])
        elif match := re.fullmatch(r"/large/([^/]+/[^/]+)/([0-9a-f]{40})/(.+)", path):
            self._content(hub.repositories[match[1]], match[3])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3])
        else:
            self._send(404)

    def _find(self, name: str, revision: str) -> Repository | None:
        """The repository, or None after an error was sent."""
        repository = self.server_hub.repositories.get(name)
        if repository is None:
            self._send(401, {"X-Error-Code": "RepoNotFound"})  # as the hub, which does not tell who may not know
        elif revision not in ("main", repository.commit):
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            return repository
        return None

    def _repository(self, name: str, what: str, revision: str) -> None:
        repository = self._find(name, revision)
        if repository is None:
            return
        if what == "revision":
            self._send_json({"id": name, "sha": repository.commit, "siblings": [], "private": False})
            return
        entries = []
        for file in sorted(repository.files):
            entry: dict[str, Any] = {"type": "file", "path": file, "size": repository.size(file), "oid": "0" * 40}
            if repository.is_large(file):
                entry["lfs"] = {"oid": repository.etag(file), "size": repository.size(file), "pointerSize": 134}
            else:
                entry["oid"] = repository.etag(file)
            entries.append(entry)
        self._send_json(entries)

    def _file(self, name: str, revision: str, file: str) -> None:
        repository = self._find(name, revision)
        if repository is None:
            return
        headers = {"X-Repo-Commit": repository.commit}
        if repository.gated:
            self._send(repository.gated, {"X-Error-Code": "GatedRepo"} | headers)
        elif file not in repository.files:
            self._send(404, {"X-Error-Code": "EntryNotFound"} | headers)
        elif repository.is_large(file):
            headers |= {"X-Linked-Etag": f'"{repository.etag(file)}"', "X-Linked-Size": str(repository.size(file))}
            headers["Location"] = f"http://localhost:{self.server_hub.port}/large/{name}/{repository.commit}/{file}"
            self._send(302, headers)
        else:
            self._send(200, {"ETag": f'"{repository.etag(file)}"'} | headers, repository.files[file])

    def _content(self, repository: Repository, file: str) -> None:
        hub, content = self.server_hub, repository.files[file]
        if file in hub.spoiled:
            content = content[:-1] + bytes([content[-1] ^ 1])
        begin = 0
        headers = {"Accept-Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            begin = int(match[1])
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        body = content[begin:]
        if hub.cuts and self.command == "GET":
            length = hub.cuts.pop(0)
            self._send(206 if begin else 200, headers, body, length)
            self.close_connection = True
        elif hub.stall_after is not None and self.command == "GET":
            length, hub.stall_after = hub.stall_after, None
            self._send(206 if begin else 200, headers, body, length)
            hub.stalled.set()
            hub.released.wait()
            self.close_connection = True
        else:
            self._send(206 if begin else 200, headers, body)

    def _send_json(self, value: Any) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _send(
        self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", sent: int | None = None
    ) -> None:
        """Sends an answer, or only the first `sent` bytes of its body."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            try:
                self.wfile.write(body[:sent])
                self.wfile.flush()
            except ConnectionError:
                self.close_connection = True  # the client has ended


def environment(cache: Path, hub: HubServer | None) -> dict[str, str]:
    """An environment for a process that asks this hub, or by default none, and has its cache in that folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "QWEN_ASR_"))}
    ours = {"HF_HUB_CACHE": str(cache), "HF_HOME": str(cache.parent / "home"), "PYTHONPATH": str(ROOT)}
    ours |= {"HF_HUB_DOWNLOAD_TIMEOUT": "300", "HF_HUB_ETAG_TIMEOUT": "300"}  # a busy machine is slow
    offline = {"HF_HUB_OFFLINE": "" if hub else "1", "TRANSFORMERS_OFFLINE": ""}
    return kept | ours | offline | ({"HF_ENDPOINT": hub.url} if hub else {})


def fetch_into(cache: Path, hub: HubServer, name: str) -> Path:
    """The snapshot that huggingface_hub fetches in a process of its own: it reads the environment only once."""
    script = "import sys; from huggingface_hub import snapshot_download; print(snapshot_download(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", script, name], env=environment(cache, hub), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())

"""A dataset hub on loopback that speaks the part of the hub's protocol that listing and streaming need."""

import hashlib
import json
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
LATER_COMMIT = "d0ffee" + "0" * 34


class HubServer(ThreadingHTTPServer):
    """Serves `files` (path -> bytes) as the dataset "org/name"; fails as `faults` say.

    `faults` maps a file's path, or "api" for all that is not a file, to a list of what its next GETs answer instead: a
    status, "cut" for a body that ends in the middle, or "changed" for other bytes of the same length. `requests` counts
    the GETs of each file and, as "listed", the queries of sizes; `bytes_sent` the bytes of each file. Files of more
    than 5,000 bytes are kept in large file storage, as the hub does with large ones: their hash is the SHA-256 of the
    content, the others' git's. With `token` the dataset is gated: its files are for requests that bring it, the rest is
    for all. With `elsewhere` (another server's address) files are redirected there, as large ones are to the hub's
    storage. `authorizations` counts what requests brought, "" for nothing.
    `move_to` makes other files the head of the default branch; the commit that was there before can still be read.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], faults: dict[str, list[int | str]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.head = COMMIT
        self.commits = {COMMIT: files}
        self.faults = faults
        self.requests: Counter[str] = Counter()
        self.bytes_sent: Counter[str] = Counter()
        self.authorizations: Counter[str] = Counter()
        self.token = ""
        self.elsewhere = ""

    def move_to(self, files: dict[str, bytes]) -> None:
        self.head, self.commits[LATER_COMMIT] = LATER_COMMIT, files

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def commit(self, revision: str) -> str:
        return self.server.head if revision == "main" else revision

    def entry(self, path: str, files: dict[str, bytes]) -> dict:
        body = files[path]
        entry = {"type": "file", "path": path, "size": len(body), "oid": "0" * 40}
        if len(body) > 5000:
            return entry | {"lfs": {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}}
        return entry | {"oid": hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()}

    def brought(self) -> str:
        authorization = self.headers.get("Authorization", "")
        if "/datasets/" in self.path:  # what the client asks besides is not about the dataset
            self.server.authorizations[authorization] += 1
        return authorization

    def do_POST(self) -> None:
        self.brought()
        sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.requests["listed"] += 1
        wanted = json.loads(sent)["paths"] if sent.startswith("{") else parse_qs(sent)["paths"]
        wanted = [wanted] if isinstance(wanted, str) else wanted
        revision = unquote(urlsplit(self.path).path).partition("/paths-info/")[2]
        files = self.server.commits[self.commit(revision)]
        self.answer(200, json.dumps([self.entry(path, files) for path in wanted if path in files]).encode())

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        authorization = self.brought()
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/") and self.server.faults.get("api"):
            return self.answer(int(self.server.faults["api"].pop(0)), b"{}", Retry_After="0")
        if path.startswith("/api/datasets/org/name/tree/"):
            revision = path.removeprefix("/api/datasets/org/name/tree/").partition("/")[0]
            files = self.server.commits[self.commit(revision)]
            return self.answer(200, json.dumps([self.entry(path, files) for path in files]).encode())
        revision = path.partition("/api/datasets/org/name/revision/")[2] or "main"
        if path.startswith("/api/datasets/org/name"):
            commit = self.commit(revision)
            if commit not in self.server.commits:
                return self.answer(404, b"{}", X_Error_Code="RevisionNotFound")
            siblings = [{"rfilename": name} for name in self.server.commits[commit]]
            return self.answer(200, json.dumps({"id": "org/name", "sha": commit, "siblings": siblings}).encode())
        prefix, _, place = path.partition("/resolve/")
        revision, _, name = place.partition("/")
        files = self.server.commits.get(self.commit(revision), {})
        if self.server.token and authorization != f"Bearer {self.server.token}":
            return self.answer(401, b"{}", X_Error_Code="GatedRepo")
        if prefix == "/datasets/org/name" and name in files and self.server.elsewhere:
            size, digest = len(files[name]), hashlib.sha256(files[name]).hexdigest()
            headers = {
                "X_Repo_Commit": self.commit(revision),
                "X_Linked_Size": str(size),
                "X_Linked_ETag": f'"{digest}"',
            }
            return self.answer(302, Location=f"{self.server.elsewhere}{self.path}", **headers)
        if prefix == "/datasets/org/name" and name in files:
            return self.file(name, files[name], self.commit(revision))
        return self.answer(
            404, b"{}", X_Error_Code="EntryNotFound" if prefix == "/datasets/org/name" else "RepoNotFound"
        )

    def file(self, name: str, body: bytes, commit: str) -> None:
        status = 200
        headers = {"ETag": '"0"', "X_Repo_Commit": commit, "Accept_Ranges": "bytes"}
        if self.command == "HEAD":
            return self.answer(200, body, **headers)
        self.server.requests[name] += 1
        wanted = self.headers.get("Range")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            status, whole = 206, len(body)
            body = body[int(first) : int(last) + 1 if last else None]
            headers["Content_Range"] = f"bytes {first}-{int(first) + len(body) - 1}/{whole}"
        fault = self.server.faults[name].pop(0) if self.server.faults.get(name) else None
        if isinstance(fault, int):
            gone = {"X_Error_Code": "EntryNotFound"} if fault == 404 else {}
            return self.answer(fault, b"{}", Retry_After="0", **gone)
        if fault == "changed":
            body = body[:-1] + b" "
        if fault == "cut":
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.server.bytes_sent[name] += len(body) // 2
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return None
        self.server.bytes_sent[name] += len(body)
        return self.answer(status, body, **headers)

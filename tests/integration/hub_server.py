"""A Hub on the loopback that keeps the rules which huggingface_hub 2.4 relies on, by the way of LFS.

Repositories of models and data sets have commits, tags and settings; hashes of what is sent are compared. It fails on
demand: `faults` holds, for a call by its name, what the next ones meet: a status, `cut` within what is sent, or `late`,
after which nothing is answered.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

LFS = ("*.safetensors", "*.gguf", "*.png", "*.parquet")
LFS_BYTES = 10 * 2**20
WRITER, READER = "hf_writer_of_the_loopback", "hf_reader_of_the_loopback"
OWNERS = ("alice", "acme")


def blob_sha1(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


@dataclass(frozen=True)
class Blob:
    """A file of a commit."""

    body: bytes
    lfs: bool

    def told(self, path: str) -> dict[str, Any]:
        digest = hashlib.sha256(self.body).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(self.body)}\n".encode()
        told = {"type": "file", "path": path, "size": len(self.body), "oid": blob_sha1(self.body)}
        if self.lfs:
            told |= {"oid": blob_sha1(pointer), "lfs": {"oid": digest, "size": len(self.body), "pointerSize": 135}}
        return told

    @property
    def etag(self) -> str:
        return hashlib.sha256(self.body).hexdigest() if self.lfs else blob_sha1(self.body)


@dataclass
class Repo:
    """A repository: its commits, the newest last, and what is set."""

    kind: str
    name: str
    private: bool = False
    gated: Any = False
    commits: list[tuple[str, str, dict[str, Blob]]] = field(default_factory=list)
    """(id, title, files)."""
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, bytes]:
        """Of the head, but for what the Hub writes itself."""
        return {path: blob.body for path, blob in self.commits[-1][2].items() if path != ".gitattributes"}

    def commit(self, title: str, files: dict[str, Blob]) -> str:
        told = f"{title}{len(self.commits)}{[(p, b.etag) for p, b in sorted(files.items())]}"
        self.commits.append((hashlib.sha1(told.encode()).hexdigest(), title, files))
        return self.head

    def add(self, title: str, **files: str) -> str:
        """Commits as somebody else would."""
        named = {name.replace("__", "."): Blob(text.encode(), False) for name, text in files.items()}
        return self.commit(title, self.commits[-1][2] | named)

    def at(self, revision: str) -> tuple[str, str, dict[str, Blob]] | None:
        wanted = self.head if revision == "main" else self.tags.get(revision, revision)
        return next((commit for commit in self.commits if commit[0] == wanted), None)


class Hub:
    """What the server holds, what it was asked, and how it is to misbehave."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        """By name, those of data sets with `datasets/` before it."""
        self.lfs: dict[str, bytes] = {}
        self.collections: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.faults: dict[str, list[int | str]] = defaultdict(list)
        self.meanwhile: Callable[[], Any] = lambda: None
        """What somebody else does just before the next commit is made."""
        self.url = ""

    def make(self, name: str, kind: str = "model", private: bool = True) -> Repo:
        repo = Repo(kind, name, private)
        repo.commit("initial commit", {".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)})
        self.repos[name if kind == "model" else f"datasets/{name}"] = repo
        return repo

    @property
    def writes(self) -> list[str]:
        """The calls that change something."""
        reads = ("GET", "HEAD", "POST validate-yaml", "POST paths-info", "POST preupload")
        return [call for call in self.asked if not call.startswith(reads)]


def _commit(hub: Hub, repo: Repo, body: bytes) -> tuple[int, Any]:
    hub.meanwhile, meanwhile = (lambda: None), hub.meanwhile
    meanwhile()
    header, *lines = [json.loads(line) for line in body.splitlines()]
    if header["value"].get("parentCommit") not in (None, repo.head):
        return 412, {"error": "The provided parent commit is not the latest one"}
    files = dict(repo.commits[-1][2])
    for line in lines:
        key, value = line["key"], line["value"]
        if key == "file":
            files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
        elif key == "lfsFile":
            if value["oid"] not in hub.lfs:
                return 400, {"error": f"the LFS object {value['oid']} was never uploaded"}
            files[value["path"]] = Blob(hub.lfs[value["oid"]], True)
        elif key == "deletedFile":
            del files[value["path"]]
    repo.commit(header["value"]["summary"], files)
    return 200, {"success": True, "commitOid": repo.head, "commitUrl": f"{hub.url}/{repo.name}/commit/{repo.head}"}


def _preupload(hub: Hub, repo: Repo, body: bytes) -> tuple[int, Any]:
    told, there = [], repo.commits[-1][2]
    for file in json.loads(body)["files"]:
        by_name = any(fnmatch.fnmatch(file["path"], pattern) for pattern in LFS)
        mode = "lfs" if by_name or file["size"] > LFS_BYTES else "regular"
        one = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
        told.append(one | ({"oid": there[file["path"]].etag} if file["path"] in there else {}))
    return 200, {"files": told}


def _batch(hub: Hub, repo: Repo, body: bytes) -> tuple[int, Any]:
    told = []
    for each in json.loads(body)["objects"]:
        one = {"oid": each["oid"], "size": each["size"]}
        if hub.faults["object"]:
            one["error"] = {
                "code": hub.faults["object"].pop(0),
                "message": "Insufficient storage: the quota is used up",
            }
        elif each["oid"] not in hub.lfs:
            upload, verify = {"href": f"{hub.url}/lfs/{each['oid']}"}, {"href": f"{hub.url}/lfs-verify"}
            one["actions"] = {"upload": upload, "verify": verify}
        told.append(one)
    return 200, {"transfer": "basic", "objects": told}


def _validate(hub: Hub, body: bytes) -> tuple[int, Any]:
    front = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
    try:
        told = yaml.safe_load(front[1]) if front else {}
    except yaml.YAMLError as error:
        return 400, {"errors": [{"message": str(error)}], "warnings": []}
    if str(told.get("base_model", "")).startswith(("/", ".")):
        return 400, {"errors": [{"message": '"base_model" must be a model id'}], "warnings": []}
    return 200, {"errors": [], "warnings": [] if told.get("license") else [{"message": "empty license"}]}


def _info(repo: Repo, revision: str) -> tuple[int, Any]:
    found = repo.at(revision)
    if found is None:
        return 404, {"error": "Invalid rev id", "code": "RevisionNotFound"}
    readme = found[2].get("README.md")
    front = re.match(r"---\n(.*?)\n---\n", readme.body.decode(), re.DOTALL) if readme else None
    told = {"_id": "0", "id": repo.name, "modelId": repo.name, "sha": found[0], "private": repo.private}
    told |= {"gated": repo.gated, "siblings": [{"rfilename": path} for path in sorted(found[2])], "tags": []}
    return 200, told | ({"cardData": yaml.safe_load(front[1])} if front else {})


def _create(hub: Hub, body: bytes) -> tuple[int, Any]:
    asked = json.loads(body)
    owner, kind = asked["organization"] or "alice", asked.get("type", "model")
    if owner not in OWNERS:
        return 403, {"error": f"You don't have the rights to create a {kind} under the namespace {owner!r}"}
    name = f"{owner}/{asked['name']}"
    if name in hub.repos:
        return 409, {"error": "You already created this model repo", "url": f"{hub.url}/{name}"}
    hub.make(name, kind, asked.get("visibility") == "private")
    return 200, {"url": f"{hub.url}/{name}", "name": name, "id": "0"}


def _tag(repo: Repo, revision: str, body: bytes) -> tuple[int, Any]:
    tag, found = json.loads(body)["tag"], repo.at(revision)
    if tag in repo.tags:
        return 409, {"error": "Tag already exists"}
    assert found is not None
    repo.tags[tag] = found[0]
    return 200, {}


def _settings(repo: Repo, body: bytes) -> tuple[int, Any]:
    asked = json.loads(body)
    repo.private = asked.get("visibility", "private" if repo.private else "public") == "private"
    repo.gated = asked.get("gated", repo.gated)
    return 200, {}


def _collection(hub: Hub, slug: str | None, body: bytes) -> tuple[int, Any]:
    asked = json.loads(body) if body else {}
    if slug is None:
        slug = f"{asked['namespace']}/{asked['title'].lower().replace(' ', '-')}-0"
        if slug in hub.collections:
            return 409, {"error": "exists", "slug": slug}
        told = {
            "slug": slug,
            "title": asked["title"],
            "owner": {"name": asked["namespace"]},
            "items": [],
            "position": 0,
        }
        told |= {"lastUpdated": "2026-01-01T00:00:00.000Z", "private": asked["private"], "theme": "x", "upvotes": 0}
        hub.collections[slug] = told
    elif asked:
        items = hub.collections[slug]["items"]
        if any(item["id"] == asked["item"]["id"] for item in items):
            return 409, {"error": "exists"}
        items.append({"_id": str(len(items)), "position": len(items), **asked["item"]})
    return 200, hub.collections[slug]


def _tree(found: tuple[str, str, dict[str, Blob]]) -> tuple[int, Any]:
    folders = {path.rpartition("/")[0] for path in found[2] if "/" in path}
    told = [{"type": "directory", "path": folder, "size": 0, "oid": "0" * 40} for folder in sorted(folders)]
    return 200, told + [blob.told(path) for path, blob in sorted(found[2].items())]


def _of_repo(hub: Hub, repo: Repo, call: str, rest: str, body: bytes) -> tuple[int, Any]:
    """Answers a call about a repository."""
    if call in ("info", "revision"):
        return _info(repo, rest or "main")
    if call == "refs":
        branches = [{"name": "main", "ref": "refs/heads/main", "targetCommit": repo.head}]
        tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": c} for n, c in repo.tags.items()]
        return 200, {"branches": branches, "converts": [], "tags": tags}
    if call == "commits":
        date = "2026-01-01T00:00:00.000Z"
        listed = [{"id": i, "title": t, "message": "", "authors": [], "date": date} for i, t, _ in repo.commits]
        return 200, listed[::-1]
    if call == "tree":
        found = repo.at(rest)
        return _tree(found) if found else (404, {"error": "Invalid rev id", "code": "RevisionNotFound"})
    if call == "tag":
        return _tag(repo, rest, body)
    if call == "settings":
        return _settings(repo, body)
    return {"preupload": _preupload, "commit": _commit}[call](hub, repo, body)


@contextmanager
def listening(hub: Hub) -> Iterator[str]:
    """Serves on the loopback; gives the address as HF_ENDPOINT takes it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 2**16  # header and body in one packet: two of them wait for one another

        def log_message(self, *words: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.serve()

        do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

        def serve(self) -> None:
            path = unquote(urlsplit(self.path).path)
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            api = re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/([a-z]+)(?:/(.+))?)?", path)
            git = re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path)
            name = api[3] or "info" if api else "batch" if git else path.strip("/").partition("/")[0]
            name = path.rpartition("/")[2] if path.startswith("/api/") and not api else name
            hub.asked.append(f"{self.command} {name}")
            fault = hub.faults[name].pop(0) if hub.faults[name] else None
            if fault == "cut":
                self.rfile.read(int(self.headers["Content-Length"]) // 2)
                self.close_connection = True
                return
            self.late, body = fault == "late", self.body()
            if isinstance(fault, int) and name != "object":
                self.tell(fault, {"error": f"fault {fault}"})
            elif name == "lfs":
                self.take(path.rpartition("/")[2], body)
            elif "/resolve/" in path:
                self.give(path, token)
            elif not token and self.command != "GET" and name != "validate-yaml" and name != "lfs-verify":
                self.tell(401, {"error": "Invalid username or password."})
            elif token == READER and self.command in ("POST", "PUT") and name not in ("validate-yaml", "lfs-verify"):
                self.tell(403, {"error": "this token has no write role"})
            else:
                self.tell(*self.answer(path, api, git, body, token))

        def answer(self, path: str, api: Any, git: Any, body: bytes, token: str) -> tuple[int, Any]:
            if api or git:
                key = git[1] if git else api[2] if api[1] == "model" else f"datasets/{api[2]}"
                repo = hub.repos.get(key)
                if repo is None or (repo.private and not token):
                    return 404 if token else 401, {"error": "Repository not found", "code": "RepoNotFound"}
                return _batch(hub, repo, body) if git else _of_repo(hub, repo, api[3] or "info", api[4] or "", body)
            if path == "/api/whoami-v2":
                if token not in (WRITER, READER):
                    return 401, {"error": "Invalid username or password."}
                return 200, {"type": "user", "id": "0", "name": "alice", "orgs": [{"name": "acme"}]}
            if path == "/api/repos/create":
                return _create(hub, body)
            if path == "/api/validate-yaml":
                return _validate(hub, body)
            if found := re.fullmatch(r"/api/collections(?:/(.+?))?(?:/items)?", path):
                return _collection(hub, found[1], body)
            return (200, {}) if path == "/lfs-verify" else (404, {"error": f"nothing at {path}"})

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)

        def take(self, oid: str, body: bytes) -> None:
            right = hashlib.sha256(body).hexdigest() == oid
            if right:
                hub.lfs[oid] = body
            self.tell(200 if right else 400, {} if right else {"error": "another hash"})

        def give(self, path: str, token: str) -> None:
            key, _, rest = path.strip("/").partition("/resolve/")
            repo, (revision, _, name) = hub.repos.get(key), rest.partition("/")
            found = repo.at(revision) if repo and (token or not repo.private) else None
            if found is None or name not in found[2]:
                code = "RepoNotFound" if repo is None else "EntryNotFound"
                self.tell(404, {"error": "not found", "code": code})
                return
            blob = found[2][name]
            extra = {"X-Repo-Commit": found[0], "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
            self.send(200, blob.body, extra | {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.body))})

        def tell(self, status: int, told: Any) -> None:
            code = told.get("code") if isinstance(told, dict) else None
            self.send(status, json.dumps(told).encode(), {"X-Error-Code": code} if isinstance(code, str) else {})

        def send(self, status: int, body: bytes, extra: dict[str, str]) -> None:
            if self.late:  # what was asked is done, and nobody hears of it
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            for key, value in extra.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *told: Any) -> None:
            pass  # a client that was cut off does not hear us out

    server = Quiet(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub.url
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

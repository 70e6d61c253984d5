"""A server that keeps Ollama's rules as its source has them (0.33: api/types.go, server/routes.go, server/create.go).

It takes blobs and compares their hash, refuses what CreateRequest does not know, streams its words and tells of a model
what it was told, spelt as Go spells it. It runs no model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

FIELDS = {
    *("model", "stream", "quantize", "draft_quantize", "from", "remote_host", "files", "draft_files", "adapters"),
    *("template", "license", "system", "parameters", "messages", "renderer", "parser", "requires", "info"),
    *("name", "quantization"),
}
"""Of CreateRequest."""

OPTIONS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("num_ctx", "top_k"), int),
    **dict.fromkeys(("temperature", "top_p", "min_p", "repeat_penalty", "presence_penalty"), (int, float)),
    "stop": list,
}
"""Of Options, those that are used here."""


class Ollama:
    """What the server holds, what it was asked, and how it is to misbehave."""

    def __init__(self, file_type: str = "BF16", family: str = "qwen35") -> None:
        self.file_type, self.family, self.version = file_type, family, "0.33.0"
        self.blobs: dict[str, bytes] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.template = "{{ .Prompt }}"
        self.dies_after: int | None = None
        """Bytes of a blob after which it closes the connection."""
        self.full = False
        """Whether it refuses a blob before it has heard it."""
        self.trouble = ""
        """An error within the stream of `create`."""
        self.mute = False
        """Whether the stream of `create` ends early."""
        self.words: list[dict[str, Any]] = []
        """What it says in `create` besides."""
        self.page = ""
        """What it answers to who asks for its version, as an error of its own."""
        self.told: dict[str, Any] = {}
        """What `show` tells instead."""

    def refusal(self, request: dict[str, Any]) -> str:
        """Why `create` would not take a request."""
        for key in request.keys() - FIELDS:
            return f"unknown field {key}"
        for name, digest in request.get("files", {}).items():
            if name.startswith("/") or digest not in self.blobs:
                return f"{name} has no blob"
        for name, value in request.get("parameters", {}).items():
            if name not in OPTIONS or not isinstance(value, OPTIONS[name]):
                return f"option {name!r} must not be {value!r}"
        return "" if request.get("files") else "neither 'from' or 'files' was specified"

    def show(self, name: str) -> dict[str, Any]:
        made = self.models[name]
        lines = []
        for key, value in made.get("parameters", {}).items():
            each = value if isinstance(value, list) else [value]
            lines += [f"{key:<30} {json.dumps(v) if isinstance(v, str) else f'{v:g}'}" for v in each]
        told = {key: made[key] for key in ("license", "system", "requires") if key in made}
        details = {"format": "gguf", "family": self.family, "quantization_level": self.file_type}
        return {"parameters": "\n".join(lines), "template": self.template, "details": details, **told, **self.told}


@contextmanager
def listening(ollama: Ollama) -> Iterator[str]:
    """Serves on the loopback; gives the address as OLLAMA_HOST takes it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: Any) -> None:
            pass

        def do_GET(self) -> None:
            if ollama.page:
                self.send(ollama.page.encode(), 500)
            else:
                self.tell({"version": ollama.version} if self.path == "/api/version" else {})

        def do_HEAD(self) -> None:
            digest = self.path.removeprefix("/api/blobs/")
            ollama.asked.append(f"HEAD {digest[:12]}")
            self.send_response(200 if digest in ollama.blobs else 404)
            self.end_headers()

        def do_POST(self) -> None:
            size = int(self.headers["Content-Length"])
            if self.path.startswith("/api/blobs/"):
                self.take_blob(self.path.removeprefix("/api/blobs/"), size)
                return
            request = json.loads(self.rfile.read(size))
            ollama.asked.append(f"POST {self.path}")
            if self.path == "/api/create":
                self.create(request)
            elif request["model"] in ollama.models:
                self.tell(ollama.show(request["model"]))
            else:
                self.tell({"error": f"model '{request['model']}' not found"}, 404)

        def take_blob(self, digest: str, size: int) -> None:
            ollama.asked.append(f"POST {digest[:12]}")
            if ollama.full:
                self.close_connection = True
                self.tell({"error": "no space left on device"}, 500)
                return
            if ollama.dies_after is not None:
                self.rfile.read(ollama.dies_after)
                self.close_connection = True
                return
            body = self.rfile.read(size)
            found = f"sha256:{hashlib.sha256(body).hexdigest()}"
            if found != digest:
                self.tell({"error": f'digest mismatch, expected "{digest}", got "{found}"'}, 400)
                return
            ollama.blobs[digest] = body
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def create(self, request: dict[str, Any]) -> None:
            if why := ollama.refusal(request):
                self.tell({"error": why}, 400)
                return
            self.send_response(200)
            self.send_header("Content-Type", "application/x-ndjson")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.word({"status": "parsing GGUF"})
            self.word({"status": "copying", "total": 10, "completed": 5})
            for said in ollama.words:
                self.word(said)
            if ollama.trouble:
                self.word({"error": ollama.trouble})
            elif not ollama.mute:
                ollama.models[request["model"]] = request
                self.word({"status": "success"})
            self.wfile.write(b"0\r\n\r\n")

        def word(self, said: dict[str, Any]) -> None:
            line = json.dumps(said).encode() + b"\n"
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")

        def tell(self, said: dict[str, Any], status: int = 200) -> None:
            self.send(json.dumps(said).encode(), status)

        def send(self, body: bytes, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

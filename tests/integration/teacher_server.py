"""A teacher that speaks OpenAI's chat completions, answers from the passage alone, counts, and misbehaves as told.

Its pairs are made of the passage's own sentences, so what it says of a passage never changes.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

Fault = Callable[["Server", str, int], str]
"""Is called with the passage and how often it was asked about, from 1; names the fault, or nothing."""


def sentences(passage: str) -> list[str]:
    prose = [part for part in passage.split("\n\n") if not part.startswith(("#", "|", "```"))]
    found = [found for part in prose for found in re.findall(r"\w(?:[^.!?。]|[.!?](?=\S)){12,}[.!?。]", part)]
    return [" ".join(sentence.split()) for sentence in found] or [passage.strip()]


def pairs(passage: str, number: int) -> list[dict[str, str]]:
    """Makes honest pairs: each answer is a sentence of the passage."""
    chosen = sentences(passage)[:number]
    return [{"question": f"What holds of {s.split()[0]}, {digest(s)}?", "answer": s, "quote": s} for s in chosen]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def said(request: dict[str, Any]) -> str:
    return "\n".join(message["content"] for message in request["messages"])


def passage_of(request: dict[str, Any]) -> str:
    """Finds the passage that is asked about, or all that a judge is asked."""
    found = re.search(r"<passage>\n(.*)\n</passage>", said(request), re.DOTALL)
    return found[1] if found else said(request)


class Server:
    """What the teacher was asked, and how it is to misbehave."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        """Passages, by how often they were asked about."""
        self.answered: Counter[str] = Counter()
        """Passages, by how often a whole answer left the server."""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.calls: list[str] = []
        self.models = ["teacher", "other"]
        self.key = ""
        """That it wants; empty: none."""
        self.takes_json = True
        """Whether it knows response_format."""
        self.prefix = "/v1"
        self.seconds = 0.0
        """That it thinks about each."""
        self.usage = True
        self.reply: Callable[[str], str | None] = lambda passage: json.dumps({"pairs": pairs(passage, 3)})
        self.fault: Fault = lambda server, passage, times: ""
        self.elsewhere = ""
        """Where it sends everybody."""
        self.at_once = self.most_at_once = 0
        self.lock = Lock()


@contextmanager
def listening(server: Server) -> Iterator[str]:
    """Serves on the loopback; gives the address without a path."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: Any) -> None:
            pass

        def do_GET(self) -> None:
            server.calls.append(f"GET {self.path}")
            if self.is_let_in():
                if self.path == f"{server.prefix}/models":
                    self.tell({"object": "list", "data": [{"id": name} for name in server.models]})
                else:
                    self.tell({"error": {"message": "no such path"}}, 404)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.calls.append(f"POST {self.path}")
            if not self.is_let_in():
                return
            request = json.loads(body)
            if self.path != f"{server.prefix}/chat/completions":
                self.tell({"error": {"message": "no such path"}}, 404)
            elif request["model"] not in server.models:
                self.tell({"error": {"message": f"model {request['model']} not found"}}, 404)
            elif "response_format" in request and not server.takes_json:
                self.tell({"error": {"message": "response_format is not supported"}}, 400)
            else:
                self.answer(request)

        def is_let_in(self) -> bool:
            server.headers.append(dict(self.headers.items()))
            if server.elsewhere:
                self.send_response(307)
                self.send_header("Location", server.elsewhere + self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
                wrong = self.headers.get("Authorization", "none")
                self.tell({"error": {"message": f"Incorrect API key provided: {wrong}"}}, 401)
            else:
                return True
            return False

        def answer(self, request: dict[str, Any]) -> None:
            passage = passage_of(request)
            with server.lock:
                server.asked[passage] += 1
                server.requests.append(request)
                times = server.asked[passage]
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            try:
                time.sleep(server.seconds)
                if not self.misbehave(server.fault(server, passage, times)):
                    self.complete(passage, request)
            finally:
                with server.lock:
                    server.at_once -= 1

        def complete(self, passage: str, request: dict[str, Any]) -> None:
            reply = server.reply(passage)
            told: dict[str, Any] = {
                "object": "chat.completion",
                "model": request["model"],
                "choices": [{"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}],
            }
            if server.usage:
                told["usage"] = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
            self.tell(told)
            with server.lock:
                server.answered[passage] += 1

        def misbehave(self, fault: str) -> bool:
            match fault.split():
                case []:
                    return False
                case ["cut"]:
                    self.send_response(200)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    self.wfile.write(b'{"choices": [')
                    self.close_connection = True
                case ["hang-up"]:
                    self.close_connection = True
                case ["page"]:
                    self.send(b"<html>gateway</html>", 200)
                case [status, *after]:
                    self.tell({"error": {"message": f"fault {status}"}}, int(status), after[0] if after else "")
            return True

        def tell(self, told: dict[str, Any], status: int = 200, after: str = "") -> None:
            self.send(json.dumps(told).encode(), status, after)

        def send(self, body: bytes, status: int, after: str = "") -> None:
            self.send_response(status)
            if after:
                self.send_header("Retry-After", after)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *told: Any) -> None:
            pass  # a client that was killed does not hear us out

    served = Quiet(("127.0.0.1", 0), Handler)
    thread = Thread(target=served.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{served.server_address[1]}"
    finally:
        served.shutdown()
        thread.join()
        served.server_close()

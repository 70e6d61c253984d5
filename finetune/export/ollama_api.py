"""What is said to an Ollama server: its blobs, its `create` and its `show`. Files are streamed, never held in memory.

Source: Ollama 0.33, envconfig/config.go (Host), api/types.go, server/routes.go (blobs, show), server/create.go.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any

from finetune.errors import OutsideError, RecipeError

PORTS = {"": 11434, "http": 80, "https": 443}
"""That are meant where OLLAMA_HOST names none, by the scheme that it names."""

LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where a server answers that listens everywhere."""

CONNECT_SECONDS = 5.0

SILENCE_SECONDS = 3600.0
"""That a server may take between two words; it copies the whole file in `create`."""

MOST_BYTES = 2**26
"""Of an answer that are read."""

TOLD = 200
"""Characters of what a server says, that are told."""

PIECE = 2**20
"""Bytes of a file that are read and sent at a time."""

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Server:
    """Where Ollama listens."""

    scheme: str
    host: str
    port: int
    path: str = ""
    """Before /api, where a proxy stands in front."""
    fix: str = ""
    """What to do when it fails us."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def server(told: str, fix: str = "") -> Server:
    """Reads OLLAMA_HOST by Ollama's own rules: `[scheme://]host[:port][/path]`, each of them optional.

    Raises:
        RecipeError: no server can be there.
    """
    scheme, divided, rest = told.strip().strip("\"'").strip().partition("://")
    if not divided:
        scheme, rest = "", scheme
    place, _, path = rest.partition("/")
    found = re.fullmatch(r"(?:\[([^][]*)\]|([^][:]*)):([^:]*)", place)
    host, port = (found[1] or found[2] or "", found[3]) if found else (_bare(place), "")
    if not _is_host(host) or not re.fullmatch(r"[!-~]*", path):
        why = "it is [scheme://]host[:port][/path]"
        fix = "export OLLAMA_HOST=127.0.0.1:11434"
        raise RecipeError("OLLAMA_HOST names no server", where=f"OLLAMA_HOST={told!a:.60}", why=why, fix=fix)
    usable = re.fullmatch(r"\+?\d{1,5}", port) and int(port) <= 65535
    return Server(
        scheme or "http",
        LOOPBACK.get(host, host),
        int(port) if usable else PORTS.get(scheme, PORTS[""]),
        f"/{path.rstrip('/')}" if path.rstrip("/") else "",
        fix,
    )


def _is_host(host: str) -> bool:
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return not re.search(r"[\x00-\x20\x7f]", host)


def _bare(place: str) -> str:
    with suppress(ValueError):
        return str(ipaddress.ip_address(place.strip("[]")))
    return place


def silence(where: Server) -> str:
    """Tells why nobody listens there; nothing if somebody does."""
    try:
        _connected(where).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def version(where: Server) -> str:
    """Asks for the server's version.

    Raises:
        OutsideError: what listens there is not Ollama.
    """
    told = str(_asked(where, "GET", "/api/version").get("version"))
    if not re.fullmatch(r"v?\d{1,9}\.\d{1,9}\.\d{1,9}([^\d\s]\S{0,60})?", told, re.ASCII):
        raise OutsideError(
            "what answers there is not Ollama", where=str(where), why="it tells no version", fix=where.fix
        )
    return told


def has_blob(where: Server, digest: str) -> bool:
    """Asks whether a file lies there already.

    Args:
        where: the server.
        digest: `sha256:` and the hash.

    Raises:
        OutsideError: it says neither yes nor no.
    """
    with _spoken(where, "HEAD", f"/api/blobs/{digest}") as connection:
        connection.request("HEAD", f"{where.path}/api/blobs/{digest}")
        answer = connection.getresponse()
        if answer.status not in (200, 404):
            raise _refused(where, "HEAD", f"/api/blobs/{digest}", answer)
        return answer.status == 200


def send_blob(where: Server, file: Path, digest: str, progress: Progress) -> None:
    """Sends a file, a piece at a time; the server compares its hash.

    Raises:
        OutsideError: the connection broke, or the server refused the file.
    """
    size, sent, call = file.stat().st_size, 0, f"/api/blobs/{digest}"
    with _spoken(where, "POST", call) as connection, file.open("rb") as opened:
        connection.putrequest("POST", f"{where.path}{call}")
        connection.putheader("Content-Type", "application/octet-stream")
        connection.putheader("Content-Length", str(size))
        connection.endheaders()
        with suppress(BrokenPipeError, ConnectionResetError):  # who refuses may say so before all was heard
            while piece := opened.read(PIECE):
                connection.send(piece)
                sent += len(piece)
                progress("to Ollama", sent, size)
        try:
            answer = connection.getresponse()
        except (OSError, HTTPException) as error:
            why = f"{error}, after {sent:,} of {size:,} bytes"
            raise OutsideError(
                "Ollama broke off", where=f"{where}  POST {call:.24}…", why=why, fix=where.fix
            ) from error
        if answer.status not in (200, 201):
            raise _refused(where, "POST", call, answer)


def create(where: Server, request: dict[str, Any], say: Say, progress: Progress) -> None:
    """Makes a model of blobs that lie there, and tells what the server says meanwhile.

    Args:
        where: the server.
        request: the fields of its CreateRequest.
        say: takes a line for the user.
        progress: is told how far the server is, where it tells bytes.

    Raises:
        OutsideError: it refused, broke off, or ended without success.
    """
    call, status = "/api/create", ""
    with _spoken(where, "POST", call) as connection:
        connection.request("POST", f"{where.path}{call}", json.dumps(request), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise _refused(where, "POST", call, answer)
        for line in answer:
            told = _object(line)
            if "error" in told:
                raise OutsideError(
                    "Ollama could not make the model",
                    where=f"{where}  POST {call}",
                    why=_short(told["error"]),
                    fix=where.fix,
                )
            said, done, whole = _short(told.get("status", status)), told.get("completed", 0), told.get("total", 0)
            if isinstance(done, int) and isinstance(whole, int) and 0 <= done <= whole < 2**63 and whole:
                progress(said, done, whole)
            elif said != status:
                say(f"ollama: {said}")
            status = said
    if status != "success":
        why = f"its last word was {status!a:.60}" if status else "it said nothing"
        raise OutsideError("Ollama ended without success", where=f"{where}  POST {call}", why=why, fix=where.fix)


def show(where: Server, name: str) -> dict[str, Any]:
    """Asks what the server knows of a model.

    Raises:
        OutsideError: it does not tell.
    """
    return _asked(where, "POST", "/api/show", {"model": name})


def _asked(where: Server, verb: str, call: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
    with _spoken(where, verb, call) as connection:
        body = None if request is None else json.dumps(request)
        connection.request(verb, f"{where.path}{call}", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise _refused(where, verb, call, answer)
        return _object(answer.read(MOST_BYTES))


@contextmanager
def _spoken(where: Server, verb: str, call: str) -> Iterator[HTTPConnection]:
    """Holds a connection, and tells one that breaks as an error of the server's."""
    try:
        connection = _connected(where)
        try:
            yield connection
        finally:
            connection.close()
    except (OSError, HTTPException) as error:
        why = str(error) or type(error).__name__
        raise OutsideError("Ollama broke off", where=f"{where}  {verb} {call}", why=why, fix=where.fix) from error


def _connected(where: Server) -> HTTPConnection:
    kind = HTTPSConnection if where.scheme == "https" else HTTPConnection
    connection = kind(where.host, where.port, timeout=CONNECT_SECONDS)
    connection.connect()
    connection.sock.settimeout(SILENCE_SECONDS)
    return connection


def _refused(where: Server, verb: str, call: str, answer: HTTPResponse) -> OutsideError:
    said = answer.read(MOST_BYTES).decode(errors="replace").strip()
    why = f"{answer.status} {_short(answer.reason)}: {_short(_object(said.encode()).get('error', said))}"
    return OutsideError("Ollama refused", where=f"{where}  {verb} {call}", why=why.rstrip(": "), fix=where.fix)


def _object(said: bytes) -> dict[str, Any]:
    """Reads what should be a JSON object; anything else tells nothing."""
    try:
        told = json.loads(said)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _short(said: Any) -> str:
    text = str(said)
    return text if len(text) <= TOLD else f"{text[:TOLD]} …"

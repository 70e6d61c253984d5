"""What is said to a server that speaks OpenAI's chat completions, on this machine or far away: a teacher or a judge.

urllib is taken, and not http.client as for Ollama, because the road to a far server may lead over the proxy that the
environment names. No redirect is followed, so the key never goes to a host that the user did not name.

Source: OpenAI's API reference (chat/completions, models), RFC 9110 (Retry-After).
"""

from __future__ import annotations

import json
import re
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import IO, Any
from urllib.parse import urlsplit

from finetune.endpoints import Endpoint, endpoint
from finetune.errors import OutsideError

__all__ = ["Busy", "Endpoint", "Refused", "Reply", "Unreachable", "ask", "endpoint", "meet"]

CONNECT_SECONDS = 10.0
"""For the first word of a server, which says who is there."""

SILENCE_SECONDS = 900.0
"""That a teacher may think before it replies: a large model on a CPU takes minutes for a chunk."""

MOST_BYTES = 2**26
"""Of an answer that are read."""

TOLD = 300
"""Characters of what a server says, that are told."""


@dataclass(frozen=True)
class Reply:
    """What a model replied."""

    said: str
    model: str
    """As the server calls it."""
    finish: str
    """Why it ended: stop, or length."""
    read_tokens: float
    written_tokens: float
    counted: bool
    """Whether the server counted the tokens; else they are estimates."""
    seconds: float


class Busy(Exception):
    """The server could not now; it may later."""

    def __init__(self, why: str, wait_seconds: float | None = None) -> None:
        super().__init__(why)
        self.why, self.wait_seconds = why, wait_seconds


class Unreachable(Busy):
    """There was no connection."""


class Refused(Exception):
    """The server will not take this one request."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *told: Any) -> None:
        return None


def meet(who: Endpoint) -> Endpoint:
    """Sees that somebody is there, and finds the API under /v1 where the URL does not say so.

    Raises:
        OutsideError: nobody answers, or the key is refused.
    """
    places = [who.url] if re.search(r"/v\d\w*(/|$)", who.url) else [who.url, f"{who.url}/v1"]
    for place in places:
        try:
            _asked(replace(who, url=place), "/models", None, CONNECT_SECONDS)
        except Refused:
            continue  # not every server lists its models
        except Unreachable as gone:
            fix = f"start the server, or mend {who.option}"
            raise OutsideError("nobody answers there", where=who.url, why=gone.why, fix=fix) from gone
        except Busy:
            pass  # somebody is there
        return replace(who, url=place)
    return who


def ask(who: Endpoint, messages: list[dict[str, str]], as_json: bool, temperature: float | None = None) -> Reply:
    """Asks once. Tokens that the server did not count are left at 0.

    Raises:
        Busy: it may be asked again later.
        OutsideError: it will not answer, whatever is asked.
        Refused: it does not take this request.
    """
    request: dict[str, Any] = {"model": who.model, "messages": messages}
    if temperature is not None:
        request["temperature"] = temperature
    if as_json:
        request["response_format"] = {"type": "json_object"}
    began = time.monotonic()
    told = _asked(who, "/chat/completions", request, SILENCE_SECONDS)
    match told:
        case {"choices": [{"message": {"content": str() | None as said}, **choice}, *_]}:
            pass
        case {"error": error}:
            raise Busy(f"it answered with an error: {_short(who, error)}")
        case _:
            raise Busy(f"its answer is no chat completion: {_short(who, json.dumps(told))}")
    read, written = _usage(told.get("usage"))
    model, finish = told.get("model"), choice.get("finish_reason")
    return Reply(
        said or "",
        model if isinstance(model, str) and model else who.model,
        finish if isinstance(finish, str) else "",
        read or 0.0,
        written or 0.0,
        read is not None,
        round(time.monotonic() - began, 3),
    )


def _usage(told: Any) -> tuple[float, float] | tuple[None, None]:
    """Reads how many tokens the server counted, in and out; no figures where it tells none that can be."""
    match told:
        case {"prompt_tokens": int() as read, "completion_tokens": int() as written}:
            if 0 <= read < 2**40 and 0 <= written < 2**40:
                return float(read), float(written)
    return None, None


def _asked(who: Endpoint, call: str, request: dict[str, Any] | None, silence_seconds: float) -> dict[str, Any]:
    """Sends one request and reads the JSON object that answers it."""
    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "finetune"}
    body = None if request is None else json.dumps(request).encode()
    asked = urllib.request.Request(f"{who.url}{call}", body, headers)
    if who.key:
        asked.add_unredirected_header("Authorization", f"Bearer {who.key}")
    proxies = urllib.request.ProxyHandler({} if who.is_local else None)
    try:
        with urllib.request.build_opener(proxies, _NoRedirect).open(asked, timeout=silence_seconds) as answer:
            said = answer.read(MOST_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            raise _judged(who, call, error.code, _heard(error), error.headers) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            why, fix = error.reason.verify_message, "export SSL_CERT_FILE=...   the certificates of who signed it"
            raise OutsideError("the server's certificate is not trusted", where=who.url, why=why, fix=fix) from error
        raise Unreachable(_short(who, error.reason)) from error
    except (OSError, HTTPException) as error:
        raise Busy(_short(who, error) or type(error).__name__) from error
    try:
        told = json.loads(said)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise Busy(f"its answer is no JSON object: {_short(who, said.decode(errors='replace'))}")
    return told


def _heard(answer: IO[bytes]) -> str:
    """Reads what a refusal says; a connection that breaks meanwhile says no more."""
    try:
        said = answer.read(MOST_BYTES).decode(errors="replace").strip()
    except (OSError, HTTPException):
        return ""
    try:
        told = json.loads(said)
    except (ValueError, RecursionError):
        return said
    error = told.get("error", told) if isinstance(told, dict) else said
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _judged(who: Endpoint, call: str, status: int, said: str, headers: Message) -> Exception:
    """Tells what a status means for what comes next."""
    why, where = f"{status}: {_short(who, said)}".rstrip(": "), f"{who.url}{call}"
    if status in (301, 302, 303, 307, 308):
        target = str(headers.get("Location", "")).removesuffix(call)
        fix = f"{who.option} {_short(who, target)}" if target.startswith("http") else ""
        return OutsideError(
            "the server sends us elsewhere", where=where, why=f"{status}, and we do not follow", fix=fix
        )
    if status == 403 and call == "/models":  # a key may be good for questions alone
        return Refused(why)
    if status in (401, 403):
        fix = f"export {who.key_name}=...   the key of {urlsplit(who.url).hostname}"
        had = "" if who.key else f"; {who.key_name} is not set"
        return OutsideError("the server refuses the key", where=where, why=f"{why}{had}", fix=fix)
    if status == 402 or "insufficient_quota" in said or "exceeded your current quota" in said:
        return OutsideError("the account has no credit left", where=where, why=why, fix="pay, then the same command")
    if status in (408, 409, 425, 429) or status >= 500:
        return Busy(why, _wait_seconds(str(headers.get("Retry-After", ""))))
    if status == 404 and call != "/models":
        return _no_model(who, why, where)
    return Refused(why)


def _no_model(who: Endpoint, why: str, where: str) -> OutsideError:
    """The error, with the models that the server lists."""
    try:
        listed = _asked(who, "/models", None, CONNECT_SECONDS).get("data")
    except (Busy, Refused, OutsideError):
        listed = None
    names = [m["id"] for m in listed if isinstance(m, dict) and isinstance(m.get("id"), str)] if listed else []
    if not names:
        what, fix = "the server knows no such model or no such path", f"mend {who.option} or the name of its model"
        return OutsideError(what, where=f"{where}  --model {who.model}", why=why, fix=fix)
    import difflib

    close = difflib.get_close_matches(who.model, names, n=1, cutoff=0) or names[:1]
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    what = f"the server has no model {who.model}"
    return OutsideError(what, where=where, why=f"it has {shown}", fix=f"--model {close[0]}")


def _wait_seconds(told: str) -> float | None:
    """Reads Retry-After: seconds, or a date."""
    if re.fullmatch(r"\d{1,9}(\.\d+)?", told.strip()):
        return float(told)
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _short(who: Endpoint, said: Any) -> str:
    """Shortens what a server says, in one line, and takes the key out should it repeat it."""
    text = " ".join(str(said).split())
    text = text.replace(who.key, "<key>") if who.key else text
    return text if len(text) <= TOLD else f"{text[:TOLD]} …"

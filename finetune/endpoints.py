"""Where a server of chat completions listens, as it is told on the command line; nothing is said to it here."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from finetune.errors import RecipeError


@dataclass(frozen=True)
class Endpoint:
    """Where it listens, what it is called and the key that opens it."""

    url: str
    """Before /chat/completions."""
    model: str
    key: str = ""
    key_name: str = "OPENAI_API_KEY"
    """The variable that the key was read from."""
    option: str = "--teacher"
    """Of the command line, that named it."""

    def __repr__(self) -> str:
        return f"Endpoint(url={self.url!r}, model={self.model!r})"  # nobody shall print the key

    @property
    def is_local(self) -> bool:
        """Whether nothing that is said to it leaves this machine."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")

    @property
    def is_overheard(self) -> bool:
        """Whether the key travels where others can read it."""
        return bool(self.key) and not self.is_local and self.url.startswith("http:")


def endpoint(
    url: str, model: str, key: str = "", key_name: str = "OPENAI_API_KEY", option: str = "--teacher"
) -> Endpoint:
    """Reads the option that names a server; one that is named without a path is meant to have its API under /v1.

    Raises:
        RecipeError: the words name no server, or the key cannot be sent.
    """
    shown = re.sub(r"[^/@\s]*@", "", url.strip())  # what stands before an @ may be a password
    where = f"{option} {shown!a:.80}"
    try:
        parts = urlsplit(url.strip())
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError as error:
        raise RecipeError(f"{option} is no URL", where=where, why=str(error)) from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        fix = f"{option} http://{shown.partition('://')[2] or shown or 'localhost:11434'}"
        raise RecipeError(f"{option} is the URL of a server", where=where, fix=fix)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = re.sub(r"/(chat/completions|completions|models)/?$", "", parts.path).rstrip("/") or "/v1"
    plain = urlunsplit((parts.scheme, f"{host}{port}", path, "", ""))
    if parts.username or parts.password or parts.query or parts.fragment or not re.fullmatch(r"[!-~]*", plain):
        why = f"a URL has no key, no question mark and no space; the key is read from {key_name}"
        raise RecipeError(f"{option} holds more than a URL should", where=option, why=why, fix=f"{option} {plain!s}")
    key = key.strip()
    if not re.fullmatch(r"[!-~]*", key):
        why = "a key is printable ASCII without spaces"
        raise RecipeError(f"{key_name} holds no key", where=key_name, why=why, fix=f"export {key_name}=...")
    return Endpoint(plain, model, key, key_name, option)

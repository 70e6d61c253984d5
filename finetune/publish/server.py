"""The Hub's client, and what it says when something is refused, as the person who typed the command should read it."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from json import JSONDecodeError
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from finetune import __version__
from finetune.errors import OutsideError, RecipeError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Say = Callable[[str], None]

TRANSIENT = (408, 429, 500, 502, 503, 504)
"""Answers after which the same question may be asked again. Source: huggingface_hub 2.4, utils/_http.py."""

LOGIN = "hf auth login"

FULL_WORDS = ("quota", "storage limit", "no space", "disk is full", "insufficient storage")
"""By which a server says that it has no room, whatever number it gives."""


@dataclass(frozen=True)
class Hub:
    """A server and its client."""

    api: HfApi
    endpoint: str
    say: Say


def connect(endpoint: str | None, of_recipe: str | None, say: Say) -> Hub:
    """Makes the client; nothing is sent yet.

    Args:
        endpoint: as it was typed.
        of_recipe: as the recipe says.
        say: takes a line for the user.

    Raises:
        RecipeError: the address is none, or would send a token in the clear because a recipe says so.
    """
    from huggingface_hub import HfApi

    chosen = endpoint or of_recipe
    parts = urlsplit(chosen or "https://huggingface.co")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        where = f"--endpoint {endpoint!a:.80}"
        raise RecipeError("this is no address of a Hub", where=where, fix="--endpoint https://hub.example.com")
    if not endpoint and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        why = "your token would go there unencrypted, because a file says so"
        fix = f"--endpoint {of_recipe}   # if you mean it"
        raise RecipeError(
            "the recipe's endpoint has no https", where=f"publish.endpoint: {of_recipe}", why=why, fix=fix
        )
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    api = HfApi(endpoint=chosen.rstrip("/") if chosen else None, library_name="finetune", library_version=__version__)
    return Hub(api, api.endpoint, say)


@contextmanager
def told(hub: Hub, repo: str, what: str) -> Iterator[None]:
    """Tells what the client raises as an error of ours, and its warnings as lines.

    Args:
        hub: that is asked.
        repo: that it is about.
        what: cannot be done if this fails.

    Raises:
        OutsideError: the Hub refused, failed, or is not there.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("ignore", DeprecationWarning)  # lfs.py of huggingface_hub 2.4 uses an old word of httpx2
        try:
            yield
        except OfflineModeIsEnabled as error:
            why = "HF_HUB_OFFLINE is set"
            raise OutsideError(what, where=_where(hub, repo), why=why, fix="unset HF_HUB_OFFLINE") from error
        except LocalTokenNotFoundError as error:
            raise OutsideError(what, where=_where(hub, repo), why="you are not logged in", fix=LOGIN) from error
        except HfHubHTTPError as error:
            raise _refused(hub, repo, what, error) from error
        except (ValueError, RuntimeError) as error:  # so the client wraps what the LFS server or its own check says
            if (cause := _cause(error)) is not None:
                raise _refused(hub, repo, what, cause) from error
            if not _is_clients(error):
                raise
            if isinstance(error, JSONDecodeError):
                raise strange(hub, repo, what, f"it is not JSON: {_line(str(error))}") from error
            fix = "mend what the line above names"
            if any(word in str(error).lower() for word in FULL_WORDS):
                fix = "free space there, or publish to another --repo"
            raise OutsideError(what, where=_where(hub, repo), why=_chain(error), fix=fix) from error
        except (LookupError, TypeError, AttributeError, AssertionError) as error:  # the client takes answers on trust
            if not _is_clients(error):
                raise
            raise strange(hub, repo, what, f"{type(error).__name__}: {_line(str(error))}") from error
        except (httpx2.HTTPError, OSError) as error:
            fix = "give the same command again: what was sent is not sent twice"
            raise OutsideError(what, where=_where(hub, repo), why=_line(str(error)), fix=fix) from error
    for warning in heard:
        hub.say(f"the Hub says: {_line(str(warning.message))}")


def strange(hub: Hub, repo: str, what: str, why: str) -> OutsideError:
    """Tells of an answer that no Hub gives: of a login page, a proxy, or of another kind of server.

    Args:
        hub: that gave it.
        repo: that it is about.
        what: cannot be done with it.
        why: what is wrong with it.
    """
    told, fix = (
        f"its answer is none of a Hub ({why})",
        "--endpoint https://hub.example.com   # or look what answers there",
    )
    return OutsideError(what, where=_where(hub, repo), why=told, fix=fix)


def check_words(hub: Hub, repo: str, what: str, words: Iterable[object]) -> None:
    """Makes sure that ids and names in an answer are texts, for the client takes them as they come.

    Raises:
        OutsideError: one is none.
    """
    for word in words:
        if not isinstance(word, str) or not word:
            raise strange(hub, repo, what, f"{word!a:.40} stands where a name or a hash should")


def is_transient(error: BaseException) -> bool:
    """Tells whether what failed may succeed when it is tried again."""
    import httpx2

    cause: BaseException | None = error
    while cause is not None:
        if (status := _status(cause)) is not None:
            return status in TRANSIENT
        if isinstance(cause, httpx2.TransportError):
            return True
        cause = cause.__cause__
    return False


def is_stale(error: BaseException) -> bool:
    """Tells whether the parent of a commit was not the head any more."""
    cause: BaseException | None = error
    while cause is not None:
        if _status(cause) == 412:
            return True
        cause = cause.__cause__
    return False


def _cause(error: BaseException) -> Exception | None:
    from huggingface_hub.errors import HfHubHTTPError

    cause = error.__cause__
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__
    return cause


def _is_clients(error: BaseException) -> bool:
    """Tells what the client met or complains of from a bug: it, or what it called, raised the error."""
    trace, ours = error.__traceback__, True
    while trace is not None:
        ours = ours and f"{os.sep}huggingface_hub{os.sep}" not in trace.tb_frame.f_code.co_filename
        trace = trace.tb_next
    return not ours


def _status(error: BaseException) -> int | None:
    from huggingface_hub.errors import HfHubHTTPError

    return int(error.response.status_code) if isinstance(error, HfHubHTTPError) else None


def _refused(hub: Hub, repo: str, what: str, error: Exception) -> OutsideError:
    """Says what an answer of the Hub means for who publishes."""
    from huggingface_hub.errors import HfHubHTTPError

    assert isinstance(error, HfHubHTTPError)
    status, said = error.response.status_code, _line(error.server_message or str(error))
    owner = repo.partition("/")[0]
    if status == 401:
        why, fix = "it takes no token of yours, or the repository is not yours to see", LOGIN
    elif any(word in said.lower() for word in FULL_WORDS) or status in (402, 507):
        why, fix = "there is no room left", "free space there, or publish to another --repo"
    elif status == 403:
        why, fix = f"the token may not write to {owner}", f"make a token that may, and {LOGIN}"
    elif status == 404:
        why, fix = f"there is no such owner, or your token does not see {owner}", "--repo OWNER/NAME   # hf auth whoami"
    elif status == 412:
        why, fix = "somebody committed meanwhile", "look at their commit, then give the same command again"
    elif status in TRANSIENT:
        why, fix = "the server has trouble", "give the same command again: what was sent is not sent twice"
    else:
        why, fix = "the server refused", "give the same command again once what it says is mended"
    return OutsideError(what, where=_where(hub, repo), why=f"{why} ({status}: {said})", fix=fix)


def _where(hub: Hub, repo: str) -> str:
    return f"{hub.endpoint}/{repo}"


def _chain(error: BaseException) -> str:
    """Tells an error and what led to it."""
    told, cause = [], error.__cause__
    while cause is not None:
        told.append(str(cause) or type(cause).__name__)
        cause = cause.__cause__
    return _line(": ".join([str(error).rstrip("."), *told]))


def _line(text: str) -> str:
    """Gives the first lines of a longer message as one."""
    told = " ".join(line.strip() for line in text.splitlines() if line.strip())
    return told if len(told) <= 300 else f"{told[:300]} …"

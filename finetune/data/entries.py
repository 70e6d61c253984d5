"""The cache of rendered files: a folder of entries, each called by a hash of everything that its ids follow from."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from finetune.data.store import Store, read_store

OURS = re.compile(r"[0-9a-f]{32}|\.[0-9a-f]{32}\.\w+")
"""Names of entries, their locks, and entries that are being written."""

KEPT_SECONDS = 30 * 86_400
"""A cache that nothing has read for so long is removed when the next one is written."""


def default_cache() -> Path:
    """The folder of caches: FINETUNE_DATA_CACHE, or finetune/data in the user's cache folder."""
    named = os.environ.get("FINETUNE_DATA_CACHE")
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return Path(named).expanduser() if named else cache / "finetune" / "data"


def find_entry(entry: Path) -> Store | None:
    """Opens an entry of the cache, and notes that it is still of use."""
    if (found := read_store(entry)) is not None:
        with suppress(OSError):  # it is another user's, who keeps it as long as he wants, or nothing can be written
            os.utime(entry)
    return found


@contextmanager
def alone(folder: Path, key: str) -> Iterator[None]:
    """Lets one process fill an entry while the others that want it wait, then find it.

    Raises:
        OSError: the folder of caches cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sweep(folder: Path) -> None:
    """Removes of our own entries what nobody has read for a month; whatever else lies there is none of our business."""
    for entry in folder.iterdir():
        if not OURS.fullmatch(entry.name) or entry.is_symlink():
            continue
        with suppress(OSError):  # another process was quicker, or it belongs to another user
            if entry.stat().st_mtime < time.time() - KEPT_SECONDS:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def umask() -> int:
    """Gives the rights that new files of this process do not have."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@cache
def code() -> str:
    """Identifies the code that renders, as this process found it: another version may render otherwise."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()

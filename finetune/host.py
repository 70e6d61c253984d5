"""The machine around the GPU: memory that is really free, disk, and the limits a container sets."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def total_bytes() -> int:
    """All memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_bytes() -> int:
    """Memory that can be had now: of the machine, and within every control group that this process is in."""
    return min([_available(), *(room for _, room in limits())])


def swap_bytes() -> int:
    """Swap space that is free."""
    return _meminfo().get("SwapFree", 0)


def limits(proc: Path = PROC, groups: Path = CGROUPS) -> list[tuple[int, int]]:
    """Lists (limit, what is left of it) of the control groups, version 1 and 2, that limit this process' memory.

    What is left counts as the kernel does before it kills: file pages that nobody uses can be given back.
    """
    found = []
    for folder in _groups(proc, groups):
        for most, used, idle in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = _number(folder / most)
            if limit is None or limit >= total_bytes():
                continue  # "max", or version 1's way of saying so, a number larger than any machine
            statistics = dict(
                line.split() for line in _text(folder / "memory.stat").splitlines() if line.count(" ") == 1
            )
            working = (_number(folder / used) or 0) - int(statistics.get(idle, 0))
            found.append((limit, max(0, limit - max(0, working))))
    return found


def disk_free_bytes(folder: Path) -> int:
    """Bytes that a user may still write where `folder` lies, or will lie once it is made."""
    folder = folder.absolute()
    there = next(place for place in (folder, *folder.parents) if os.path.isdir(place))
    return shutil.disk_usage(there).free


def _available() -> int:
    told = _meminfo()
    return told["MemAvailable"] if "MemAvailable" in told else total_bytes()


def _meminfo() -> dict[str, int]:
    """Reads /proc/meminfo, in bytes; empty on a system without it."""
    rows = (line.split() for line in _text(PROC / "meminfo").splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) == 3 and row[1].isdecimal()}


def _groups(proc: Path, groups: Path) -> Iterator[Path]:
    """Yields the folder of each control group that holds this process, and of those around it.

    Inside a container the path that the process is told may not be there; the root then is the container's own group.
    """
    for line in _text(proc / "self" / "cgroup").splitlines():
        controllers, path = line.split(":", 2)[1:]
        if controllers == "" or "memory" in controllers.split(","):
            root = groups if controllers == "" else groups / "memory"
            own = root / path.strip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(root) and folder.is_dir())


def _number(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdecimal() else None


def _text(file: Path) -> str:
    """Reads what the kernel tells; a file that is not there or not for us tells nothing."""
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def end_with_parent() -> None:
    """Lets this process end soon after the one that started it, however that one ended, kill -9 included."""

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()

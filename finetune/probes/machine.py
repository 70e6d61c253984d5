"""Looks at the machine around the GPU: memory, disk, and what earlier programs left behind."""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import sys
import time
from pathlib import Path

from finetune import host
from finetune.hardware import ALLOCATOR_VARIABLES, GROWING
from finetune.probes.check import GIB, Check, amount

BASE_BYTES = int(55.6e9)
"""Of Qwen3.6-27B as it is downloaded, in bf16."""

LEAST_MEMORY_BYTES = 8 * GIB
"""Free, to load a base layer by layer beside the libraries."""

LEAST_DISK_BYTES = 10 * GIB
"""For checkpoints: at rank 16 the 27B writes up to 1.3 GB each, and keeps two beside the one it writes."""

LEAST_SHARED_BYTES = GIB
"""Docker's 64 MiB are too few for NCCL between GPUs."""

STALE_SECONDS = 600


def memory() -> Check:
    """Host memory that can really be had."""
    total, free, swap = host.total_bytes(), host.free_bytes(), host.swap_bytes()
    told = f"{amount(free)} free of {amount(total)}"
    limits = [limit for limit, _ in host.limits()]
    if limits:
        told += f", limited to {amount(min(limits))} by a control group"
    told += f", {amount(swap)} swap" if swap else ""
    if free < LEAST_MEMORY_BYTES:
        return Check("memory", "slow", f"{told}: loading a large base may not fit", "ps aux --sort=-rss | head")
    return Check("memory", "ok", told)


def shared_memory() -> Check:
    """/dev/shm, over which the processes of several GPUs talk."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Check("shared memory", "absent", "there is no /dev/shm")
    size = shutil.disk_usage(folder).total
    if size < LEAST_SHARED_BYTES:
        told = f"{folder} has {amount(size)}: too few for several GPUs"
        return Check("shared memory", "slow", told, "docker run --shm-size=8g …   # or --ipc=host")
    return Check("shared memory", "ok", f"{folder} has {amount(size)}")


def locked_memory() -> Check:
    """The limit that InfiniBand meets; CUDA pins its memory past it."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    told = "unlimited" if limit == resource.RLIM_INFINITY else amount(limit)
    if limit != resource.RLIM_INFINITY and limit < GIB and Path("/dev/infiniband").exists():
        fix = "docker run --ulimit memlock=-1 …   # or: ulimit -l unlimited"
        return Check("locked memory", "slow", f"{told}: InfiniBand cannot register its buffers", fix)
    return Check("locked memory", "ok", f"{told}; it binds InfiniBand, not CUDA's pinned memory")


def disk(folder: Path) -> Check:
    """Room for runs."""
    free = host.disk_free_bytes(folder)
    told = f"{amount(free)} free in {folder}"
    if not os.access(folder, os.W_OK):
        return Check("disk", "broken", f"{folder} cannot be written", "cd   # to a folder of yours")
    if free < LEAST_DISK_BYTES:
        fix = "finetune train RECIPE --runs /a/larger/disk/runs"
        return Check("disk", "slow", f"{told}: few checkpoints of a large base", fix)
    return Check("disk", "ok", told)


def allocator() -> Check:
    """Whether torch may grow its pieces of GPU memory; finetune asks for it unless somebody chose."""
    name = "CUDA allocator"
    set_by_user = next((variable for variable in ALLOCATOR_VARIABLES if variable in os.environ), None)
    if set_by_user is None:
        return Check(name, "ok" if sys.platform == "linux" else "absent", f"{GROWING}, set when training starts")
    if GROWING in os.environ[set_by_user].replace(" ", ""):
        return Check(name, "ok", f"{set_by_user} has {GROWING}")
    told = f"{set_by_user} is set without {GROWING}: memory breaks up, long examples may not fit"
    return Check(name, "slow", told, f"unset {set_by_user}")


def builds() -> Check:
    """Locks that a killed build of a torch extension left: the next build waits for them for ever."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cache / "torch_extensions")
    locks = [*root.glob("*/lock"), *root.glob("*/*/lock")]
    ages = {lock: time.time() - lock.stat().st_mtime for lock in locks if lock.is_file()}
    stale = [lock for lock, age in ages.items() if age > STALE_SECONDS]
    if stale:
        told = f"{stale[0]} is {ages[stale[0]] / 60:,.0f} minutes old: a build was killed, and the next waits for ever"
        return Check("torch extensions", "broken", told, "rm " + " ".join(shlex.quote(str(lock)) for lock in stale))
    if ages:
        return Check("torch extensions", "ok", f"{next(iter(ages)).parent.name} is being built now")
    return Check("torch extensions", "ok", "no build was left half done")

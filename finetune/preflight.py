"""The last look before training begins: what the plan promised is compared with what is free right now.

It runs after the base is on disk and before anything is loaded, so that a refusal costs seconds. What stops a training
is an error; what only slows it, or matters to a later stage, is a check that is told. Publishing is not built: what
a token permits is asked by `finetune.probes.hub.token`, and the stage that publishes adds it here.
"""

from __future__ import annotations

import os
import re
import shlex
from importlib import metadata
from pathlib import Path
from typing import Protocol

from finetune import host, nvidia
from finetune.errors import DoesNotFit, OutsideError, Problem
from finetune.hardware import DRIVER_SHARE, Hardware
from finetune.probes import Check, packages, trials
from finetune.probes.check import GIB, amount
from finetune.recipe import Recipe, is_folder

TRAINING = ("checkpoints", "adapter", "weights")
"""What training itself writes, of the stages in `disk_bytes`: checkpoints and, by its method, adapter or weights."""

LICENCES = {
    r"apache license.{0,80}version 2\.0": "Apache-2.0",
    r"mit license": "MIT",
    r"(tongyi )?qianwen (research )?license|qwen (research )?license": "Qwen licence, with terms of its own",
    r"llama [0-9.]+ community license": "Llama community licence, with terms of its own",
    r"gemma terms of use": "Gemma terms of use",
}
"""How a licence's text begins -> what it is called."""


class Promise(Protocol):
    """What a preflight reads of a plan."""

    @property
    def device(self) -> str: ...
    @property
    def peak_bytes(self) -> int: ...
    @property
    def host_bytes(self) -> int: ...
    @property
    def disk_bytes(self) -> dict[str, int]: ...
    @property
    def kernels(self) -> bool:
        """Whether it counts on both kernels of Gated DeltaNet."""
        ...

    @property
    def rule_kernel(self) -> bool:
        """Whether it counts on the one of the rule."""
        ...


def preflight(
    plan: Promise, hardware: Hardware, runs: Path, base: Path, recipe: Recipe, written_bytes: int = 0
) -> list[Check]:
    """Refuses a training that cannot end well here now, and tells what else there is to know.

    Args:
        plan: what was promised.
        hardware: as detected just now, for it holds what is free.
        runs: the folder in which the run lies or will lie.
        base: the folder of the base's files.
        recipe: names things as the user did.
        written_bytes: what the run has on disk already, when it is resumed.

    Raises:
        DoesNotFit: GPU memory, host memory or disk that training needs is not free.
        OutsideError: a kernel that the plan counts on is gone, or a package is outside the range it was proven with.
    """
    return [
        *([_gpu(plan, hardware, recipe)] if plan.device == "cuda" else []),
        _memory(plan, hardware),
        *_disk(plan, runs, recipe, written_bytes),
        _kernels(plan, hardware),
        _versions(),
        licence(base, is_folder(recipe.base)),
    ]


def licence(base: Path, own: bool = False) -> Check:
    """Which licence the base's files name.

    Args:
        base: its folder.
        own: it is a folder of the user's, which may well have none.
    """
    for file in sorted(file for file in base.glob("LICENSE*") if file.is_file()):
        text = " ".join(file.read_text(errors="replace")[:4000].split()).lower()
        for pattern, name in LICENCES.items():
            if re.search(pattern, text):
                return Check("licence", "ok", f"{name} ({file.name} of the base)")
    readme = base / "README.md"
    head = readme.read_text(errors="replace")[:4000] if readme.is_file() else ""
    if front := re.match(r"---\n(.*?)\n---", head, re.DOTALL):
        told = dict(re.findall(r"^(license|license_name):[ \t]*[\"']?([^\s\"'#]+)", front[1], re.MULTILINE))
        if told:
            return Check("licence", "ok", f"{told.get('license_name', told.get('license'))} (README.md of the base)")
    told_nothing = "unknown: the base's files name none that is known here"
    return Check(
        "licence",
        "absent" if own else "slow",
        told_nothing,
        "" if own else f"ls {shlex.quote(str(base))}   # read its licence",
    )


def _gpu(plan: Promise, hardware: Hardware, recipe: Recipe) -> Check:
    """Compares the peak with the memory that nobody holds now.

    Raises:
        DoesNotFit: it does not fit, and who holds what.
    """
    free = hardware.gpu_free_bytes
    if not free:
        return Check("GPU memory", "ok", f"{amount(plan.peak_bytes)} needed; the driver does not tell what is free")
    if free < plan.peak_bytes:
        holders = nvidia.holders([gpu.uuid for gpu in nvidia.look().gpus])
        free += sum(holder.used_bytes for holder in holders if holder.pid == os.getpid())
        others = [holder for holder in holders if holder.pid != os.getpid()]
        if free < plan.peak_bytes:
            raise _gpu_is_held(plan, hardware, recipe, free, others)
    return Check("GPU memory", "ok", f"{amount(plan.peak_bytes)} needed, {amount(free)} free")


def _gpu_is_held(
    plan: Promise, hardware: Hardware, recipe: Recipe, free: int, holders: list[nvidia.Holder]
) -> DoesNotFit:
    missing = plan.peak_bytes - free
    whole = free / (1 - DRIVER_SHARE) / GIB  # a card whose usable memory is what is free here
    fix = f"finetune plan {recipe.words()} --gpu {whole:.1f}GB   # what fits into it"
    if whole < 1:  # for so little nothing can be planned
        fix = "nvidia-smi   # shows who holds the rest"
    fix = next((f"kill {h.pid}   # {h.name}, if it is yours" for h in holders if h.used_bytes >= missing), fix)
    return DoesNotFit(
        f"training needs {amount(plan.peak_bytes)} of GPU memory; {amount(free)} are free",
        where=hardware.gpus[0],
        why="; ".join(str(holder) for holder in holders[:3]) or "no process is named that holds the rest",
        fix=fix,
    )


def _memory(plan: Promise, hardware: Hardware) -> Check:
    """Compares host memory with what can be had.

    Raises:
        DoesNotFit: it is too little.
    """
    needed = plan.host_bytes if plan.device == "cuda" else max(plan.host_bytes, plan.peak_bytes)
    free = hardware.host_free_bytes
    if free and free < needed:
        limits = [limit for limit, _ in host.limits()]
        limited = f", limited to {amount(min(limits))} by a control group" if limits else ""
        raise DoesNotFit(
            f"training needs {amount(needed)} of host memory; {amount(free)} can be had",
            where="memory of this machine",
            why=f"it has {amount(hardware.host_bytes)}{limited}; other programs hold the rest",
            fix="ps aux --sort=-rss | head   # shows who holds it",
        )
    return Check("host memory", "ok", f"{amount(needed)} needed, {amount(free)} can be had")


def _disk(plan: Promise, runs: Path, recipe: Recipe, written_bytes: int) -> list[Check]:
    """Compares what training writes with the disk; what later stages write only warns.

    Raises:
        DoesNotFit: checkpoints and adapter have no room.
    """
    free = host.disk_free_bytes(runs)
    now = {stage: size for stage, size in plan.disk_bytes.items() if stage in TRAINING}
    needed = max(0, sum(now.values()) - written_bytes)
    larger = "--runs /a/larger/disk/runs"
    if free < needed:
        resumed = f"du -sh {shlex.quote(str(runs))}/* | sort -h   # shows what can go"
        raise DoesNotFit(
            f"training writes {amount(needed)} into {runs}; {amount(free)} are free",
            where=str(runs),
            why=", ".join(f"{stage} {amount(size)}" for stage, size in now.items()),
            fix=resumed if written_bytes else f"finetune train {recipe.words()} {larger}",
        )
    found = [Check("disk", "ok", f"{amount(needed)} to be written, {amount(free)} free")]
    later = {stage: size for stage, size in plan.disk_bytes.items() if stage not in now}
    short = [f"{stage} {amount(size)}" for stage, size in later.items() if free - needed < size]
    if short:
        told = f"{amount(free - needed)} will be left, too little for {', '.join(short)}"
        found.append(Check("disk of later stages", "slow", told, larger))
    return found


def _kernels(plan: Promise, hardware: Hardware) -> Check:
    """Holds the kernels to what the plan counts on.

    Raises:
        OutsideError: it counts on kernels that are not installed.
    """
    if (plan.kernels and not hardware.kernels) or (plan.rule_kernel and not hardware.rule_kernel):
        raise OutsideError(
            "the plan counts on the kernels of Gated DeltaNet, which are not installed here",
            where="packages fla and causal_conv1d",
            why="without them a layer needs twice the memory that was planned, and several times the time",
            fix=trials.KERNELS_FIX,
        )
    absent = [] if hardware.kernels else ["causal_conv1d"] if hardware.rule_kernel else ["fla", "causal_conv1d"]
    missing = [Check(name, "slow", "not installed", trials.KERNELS_FIX) for name in absent]
    return trials.gated_deltanet(missing, hardware)


def _versions() -> Check:
    """Holds the packages to their ranges.

    Raises:
        OutsideError: some are missing or outside.
    """
    try:
        wrong = list(packages.outside_ranges())
    except metadata.PackageNotFoundError:
        return packages.versions()
    if wrong:
        raise OutsideError.of(
            Problem(
                f"{name} {found or 'is missing'}: needed is {wanted}",
                where=f"package {name}",
                why="training was proven with that range only",
                fix=f"pip install '{name}{wanted}'",
            )
            for name, found, wanted in wrong
        )
    return packages.versions()

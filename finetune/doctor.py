"""`finetune doctor`: what would stop or slow a training here, and the command that mends it.

It changes nothing, asks the network only if told to, and waits for nobody longer than a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune.hardware import Hardware, detect
from finetune.probes import Check, State, gpu, hub, machine, packages, trials

COLOURS: dict[State, str] = {"ok": "32", "slow": "33", "broken": "31;1", "absent": "2"}
"""ANSI codes: green, yellow, bold red, dim."""

ON_A_GPU = ("pinned", "attention", "fla", "causal_conv1d")
"""Trials that make sense with a GPU only."""

DISTRIBUTIONS = {"fla": "flash-linear-attention", "causal_conv1d": "causal-conv1d", "deepspeed": "deepspeed"}
"""Packages that may be missing, by the name of their trial; what is not installed is not tried."""


def examine(folder: Path, online: bool = False) -> list[Check]:
    """Looks at everything.

    Args:
        folder: where runs would be made.
        online: ask the Hub what the token permits.
    """
    hardware = detect()
    tried = trials.run(_to_try(hardware, online), hardware.device)
    kernels = [
        trials.fla(tried.get("fla"), hardware),
        trials.causal_conv1d(tried.get("causal_conv1d"), hardware),
    ]
    return [
        gpu.driver(hardware),
        gpu.gpus(hardware),
        gpu.bf16(hardware),
        packages.python(),
        packages.versions(),
        trials.torch(tried["torch"], hardware),
        trials.bitsandbytes(tried["bitsandbytes"]),
        trials.gated_deltanet(kernels, hardware),
        *kernels,
        trials.triton(hardware),
        trials.attention(tried.get("attention")),
        trials.liger(),
        trials.deepspeed(tried.get("deepspeed")),
        trials.nccl(tried["torch"]),
        trials.pinned(tried.get("pinned"), hardware),
        machine.allocator(),
        machine.memory(),
        machine.shared_memory(),
        machine.locked_memory(),
        machine.disk(folder),
        machine.builds(),
        packages.gguf(),
        hub.cache(),
        hub.token(tried.get("hub")),
    ]


def is_healthy(checks: Sequence[Check]) -> bool:
    """Whether nothing is broken; what is slow trains."""
    return all(check.state != "broken" for check in checks)


def render(checks: Sequence[Check], colour: bool = False) -> str:
    """Writes one line a check, each fix on a line of its own below it, and a last line that sums up."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        state = f"{check.state:<6}"
        if colour:
            state = f"\x1b[{COLOURS[check.state]}m{state}\x1b[0m"
        lines.append(f"{state}  {check.name:<{width}}  {check.told}")
        if check.fix:
            lines.append(f"{'':<6}  {'':<{width}}  fix: {check.fix}")
    found = {state: sum(check.state == state for check in checks) for state in COLOURS}
    lines += ["", f"{found['broken']} broken, {found['slow']} slow, {found['ok']} ok, {found['absent']} absent"]
    return "\n".join(lines)


def _to_try(hardware: Hardware, online: bool) -> list[str]:
    named = ["torch", *ON_A_GPU, "bitsandbytes", "deepspeed"] + (["hub"] if online else [])
    return [
        name
        for name in named
        if not (name in ON_A_GPU and not hardware.gpus)
        and not (name in DISTRIBUTIONS and packages.version_of(DISTRIBUTIONS[name]) is None)
    ]

"""Judges what the heavy packages did when they were tried in a process of their own."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from json import loads
from pathlib import Path
from typing import Any

from finetune.asking import ask
from finetune.hardware import Hardware
from finetune.probes.check import Check, one_line
from finetune.probes.packages import version_of

SCRIPT = Path(__file__).parents[1] / "trial.py"
MARK = "tried: "

TRIAL_SECONDS = 60.0
"""For all trials together. Here they take 6; the first start on a cold network disk takes many times that."""

Outcome = dict[str, Any] | str
"""What a trial told, or why it failed."""

NF4_ERROR = 0.12
"""Largest relative error of a normal weight. 0.092 is what NF4 does; half of the values wrong would be 0.7."""

MISCOMPILED = ((3, 4, 0), (3, 7, 1))
"""From and before which version of Triton fla's gated-delta backward is wrong on Hopper.

Source: fla 0.6.0, ops/common/chunk_o.py, which refuses to run then; fla issue 640.
"""

SLOW_SLOT = 0.6
"""Share of the catalogue's host bandwidth below which offloading costs more than the plan says."""

KERNELS_FIX = "pip install flash-linear-attention && pip install --no-build-isolation causal-conv1d   # needs nvcc"


def run(names: Sequence[str], device: str, seconds: float = TRIAL_SECONDS) -> dict[str, Outcome]:
    """Makes the trials in one process; after one that ends it, the rest in another."""
    environment = dict(os.environ)
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""  # so that nobody waits for a driver that is stuck
        environment.setdefault("DS_ACCELERATOR", "cpu")  # else deepspeed complains that it found none
    told: dict[str, Outcome] = {}
    left, last = list(names), time.monotonic() + seconds
    while left:
        time_left = last - time.monotonic()
        if time_left <= 0:
            return told | dict.fromkeys(left, f"was not tried: the trials before it took all {seconds:g} s")
        answer = ask([sys.executable, "-P", str(SCRIPT), *left], time_left, environment)
        for line in answer.out.splitlines():
            if line.startswith(MARK):
                told |= loads(line.removeprefix(MARK))
        left = [name for name in left if name not in told]
        if left:
            told[left[0]] = answer.trouble or "its process ended without a word"
            left = left[1:]
    return told


def torch(outcome: Outcome, hardware: Hardware) -> Check:
    """PyTorch, and whether it computes on the GPU."""
    if isinstance(outcome, str):
        return Check("torch", "broken", one_line(outcome), "pip install --force-reinstall torch")
    built = f"{outcome['version']}, " + (f"built for CUDA {outcome['cuda']}" if outcome["cuda"] else "without CUDA")
    if not hardware.gpus:
        return Check("torch", "ok", built)
    if outcome["cuda"] is None:
        return Check("torch", "broken", f"{built}: it cannot use the GPU", "pip install --force-reinstall torch")
    if not outcome["gpu"]:
        told = f"{built}, does not see the GPU: the driver may be older than its CUDA"
        return Check("torch", "broken", told, "sudo ubuntu-drivers install   # or install a torch for an older CUDA")
    return Check("torch", "ok", f"{built}, computes on the GPU")


def nccl(outcome: Outcome) -> Check:
    """What carries gradients between GPUs."""
    if isinstance(outcome, str) or "nccl" not in outcome:
        return Check("NCCL", "absent", "comes with a torch that uses a GPU")
    return Check("NCCL", "ok", outcome["nccl"])


def pinned(outcome: Outcome | None, hardware: Hardware) -> Check:
    """Pinned host memory, over which checkpoints of layers are offloaded."""
    name = "pinned memory"
    if outcome is None:
        return Check(name, "absent", "no GPU to copy to")
    if isinstance(outcome, str):
        return Check(name, "broken", one_line(outcome), "sudo dmesg | tail   # the driver says why it pins none")
    speed, assumed = outcome["bytes_per_second"], hardware.card.host_bandwidth if hardware.card else 0.0
    told = f"copies {speed / 1e9:.1f} GB/s to the GPU, the plan counts on {assumed / 1e9:.0f}"
    if speed < SLOW_SLOT * assumed:
        fix = "nvidia-smi --query-gpu=pcie.link.gen.current,pcie.link.width.current --format=csv"
        return Check(name, "slow", f"{told}: the slot is slower than the card", fix)
    return Check(name, "ok", told)


def attention(outcome: Outcome | None) -> Check:
    """Flash attention through torch, which needs no package of its own."""
    if outcome is None:
        return Check("attention", "absent", "no GPU: torch's plain attention")
    if isinstance(outcome, str):
        told = f"flash attention does not run, torch's other ways do: {one_line(outcome, 100)}"
        return Check("attention", "slow", told, "pip install --upgrade torch")
    if not outcome["finite"]:
        told = "flash attention gives gradients that are not finite"
        return Check("attention", "broken", told, "pip install --upgrade torch")
    return Check("attention", "ok", "flash attention runs forth and back with heads of 256")


def bitsandbytes(outcome: Outcome) -> Check:
    """4-bit weights, quantised and read back."""
    version = version_of("bitsandbytes") or "not installed"
    if isinstance(outcome, str):
        return Check("bitsandbytes", "broken", f"{version}: {one_line(outcome)}", "pip install --upgrade bitsandbytes")
    told = f"{version}, NF4 on {outcome['device']}: relative error {outcome['error']:.3f}"
    if not outcome["error"] < NF4_ERROR:
        return Check("bitsandbytes", "broken", f"{told}, of 0.09 expected", "pip install --upgrade bitsandbytes")
    return Check("bitsandbytes", "ok", told)


def fla(outcome: Outcome | None, hardware: Hardware) -> Check:
    """Kernels of Gated DeltaNet; wrong gradients are refused, not trained with."""
    name, version, triton = "fla", version_of("flash-linear-attention"), version_of("triton")
    if version is None:
        return Check(name, "slow" if hardware.gpus else "absent", "not installed", KERNELS_FIX if hardware.gpus else "")
    told = f"{version}, Triton {triton or 'is missing'}"
    if outcome is None:
        return Check(name, "absent", f"{told}; it needs a GPU")
    if isinstance(outcome, str):
        return Check(name, "broken", f"{told}: {one_line(outcome)}", "pip install --upgrade flash-linear-attention")
    if is_miscompiled(triton or "0", hardware.compute_capability) and version_of("tilelang") is None:
        told += ": on Hopper this Triton makes the backward of Gated DeltaNet wrong, and fla refuses to run"
        return Check(name, "broken", told, "pip install 'triton>=3.7.1'")
    return Check(name, "ok", told)


def causal_conv1d(outcome: Outcome | None, hardware: Hardware) -> Check:
    """The convolution before Gated DeltaNet; built for this GPU or not."""
    name, version = "causal_conv1d", version_of("causal-conv1d")
    fix = "pip install --no-build-isolation causal-conv1d   # needs nvcc"
    if version is None:
        return Check(name, "slow" if hardware.gpus else "absent", "not installed", fix if hardware.gpus else "")
    if outcome is None:
        return Check(name, "absent", f"{version}; it needs a GPU")
    if isinstance(outcome, str):
        again = fix.replace("--no-build", "--force-reinstall --no-binary :all: --no-build")
        return Check(name, "broken", f"{version}: {one_line(outcome)}", again)
    if not outcome["difference"] < 1e-3:  # float32 against float32: four products a number
        return Check(name, "broken", f"{version}: differs from torch by {outcome['difference']:.2g}", fix)
    return Check(name, "ok", f"{version}, equal to torch on the GPU")


def gated_deltanet(kernels: Sequence[Check], hardware: Hardware) -> Check:
    """Says loudly when three of four layers would run on the slow reference.

    Source: transformers 5.23, integrations/hub_kernels.py; 743,211 against 367,592 bytes a token and layer (simulated);
    LLaMA-Factory issue 10221: four times slower and more.
    """
    name = "Gated DeltaNet"
    if not hardware.gpus:
        return Check(name, "absent", "no GPU: runs as plain torch, right and slow")
    missing = [kernel.name for kernel in kernels if kernel.state != "ok"]
    fix = next((kernel.fix for kernel in kernels if kernel.state != "ok"), "")
    if missing == ["causal_conv1d"]:
        told = "its rule runs on fla, the convolution before it in torch; packed examples cannot be kept apart"
        return Check(name, "slow", told, fix)
    if missing:
        told = (
            f"SLOW: without {' and '.join(missing)} three of four layers run on the torch reference, which is right "
            "but takes several times as long and twice the memory a token; packed examples cannot be kept apart"
        )
        return Check(name, "slow", told, fix)
    return Check(name, "ok", "runs on its fast kernels")


def deepspeed(outcome: Outcome | None) -> Check:
    """What several GPUs share weights and optimizer states with."""
    version = version_of("deepspeed")
    if version is None or outcome is None:
        return Check("DeepSpeed", "absent", "not installed; one GPU needs none", "DS_BUILD_OPS=0 pip install deepspeed")
    if isinstance(outcome, str):
        fix = "DS_BUILD_OPS=0 pip install --force-reinstall --no-deps deepspeed"
        return Check("DeepSpeed", "broken", f"{version}: {one_line(outcome)}", fix)
    nvcc = "with the nvcc that is here" if shutil.which("nvcc") else "for which there is no nvcc here"
    return Check("DeepSpeed", "ok", f"{version}; its operators are built at first use, {nvcc}")


def triton(hardware: Hardware) -> Check:
    """The compiler of fla's and Liger's kernels."""
    version = version_of("triton")
    if version is None:
        fix = "pip install --force-reinstall torch   # a build for CUDA brings it"
        return Check("Triton", "broken" if hardware.gpus else "absent", "not installed", fix if hardware.gpus else "")
    return Check("Triton", "ok", version)


def liger() -> Check:
    """Fused norms; optional."""
    version = version_of("liger-kernel")
    return Check("Liger", "ok" if version else "absent", version or "not installed; not needed")


def is_miscompiled(triton_version: str, capability: tuple[int, int] | None) -> bool:
    """Whether this Triton compiles the gated backward wrongly for this GPU."""
    figures = tuple(int(part) for part in triton_version.split("+")[0].split(".")[:3] if part.isdecimal())
    return capability is not None and capability[0] == 9 and MISCOMPILED[0] <= figures < MISCOMPILED[1]

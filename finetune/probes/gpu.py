"""Looks at the driver and the GPUs, without CUDA."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from finetune import nvidia
from finetune.hardware import Hardware, plannable_bytes
from finetune.probes.check import GIB, Check, amount, one_line

NVIDIA_VENDOR, DISPLAY_CLASSES = "0x10de", ("0x0300", "0x0302")
"""Of PCI: the maker, and the classes of a graphics card and of one without a screen."""

TOYS = "training runs on the CPU, for toys"


def driver(hardware: Hardware) -> Check:
    """The NVIDIA driver, and the newest CUDA that it can run."""
    name = "NVIDIA driver"
    if hardware.trouble:
        said = one_line(hardware.trouble)
        hangs = "gave no answer" in said
        fix = "sudo reboot   # the driver is stuck" if hangs else "sudo modprobe nvidia   # or reboot; then: nvidia-smi"
        return Check(name, "broken", said, fix)
    if hardware.gpus:
        gpus = nvidia.look(10).gpus
        cuda = nvidia.cuda_version(10)
        told = (gpus[0].driver if gpus else "answers") + (f", runs CUDA up to {cuda}" if cuda else "")
        return Check(name, "ok", told)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1") or (visible and shutil.which("nvidia-smi")):  # which then answered
        told = f"CUDA_VISIBLE_DEVICES={visible} hides every GPU: {TOYS}"
        return Check(name, "absent", one_line(told), "unset CUDA_VISIBLE_DEVICES")
    if _on_the_bus():
        told = "an NVIDIA GPU is plugged in, but nvidia-smi is not there"
        return Check(name, "broken", told, "sudo ubuntu-drivers install   # or as your distribution installs drivers")
    return Check(name, "absent", f"no NVIDIA GPU: {TOYS}")


def gpus(hardware: Hardware) -> Check:
    """Which GPUs, and how much of their memory is free now."""
    if not hardware.gpus:
        return Check("GPU", "absent", TOYS)
    kinds = ", ".join(f"{hardware.gpus.count(kind)} x {kind}" for kind in dict.fromkeys(hardware.gpus))
    told = f"{kinds}, {amount(hardware.gpu_bytes)}"
    if not hardware.gpu_free_bytes:
        return Check("GPU", "ok", told)
    told += f", {amount(hardware.gpu_free_bytes)} free"
    holders = nvidia.holders([gpu.uuid for gpu in nvidia.look(10).gpus], 10)
    large = [holder for holder in holders if holder.used_bytes >= GIB]
    if large:
        return Check("GPU", "slow", f"{told}: {large[0]}", f"kill {large[0].pid}   # if it is yours and not needed")
    return Check("GPU", "ok", f"{told}; a training can have {amount(plannable_bytes(hardware))}")


def bf16(hardware: Hardware) -> Check:
    """Whether the GPU multiplies bfloat16 matrices in hardware, as every card since Ampere does."""
    if hardware.compute_capability is None:
        return Check("bf16", "absent", "no GPU: float32 on the CPU")
    major, minor = hardware.compute_capability
    if major < 8:
        told = f"compute capability {major}.{minor} has no bf16 units: it computes at the speed of float32"
        return Check("bf16", "slow", told, "finetune plan RECIPE --gpu rtx3090   # Ampere or newer")
    return Check("bf16", "ok", f"compute capability {major}.{minor}")


def _on_the_bus() -> bool:
    """Whether a GPU of NVIDIA is plugged in, whatever drives it."""
    for device in Path("/sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
        except OSError:
            continue  # gone since it was listed, or not ours to read
        if vendor == NVIDIA_VENDOR and kind.startswith(DISPLAY_CLASSES):
            return True
    return False

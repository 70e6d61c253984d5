"""What this machine has, asked without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """GPUs and host memory."""

    gpus: tuple[str, ...]
    """Names, as the driver gives them; empty without a GPU."""
    gpu_bytes: int
    """Memory of the smallest GPU; 0 without one."""
    host_bytes: int

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"


def use_one_gpu() -> None:
    """Shows this process the first GPU only, unless somebody chose; must come before torch is imported."""
    if "WORLD_SIZE" not in os.environ:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")


def detect() -> Hardware:
    """Asks the driver and the operating system."""
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if shutil.which("nvidia-smi") is None or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return Hardware((), 0, host)
    asked = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=30)
    cards = [line.rsplit(",", 1) for line in answer.stdout.splitlines() if "," in line]
    if answer.returncode != 0 or not cards:
        return Hardware((), 0, host)
    return Hardware(tuple(n.strip() for n, _ in cards), min(int(mib) for _, mib in cards) * 2**20, host)

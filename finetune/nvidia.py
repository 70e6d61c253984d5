"""The NVIDIA driver, asked through its own program `nvidia-smi`: which GPUs there are, and who holds their memory."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from finetune.asking import ask

MIB, GIB = 2**20, 2**30

ANSWER_SECONDS = 30.0
"""For the driver. Without persistence mode it first wakes every GPU, which takes seconds a card."""

SLICE_SHARE = 0.95
"""Of the GiB in a MIG profile's name that the slice has: 1g.5gb has 4,864 MiB, 3g.20gb has 19,968.

Source: NVIDIA's MIG user guide, table of instance profiles as `nvidia-smi mig -lgip` prints it.
"""

FIELDS = ("uuid", "name", "memory.total", "memory.free", "compute_cap", "driver_version", "mig.mode.current")

NOT_TOLD = ("[N/A]", "N/A", "[Not Supported]", "Not Supported")
"""How `nvidia-smi` says that a GPU has no such figure; a GPU that shares the host's memory has none of its own."""


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG slice of it, as the driver tells."""

    uuid: str
    name: str
    total_bytes: int | None
    """None where the GPU has no memory of its own, as in the GB10, whose memory is the host's."""
    free_bytes: int | None
    compute_capability: tuple[int, int] | None
    driver: str


@dataclass(frozen=True)
class Driver:
    """What `nvidia-smi` said."""

    gpus: tuple[Gpu, ...]
    """Those that this process may use, in the order in which CUDA will number them."""
    trouble: str
    """Why the driver could not be asked; empty when it answered, or when there is none."""


@dataclass(frozen=True)
class Holder:
    """A process that holds memory of a GPU."""

    pid: int
    used_bytes: int
    name: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name}) holds {self.used_bytes / GIB:.1f} GiB"


def look(seconds: float = ANSWER_SECONDS) -> Driver:
    """Lists the GPUs that CUDA_VISIBLE_DEVICES leaves."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shutil.which("nvidia-smi") is None or visible in ("", "-1"):
        return Driver((), "")
    command = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    answer = ask(command, seconds)
    if answer.trouble:
        return Driver((), answer.trouble)
    found: list[Gpu] = []
    for line in answer.out.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(FIELDS):
            continue  # a warning that the driver prints between its lines
        gpu = _read(cells)
        found.extend(_slices(gpu, seconds) if cells[-1] == "Enabled" else [gpu])
    if not found:
        said = answer.out.strip().splitlines()
        return Driver((), f"nvidia-smi names no GPU: {said[0] if said else 'it said nothing'}")
    chosen = _visible(found, visible)
    if damaged := next((gpu for gpu in chosen if gpu.total_bytes == 0), None):
        return Driver((), f"nvidia-smi does not tell the memory of {damaged.name}")
    return Driver(tuple(chosen), "")


def holders(uuids: Sequence[str], seconds: float = ANSWER_SECONDS) -> list[Holder]:
    """Lists the processes that hold memory of these GPUs, the largest first; none where the driver does not say."""
    command = ["nvidia-smi", "--query-compute-apps=gpu_uuid,pid,used_memory,process_name"]
    answer = ask([*command, "--format=csv,noheader,nounits"], seconds)
    found = []
    for line in answer.out.splitlines():
        cells = [cell.strip() for cell in line.split(",", 3)]
        if len(cells) == 4 and cells[0] in uuids and _number(cells[1]):
            found.append(Holder(_number(cells[1]), _number(cells[2]) * MIB, os.path.basename(cells[3]) or "unnamed"))
    return sorted(found, key=lambda holder: -holder.used_bytes)


def cuda_version(seconds: float = ANSWER_SECONDS) -> str:
    """The newest CUDA that the driver can run, as `13.0`; empty where it does not tell."""
    found = re.search(r"CUDA (?:UMD )?Version:\s*([0-9]+\.[0-9]+)", ask(["nvidia-smi"], seconds).out)
    return found[1] if found else ""


def _read(cells: Sequence[str]) -> Gpu:
    uuid, name, total, free, capability, driver, _ = cells
    figures = re.fullmatch(r"([0-9]{1,2})\.([0-9]{1,2})", capability)
    return Gpu(
        uuid=uuid,
        name=name,
        total_bytes=None if total in NOT_TOLD else _number(total) * MIB,
        free_bytes=None if free in NOT_TOLD else _number(free) * MIB,
        compute_capability=(int(figures[1]), int(figures[2])) if figures else None,
        driver=driver,
    )


def _number(cell: str) -> int:
    """Reads a whole number; what is none, or larger than any of a GPU's, is 0."""
    return int(cell) if re.fullmatch("[0-9]{1,9}", cell) else 0


def _slices(gpu: Gpu, seconds: float) -> list[Gpu]:
    """Lists the MIG slices of a GPU that is divided; the GPU itself cannot be used then.

    GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d…)
      MIG 3g.20gb     Device  0: (UUID: MIG-e0…)
    """
    found, inside = [], False
    for line in ask(["nvidia-smi", "-L"], seconds).out.splitlines():
        if line.startswith("GPU "):
            inside = gpu.uuid in line
        piece = re.search(r"MIG [0-9]+g\.([0-9]{1,4})gb\S*.*\(UUID: (MIG-[^)]+)\)", line)
        if inside and piece:
            total = int(SLICE_SHARE * int(piece[1]) * GIB)
            name = f"{gpu.name} MIG {piece[1]}GB"
            found.append(Gpu(piece[2], name, total, None, gpu.compute_capability, gpu.driver))
    return found


def _visible(gpus: Sequence[Gpu], visible: str | None) -> list[Gpu]:
    """Chooses as CUDA does: by index or by the beginning of a UUID; the list ends at the first that is none.

    A process sees one MIG slice at most, the first where none is named.
    Source: CUDA C++ Programming Guide, environment variables; MIG user guide, device enumeration.
    """
    if visible is None:
        chosen = list(gpus)
    else:
        chosen = []
        for word in (word.strip() for word in visible.split(",")):
            named = [gpu for gpu in gpus if word.startswith(("GPU-", "MIG-")) and gpu.uuid.startswith(word)]
            if word.isdecimal() and word.isascii() and len(word) <= 4 and int(word) < len(gpus):
                named = [gpus[int(word)]]
            if len(named) != 1 or named[0] in chosen:
                break
            chosen += named
    slices = [gpu for gpu in chosen if gpu.uuid.startswith("MIG-")]
    return slices[:1] or chosen

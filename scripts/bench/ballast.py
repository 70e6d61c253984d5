"""Makes a smaller card of a larger one: memory is taken outside of PyTorch's pool until only the card's own is free.

Then out of memory is what it is on the card: for PyTorch, for cuBLAS, for Triton's kernels, and for whatever sizes
itself by what is free. A limit on PyTorch's pool alone would show none of that.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from finetune.hardware import CONTEXT_BYTES, usable_bytes, wished

GIB = 2**30

CHUNK_BYTES = 4 * GIB
"""Of one allocation; a card's memory need not be free in one piece."""

GRANULARITY = 2 * 2**20
"""CUDA hands memory out in pieces of 2 MiB: less than that cannot be aimed at."""

NOT_EMULATED = (
    "speed: this GPU's own is measured; project it by FLOP and bytes, and call it a projection",
    "99 KiB of shared memory a block, by which Triton kernels choose other tiles on consumer cards",
    "the slot: copies run over this machine's PCIe",
    "a display that holds memory of its own",
    "the size of cuBLAS' workspace, which follows the architecture",
    "which backward of attention PyTorch takes for heads of 256",
)
"""What a smaller card would do otherwise than this emulation of it."""


def free_bytes_of(card: str) -> int:
    """Tells what a card leaves to PyTorch once CUDA has started, to a tenth of a GiB: 22.8 of 24, 21.4 of an A10."""
    free = usable_bytes(wished(card).gpu_bytes) - CONTEXT_BYTES
    return round(round(free / GIB, 1) * GIB)


def next_chunk(free: int, wanted: int) -> int:
    """Tells how much to take next so that `wanted` bytes stay free; 0 when they are, as nearly as can be."""
    over = min(CHUNK_BYTES, free - wanted)
    return max(0, over // GRANULARITY * GRANULARITY)


@dataclass
class Ballast:
    """What is held so that the card looks smaller."""

    allocate: Callable[[int], int]
    """Takes memory of the device and gives its address."""
    release: Callable[[int], None]
    addresses: list[int] = field(default_factory=list)
    num_bytes: int = 0

    def load(self, free: Callable[[], int], wanted: int) -> None:
        """Takes memory until no more than `wanted` bytes, and less than 2 MiB, are free."""
        while size := next_chunk(free(), wanted):
            self.addresses.append(self.allocate(size))
            self.num_bytes += size

    def drop(self) -> None:
        """Gives everything back."""
        while self.addresses:
            self.release(self.addresses.pop())
        self.num_bytes = 0


def on_cuda() -> Ballast:
    """Gives a ballast that is made by cudaMalloc of the library that torch itself runs on.

    Raises:
        RuntimeError: there is no libcudart to call, or it refuses.
    """
    torch.cuda.init()
    torch.empty(1, device="cuda")  # the context
    library = ctypes.CDLL(_cudart(Path("/proc/self/maps").read_text(), torch.version.cuda or ""))

    def allocate(size: int) -> int:
        address = ctypes.c_void_p()
        _check(library.cudaMalloc(ctypes.byref(address), ctypes.c_size_t(size)), f"cudaMalloc of {size:,} bytes")
        assert address.value is not None
        return address.value

    def release(address: int) -> None:
        _check(library.cudaFree(ctypes.c_void_p(address)), "cudaFree")

    return Ballast(allocate, release)


def _cudart(maps: str, version: str) -> str:
    """Finds the CUDA runtime that is loaded already; a second one would do, but it would be a second one."""
    loaded = re.search(r"(/\S*libcudart[^/\s]*\.so\S*)", maps)
    return loaded[1] if loaded else f"libcudart.so.{version.split('.')[0]}"


def _check(status: int, what: str) -> None:
    if status:
        raise RuntimeError(f"{what} failed with CUDA error {status}")


def free_now() -> int:
    """Bytes of the device that nobody holds."""
    free: int = torch.cuda.mem_get_info()[0]
    return free

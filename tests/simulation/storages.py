"""Counts the bytes of every tensor storage that lives while code runs on tensors that hold no data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

ROUNDING = 512
"""Bytes to whose multiple CUDA's caching allocator rounds. Source: kMinBlockSize, c10/cuda/CUDACachingAllocator."""


@dataclass
class Born:
    """A storage that was alive at the peak."""

    operation: str
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int


@dataclass
class Storages(TorchDispatchMode):
    """Watches every operation; what it returns is a new storage, or a view of one that is known."""

    static: set[StorageWeakRef] = field(default_factory=set)
    live: dict[StorageWeakRef, Born] = field(default_factory=dict)
    now: int = 0
    peak: int = 0
    at_peak: list[Born] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.forget_dead()
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, torch.Tensor):
                self._see(tensor, str(func))
        if self.now > self.peak:
            self.peak, self.at_peak = self.now, list(self.live.values())
        return out

    def forget_dead(self) -> None:
        """Takes the storages off that nobody holds any more."""
        for ref in [ref for ref in self.live if ref.expired()]:
            self.now -= self.live.pop(ref).num_bytes

    def forget(self, tensor: torch.Tensor) -> None:
        """Counts a storage no more, from here on and at the peak so far."""
        ref = StorageWeakRef(tensor.untyped_storage())
        self.now -= self.live.pop(ref).num_bytes
        self.static.add(ref)
        self.peak = self.now

    def _see(self, tensor: torch.Tensor, operation: str) -> None:
        storage = tensor.untyped_storage()
        ref = StorageWeakRef(storage)
        if ref in self.live or ref in self.static or tensor.device.type != "cpu":
            return
        num_bytes = -(-storage.nbytes() // ROUNDING) * ROUNDING
        self.live[ref] = Born(operation, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), num_bytes)
        self.now += num_bytes


@contextmanager
def fake() -> Iterator[FakeTensorMode]:
    """Lets code run on tensors that have shapes and no data."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode

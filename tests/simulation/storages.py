"""Counts the bytes of every tensor storage that lives while code runs on tensors that hold no data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

ROUNDING = 512
"""Bytes to whose multiple CUDA's caching allocator rounds. Source: kMinBlockSize, c10/cuda/CUDACachingAllocator."""


def fake() -> FakeTensorMode:
    """Lets code run on tensors that have shapes and no data."""
    return FakeTensorMode(allow_non_fake_inputs=True)


@dataclass(frozen=True)
class Born:
    """A storage, and the operation that made it."""

    operation: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    num_bytes: int


class Storages(TorchDispatchMode):
    """Watches every operation; what it returns is a new storage, or a view of one that is known."""

    def __init__(self, static: Iterable[torch.Tensor]) -> None:
        """Watches everything but the given tensors, which were there before."""
        super().__init__()
        self.static = {StorageWeakRef(tensor.untyped_storage()) for tensor in static}
        self.live: dict[StorageWeakRef, Born] = {}
        self.now = self.peak = 0
        self.at_peak: list[Born] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._bury()
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":  # others are on meta
                self.see(tensor, str(func))
        if self.now > self.peak:
            self.peak, self.at_peak = self.now, list(self.live.values())
        return out

    def begin(self) -> None:
        """Begins the search for the peak here, with what is alive."""
        self._bury()
        self.peak, self.at_peak = self.now, list(self.live.values())

    def _bury(self) -> None:
        for ref in [ref for ref in self.live if ref.expired()]:
            self.now -= self.live.pop(ref).num_bytes

    def see(self, tensor: torch.Tensor, operation: str = "") -> None:
        """Counts a tensor's storage from here on, if it is not known yet."""
        storage = tensor.untyped_storage()
        ref = StorageWeakRef(storage)
        if ref in self.live or ref in self.static:
            return
        num_bytes = -(-storage.nbytes() // ROUNDING) * ROUNDING
        self.live[ref] = Born(operation, tuple(tensor.shape), tensor.dtype, num_bytes)
        self.now += num_bytes

"""Keeps the inputs that backward recomputes from in host memory, while the GPU goes on.

A checkpoint's input leaves for the host while its own layer runs forward, and is back before backward needs it: while
one layer is recomputed, the input of the one before it is under way. So two are on the device at most, and the copies
hide behind the layers (27B, 16k tokens: 160 MiB, 7 ms at 25 GB/s; a layer's forward is 12.5 TFLOP, 76 ms at the
165 TFLOP/s of an RTX 4090).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from finetune.experts.again import passes

ALIGNMENT = 512
"""Bytes that a tensor's place in a slab is a multiple of."""

Function = Callable[[torch.Tensor], torch.Tensor]


class HostCheckpoints:
    """Runs functions under activation checkpointing, each input kept on the host until backward wants it.

    Host bytes held, pinned where there is a GPU: inputs of a forward x the largest input of any so far. They lie in one
    slab that every forward fills anew; a longer batch replaces it by a larger one, so let the longest batch come first.
    The slab is registered with CUDA to the byte, because PyTorch's pinned allocator rounds each block up to a power of
    two (torch 2.13, ATen/core/CachingHostAllocator.h, `allocate`): 160 MiB would hold 256.

    What a stage left behind is never in the way: a place is taken as long as the graph that will read it lives, and
    free when that graph dies, by backward or by an exception.
    """

    def __init__(self, num_inputs: int) -> None:
        """Prepares for forwards of so many checkpoints each, all of one shape. Nothing is allocated yet."""
        self.num_inputs = num_inputs
        self._slabs: list[_Slab] = []
        self._stream: torch.cuda.Stream | None = None
        self._sent: torch.cuda.Event | None = None
        self._newest: weakref.ref[_Kept] | None = None

    @property
    def host_bytes(self) -> int:
        """Bytes held now."""
        return sum(len(slab.memory) for slab in self._slabs)

    def run(self, function: Function, hidden: torch.Tensor) -> torch.Tensor:
        """Gives function(hidden), to be recomputed in backward with the same random numbers.

        torch's checkpoint saves its input under the hooks that are on top when it is called, and everything else
        under its own: these hooks see the input alone.
        """
        with saved_tensors_hooks(self._keep, self._bring):
            try:
                out: torch.Tensor = checkpoint(function, hidden, use_reentrant=False, context_fn=passes)
            finally:
                if self._sent is not None:  # whoever frees the input now may not write over it before it has left
                    torch.cuda.current_stream(hidden.device).wait_event(self._sent)
                    self._sent = None
        return out

    def _keep(self, tensor: torch.Tensor) -> _Kept:
        if tensor.is_cuda and self._stream is None:
            self._stream = torch.cuda.Stream(tensor.device)
        slab = self._slab_with(_aligned(tensor))
        kept = _Kept(slab, slab.place(tensor), tensor.device, self._newest)
        self._newest = weakref.ref(kept)
        self._sent = _copy(tensor.detach(), kept.host, self._stream)
        return kept

    def _bring(self, kept: _Kept) -> torch.Tensor:
        tensor, arrived = kept.returning or self._fetch(kept)
        kept.returning = None
        if arrived is not None:
            torch.cuda.current_stream(kept.device).wait_event(arrived)
        before = kept.before() if kept.before is not None else None
        if before is not None and before.returning is None:
            before.returning = self._fetch(before)
        return tensor

    def _fetch(self, kept: _Kept) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        tensor = torch.empty(kept.host.shape, dtype=kept.host.dtype, device=kept.device)
        return tensor, _copy(kept.host, tensor, self._stream)

    def _slab_with(self, num_bytes: int) -> _Slab:
        """Finds a slab with room, or makes one for a whole forward of such inputs."""
        if not any(slab.num_taken for slab in self._slabs):
            del self._slabs[:-1]  # two graphs at once, or one that outlived an exception, had needed more
        for slab in self._slabs:
            if slab.has_room(num_bytes if slab.num_taken else num_bytes * self.num_inputs):
                return slab
        self._slabs = [slab for slab in self._slabs if slab.num_taken]
        self._slabs.append(_Slab(num_bytes * self.num_inputs, self._stream))
        return self._slabs[-1]


class _Slab:
    """Host memory that is filled from its start, and from its start again once all that lay in it is given up."""

    def __init__(self, num_bytes: int, stream: torch.cuda.Stream | None) -> None:
        self.memory = torch.empty(num_bytes, dtype=torch.uint8)
        self.used = 0
        self.num_taken = 0
        if stream is not None:
            address = self.memory.data_ptr()
            torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(address, num_bytes, 0))
            weakref.finalize(self, _unregister, address, stream).atexit = False

    def has_room(self, num_bytes: int) -> bool:
        """Tells whether so many bytes fit behind what lies here."""
        return (self.used if self.num_taken else 0) + num_bytes <= len(self.memory)

    def place(self, tensor: torch.Tensor) -> torch.Tensor:
        """Takes room for a tensor, and gives it in the tensor's shape and dtype."""
        start = self.used if self.num_taken else 0
        self.used = start + _aligned(tensor)
        self.num_taken += 1
        return self.memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)


class _Kept:
    """An input on the host. It lives as long as the graph that will read it, and then gives its place up."""

    def __init__(
        self, slab: _Slab, host: torch.Tensor, device: torch.device, before: weakref.ref[_Kept] | None
    ) -> None:
        self.slab, self.host, self.device = slab, host, device
        self.before = before
        """The input that was kept just before, and is wanted just after."""
        self.returning: tuple[torch.Tensor, torch.cuda.Event | None] | None = None
        """Its copy on the device, and when that is complete."""

    def __del__(self) -> None:
        self.slab.num_taken -= 1
        if self.returning is not None and self.returning[1] is not None:
            # nobody came for the copy: its memory may be used again only after it is written
            torch.cuda.current_stream(self.device).wait_event(self.returning[1])


def _copy(source: torch.Tensor, target: torch.Tensor, stream: torch.cuda.Stream | None) -> torch.cuda.Event | None:
    """Copies between host and device: at once on a CPU, otherwise on the stream, after the work queued so far.

    All copies are on one stream, so a place that is written again was read before.
    """
    if stream is None:
        target.copy_(source)
        return None
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    with torch.cuda.stream(stream):
        target.copy_(source, non_blocking=True)
        return stream.record_event()


def _unregister(address: int, stream: torch.cuda.Stream) -> None:
    stream.synchronize()
    torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(address))


def _aligned(tensor: torch.Tensor) -> int:
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


def on_device(function: Function, hidden: torch.Tensor) -> Any:
    """Gives function(hidden), to be recomputed in backward from an input that stays where it is."""
    return checkpoint(function, hidden, use_reentrant=False, context_fn=passes)

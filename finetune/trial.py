"""Tries the heavy packages one after the other, in a process of its own: what crashes or hangs here ends only this.

    python -P finetune/trial.py torch bitsandbytes

Each trial that succeeds prints one line, MARK and JSON. One that does not ends the process with its traceback; whoever
asked then asks again for the rest. Nothing in the package imports this file.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

MARK = "tried: "

PIECE_BYTES, COPIES = 64 * 2**20, 8
"""Of pinned memory, copied to the GPU to learn how fast its slot is."""


def try_torch() -> dict[str, Any]:
    """Imports torch and multiplies two bfloat16 matrices on the GPU, if torch sees one."""
    import torch

    told: dict[str, Any] = {"version": torch.__version__, "cuda": torch.version.cuda, "gpu": torch.cuda.is_available()}
    if told["gpu"]:
        ones = torch.ones(64, 64, dtype=torch.bfloat16, device="cuda")
        told["product"] = float((ones @ ones).sum())  # 64 ** 3; an architecture torch is not built for raises here
        told["nccl"] = ".".join(str(part) for part in torch.cuda.nccl.version())
    return told


def try_pinned() -> dict[str, Any]:
    """Copies pinned host memory to the GPU; WSL and some containers give out little of it."""
    import torch

    pinned = torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(PIECE_BYTES, dtype=torch.uint8, device="cuda")
    there.copy_(pinned, non_blocking=True)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(COPIES):
        there.copy_(pinned, non_blocking=True)
    end.record()
    end.synchronize()
    return {"bytes_per_second": COPIES * PIECE_BYTES / (begin.elapsed_time(end) / 1000)}


def try_attention() -> dict[str, Any]:
    """Runs flash attention forth and back with Qwen3.6's heads of 256 numbers."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    heads = torch.randn(3, 1, 4, 128, 256, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    query, key, value = heads  # each (example, head, token, head dimension)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True).sum().backward()
    assert heads.grad is not None
    return {"finite": bool(heads.grad.isfinite().all())}


def try_bitsandbytes() -> dict[str, Any]:
    """Quantises a weight to NF4 and back, where training will do it."""
    import torch
    from bitsandbytes import functional

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    packed, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    error = (functional.dequantize_4bit(packed, state) - weight).norm() / weight.norm()
    return {"device": device, "error": float(error)}


def try_fla() -> dict[str, Any]:
    """Imports the function that transformers calls; compiling its kernels is left to the first step."""
    return {"function": importlib.import_module("fla.ops.gated_delta_rule").chunk_gated_delta_rule.__name__}


def try_causal_conv1d() -> dict[str, Any]:
    """Convolves on the GPU and compares with torch on the CPU, which rounds nothing to TF32."""
    import torch

    signal = torch.randn(1, 8, 16)  # (example, channel, token)
    taps = torch.randn(8, 4)
    found = importlib.import_module("causal_conv1d").causal_conv1d_fn(signal.cuda(), taps.cuda())
    expected = torch.nn.functional.conv1d(signal, taps[:, None], padding=3, groups=8)[..., :16]
    return {"difference": float((found.cpu() - expected).abs().max())}


def try_deepspeed() -> dict[str, Any]:
    """Imports DeepSpeed, which looks for an accelerator."""
    return {"version": importlib.import_module("deepspeed").__version__}


def try_hub() -> dict[str, Any]:
    """Asks the Hub whose token this is and what it permits; the token itself is never told."""
    from huggingface_hub import HfApi

    told = HfApi().whoami()
    return {"name": told["name"], "role": told["auth"].get("accessToken", {}).get("role", told["auth"]["type"])}


TRIALS: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": try_torch,
    "pinned": try_pinned,
    "attention": try_attention,
    "bitsandbytes": try_bitsandbytes,
    "fla": try_fla,
    "causal_conv1d": try_causal_conv1d,
    "deepspeed": try_deepspeed,
    "hub": try_hub,
}


if __name__ == "__main__":
    for trial in sys.argv[1:]:
        print(MARK + json.dumps({trial: TRIALS[trial]()}), flush=True)

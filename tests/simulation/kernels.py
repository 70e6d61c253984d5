"""What the CUDA kernels of a training allocate, in the order of their source, and nothing of what they compute.

Sources: fla-core 0.6.0, ops/gated_delta_rule/chunk.py, chunk_fwd.py and wy_fast.py, ops/common/chunk_o.py and
chunk_delta_h.py, modules/norm/l2norm.py; causal-conv1d 1.7, causal_conv1d_interface.py; PyTorch 2.13,
transformers/cuda/flash_attn/flash_api.cpp and native/cuda/Dropout.cu; bitsandbytes 0.50.2, autograd/_functions.py and
backends/cuda/ops.py, for more than 1,536 tokens, from where on a matrix is dequantised whole.
"""

# ruff: noqa: F841 a name that is never read keeps its tensor alive, there as here

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import torch
from torch import nn

from finetune.experts.routing import Groups
from finetune.model.head import NF4Head

CHUNK = 64
"""Tokens of a chunk of Gated DeltaNet in fla."""


class CausalConv1d(torch.autograd.Function):
    """Depthwise convolution with silu inside: saves its input, returns one tensor of its size."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        if grad.stride(1) != 1 and grad.stride(2) != 1:
            grad = grad.contiguous()
        return torch.empty_like(x), torch.empty_like(weight) if ctx.needs_input_grad[1] else None


def causal_conv1d(x: torch.Tensor, weight: torch.Tensor, bias: Any = None, activation: Any = None, **_: Any) -> Any:
    return CausalConv1d.apply(x, weight)


class ChunkGatedDeltaRule(torch.autograd.Function):
    """fla's chunked rule: its locals live to the end of each function, as Python's do."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, g: Any, beta: Any) -> torch.Tensor:
        q, k, v, g, beta = (t.contiguous() for t in (q, k, v, g, beta))  # fla's input_guard
        batch, tokens, value_heads, width = v.shape
        q, q_rstd = torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=torch.float32)  # l2norm_fwd
        k, k_rstd = torch.empty_like(k), k.new_empty(k.shape[:-1], dtype=torch.float32)
        g = torch.empty_like(g, dtype=torch.float32)  # chunk_local_cumsum
        solved = k.new_zeros(batch, tokens, value_heads, CHUNK)  # chunk_gated_delta_rule_fwd_intra
        w, u = k.new_empty(batch, tokens, value_heads, k.shape[-1]), torch.empty_like(v)
        chunks = -(-tokens // CHUNK)
        h, v_new = k.new_empty(batch, chunks, value_heads, k.shape[-1], width), torch.empty_like(u)
        o = torch.empty_like(v)
        del w, u, h, v_new
        ctx.save_for_backward(q, q_rstd, k, k_rstd, v, g, beta, solved)
        return o

    @staticmethod
    def backward(ctx: Any, do: torch.Tensor) -> Any:
        q, _, k, _, v, g, beta, _ = ctx.saved_tensors
        dq, dk, dv, dg, db = _rule_backward(q, k, v, g, beta, do.contiguous())
        dq, dk = torch.empty_like(q), torch.empty_like(k)  # l2norm_bwd
        return dq, dk, dv, dg, db


def _rule_backward(q: Any, k: Any, v: Any, g: Any, beta: Any, do: Any) -> tuple[Any, ...]:
    """chunk_gated_delta_rule_bwd; a name that is bound anew there is bound anew here, when its function returned."""
    batch, tokens, value_heads, width = v.shape
    chunks, key_heads = -(-tokens // CHUNK), k.shape[2]

    def per_key_head(x: torch.Tensor) -> torch.Tensor:
        return x.view(batch, tokens, key_heads, -1, x.shape[-1]).sum(3) if key_heads != value_heads else x

    w, u = k.new_empty(batch, tokens, value_heads, k.shape[-1]), torch.empty_like(v)  # recompute_w_u_fwd
    h, v_new = k.new_empty(batch, chunks, value_heads, k.shape[-1], width), torch.empty_like(u)
    dv = torch.empty_like(do)  # chunk_bwd_dv_local
    dh, dv = torch.empty_like(h), torch.empty_like(dv)  # chunk_gated_delta_rule_bwd_dhu
    dq, dk = (q.new_empty(batch, tokens, value_heads, q.shape[-1]) for _ in range(2))  # chunk_bwd_dqkwg
    dg, dw = torch.empty((1, *g.shape), dtype=torch.float32), torch.empty_like(w)
    dq = per_key_head(dq)
    dk, dg = per_key_head(dk), dg.sum(0)
    dk2, dv_new = k.new_empty(batch, tokens, value_heads, k.shape[-1]), torch.empty_like(v)  # prepare_wy_repr_bwd
    dg2, db = torch.empty_like(g), torch.empty_like(beta)
    dk2, dv = per_key_head(dk2), dv_new
    dg = torch.empty_like(dg)  # chunk_local_cumsum
    return dq, dk, dv, dg, db


def chunk_gated_delta_rule(q: Any, k: Any, v: Any, g: Any, beta: Any, **_: Any) -> tuple[torch.Tensor, None]:
    return ChunkGatedDeltaRule.apply(q, k, v, g, beta), None


class FlashAttention(torch.autograd.Function):
    """Flash attention of fewer key than query heads: dk and dv are first made for every query head."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any) -> torch.Tensor:
        out = torch.empty_like(q.transpose(1, 2)).transpose(1, 2)
        lse = q.new_empty(q.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        q, k, v, _out, lse = ctx.saved_tensors
        dq, dk, dv = (torch.empty_like(t) for t in (q, k, v))
        softmax_d = torch.empty_like(lse)
        dq_accumulated = q.new_empty(q.shape, dtype=torch.float32)
        if k.shape[1] != q.shape[1]:  # summed into dk and dv, in place
            dk_expanded, dv_expanded = torch.empty_like(q), torch.empty_like(q)
            del dk_expanded, dv_expanded
        del softmax_d, dq_accumulated
        return dq, dk, dv


def flash_attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **_: Any) -> tuple[torch.Tensor, None]:
    query, key, value = (t.to(torch.bfloat16) for t in (query, key, value))  # autocast; nothing to do without DoRA
    return FlashAttention.apply(query, key, value).transpose(1, 2).contiguous(), None


class Dropout(nn.Dropout):
    """Dropout as CUDA does it: a copy, and a mask of one byte a number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.native_dropout(x, self.p, True)[0]


class Gemm4bit(torch.autograd.Function):
    """A product with an NF4 weight of training size: dequantised whole, then multiplied; again in backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, packed: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        ctx.shape = shape
        nested = x.new_empty(shape[0] * shape[1] // 64, dtype=torch.float32)
        absmax = nested + 0  # the offset of double quantisation
        weight = x.new_empty(shape)
        out = torch.nn.functional.linear(x, weight)
        del nested, absmax, weight
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return torch.matmul(grad, dequantised(ctx.shape, grad)), None, None


def dequantised(shape: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
    """bitsandbytes.functional.dequantize_4bit: the maxima of the blocks in float32, then the matrix."""
    absmax = like.new_empty(shape[0] * shape[1] // 64, dtype=torch.float32)
    absmax += 0  # the offset of double quantisation
    return like.new_empty(shape)


class Linear4bit(bnb.nn.Linear4bit):
    """bitsandbytes' layer with a weight that has bytes but no values."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        packed = torch.empty((self.out_features * self.in_features // 2, 1), dtype=torch.uint8)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.weight.compress_statistics, self.weight.quant_type = True, "nf4"
        self.bias, self.compute_dtype, self.quant_state = None, torch.bfloat16, None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Gemm4bit.apply(x.to(torch.bfloat16), self.weight, (self.out_features, self.in_features))


def dequantised_module(module: Any) -> torch.Tensor:
    """peft.utils.integrations.dequantize_module_weight, which DoRA calls."""
    weight: torch.Tensor = module.weight
    if not isinstance(module, Linear4bit):
        return weight
    return dequantised((module.out_features, module.in_features), weight.new_empty(0, dtype=torch.bfloat16))


def restore_nf4_tile(head: NF4Head, start: int, out: torch.Tensor) -> None:
    """finetune.model.head.NF4Head on CUDA, where bitsandbytes fills the tile that it is given."""
    out.new_empty(out.numel() // 64, dtype=torch.float32)


def sort_rows_evenly(index: torch.Tensor, num_experts: int) -> tuple[torch.Tensor, Groups]:
    """finetune.experts.routing.sort_rows, when every expert is chosen as often as every other."""
    flat = index.reshape(-1)
    groups = Groups.counted(flat.new_empty(num_experts))
    groups.__dict__["bounds"] = [len(flat) * expert // num_experts for expert in range(num_experts + 1)]
    return torch.argsort(flat, stable=True), groups


def code(kind: str, device: torch.device) -> torch.Tensor:
    """finetune.experts.stacks, which keeps its tables for ever; these must not outlive the simulation."""
    return torch.empty({"nf4": 16, "dynamic": 256}[kind], device=device)


class Functional:
    """What finetune.experts.lora asks of torch.nn.functional, dropout as CUDA does it."""

    pad = staticmethod(nn.functional.pad)

    @staticmethod
    def dropout(x: torch.Tensor, share: float, training: bool) -> torch.Tensor:
        return torch.native_dropout(x, share, training)[0] if share else x


def add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """finetune.model.losses on CUDA, where cuBLAS adds a product of bfloat16 to a float32 total in place."""

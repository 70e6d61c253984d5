"""What the CUDA kernels of a training allocate, in the order of their source, and nothing of what they compute.

Sources: fla-core 0.6.0, ops/gated_delta_rule/chunk.py, ops/common/chunk_o.py, ops/common/chunk_delta_h.py,
modules/norm/l2norm.py; causal-conv1d 1.7, causal_conv1d_interface.py; PyTorch 2.13, flash_attn/flash_api.cpp;
bitsandbytes 0.50.2, autograd/_functions.py and backends/cuda/ops.py.
"""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import torch
from torch import nn

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
        x, _ = ctx.saved_tensors
        if grad.stride(1) != 1 and grad.stride(2) != 1:
            grad = grad.contiguous()
        return torch.empty_like(x), None


def causal_conv1d(x: torch.Tensor, weight: torch.Tensor, bias: Any = None, activation: Any = None, **_: Any) -> Any:
    return CausalConv1d.apply(x, weight)


class ChunkGatedDeltaRule(torch.autograd.Function):
    """fla's chunked rule: its locals live to the end of each function, as Python's do."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, g: Any, beta: Any) -> torch.Tensor:
        q, k, v, g, beta = (t.contiguous() for t in (q, k, v, g, beta))  # fla's input_guard
        batch, tokens, value_heads, width = v.shape
        q, q_rstd = torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=torch.float32)  # l2norm
        k, k_rstd = torch.empty_like(k), k.new_empty(k.shape[:-1], dtype=torch.float32)
        g = torch.empty_like(g, dtype=torch.float32)  # cumulated
        solved = k.new_zeros(batch, tokens, value_heads, CHUNK)
        w, u = k.new_empty(batch, tokens, value_heads, k.shape[-1]), torch.empty_like(v)
        chunks = -(-tokens // CHUNK)
        h, v_new = k.new_empty(batch, chunks, value_heads, k.shape[-1], width), torch.empty_like(u)
        o = torch.empty_like(v)
        del w, u, h, v_new
        ctx.save_for_backward(q, q_rstd, k, k_rstd, v, g, beta, solved)
        return o

    @staticmethod
    def backward(ctx: Any, do: torch.Tensor) -> Any:
        q, q_rstd, k, k_rstd, v, g, beta, solved = ctx.saved_tensors
        do = do.contiguous()
        batch, tokens, value_heads, width = v.shape
        chunks, key_heads = -(-tokens // CHUNK), k.shape[2]
        w, u = k.new_empty(batch, tokens, value_heads, k.shape[-1]), torch.empty_like(v)
        h, v_new = k.new_empty(batch, chunks, value_heads, k.shape[-1], width), torch.empty_like(u)
        dv = torch.empty_like(do)
        dh, dv2 = torch.empty_like(h), torch.empty_like(dv)
        dv = dv2
        dq = q.new_empty(batch, tokens, value_heads, q.shape[-1])
        dk = torch.empty_like(dq)
        dg, dw = torch.empty((1, *g.shape), dtype=torch.float32), torch.empty_like(w)
        grouped = key_heads != value_heads

        def per_key_head(x: torch.Tensor) -> torch.Tensor:
            return x.view(batch, tokens, key_heads, -1, x.shape[-1]).sum(3) if grouped else x

        dq, dk, dg = per_key_head(dq), per_key_head(dk), dg.sum(0)
        dk2, dv3, dg2, db = torch.empty_like(dw), torch.empty_like(v), torch.empty_like(g), torch.empty_like(beta)
        dk2 = per_key_head(dk2)
        dg = torch.empty_like(dg)
        del w, u, h, v_new, dh, dv, dv2, dw, dk2, dg2
        return torch.empty_like(q), torch.empty_like(k), dv3, dg, db


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
        if k.shape[1] != q.shape[1]:
            dk_expanded, dv_expanded = torch.empty_like(q), torch.empty_like(q)
            torch.sum(dk_expanded.view(*k.shape[:2], -1, *k.shape[2:]), 2)
            torch.sum(dv_expanded.view(*v.shape[:2], -1, *v.shape[2:]), 2)
            del dk_expanded, dv_expanded
        del softmax_d, dq_accumulated
        return dq, dk, dv


def flash_attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **_: Any) -> tuple[torch.Tensor, None]:
    return FlashAttention.apply(query, key, value).transpose(1, 2).contiguous(), None


class Gemm4bit(torch.autograd.Function):
    """A product with an NF4 weight of training size: dequantised whole, then multiplied; again in backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, packed: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        ctx.shape = shape
        return torch.nn.functional.linear(x, dequantised(shape, x))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return torch.matmul(grad, dequantised(ctx.shape, grad)), None, None


def dequantised(shape: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
    absmax = like.new_empty(shape[0] * shape[1] // 64, dtype=torch.float32)
    absmax = absmax + 0  # the offset of double quantisation
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

"""Keeps examples that lie end to end apart in Gated DeltaNet, where transformers by itself would refuse to.

transformers 5.23 looks for two packages: fla, whose rule takes borders, and causal_conv1d, whose convolution takes each
token's example. Without the first or the second it raises (integrations/hub_kernels.py,
use_kernel_func_from_hub_with_fallback). Two functions of its modelling modules are replaced here, and nowhere else:

    on a GPU    the convolution, if causal_conv1d is not installed, by fla's own, which needs no compiler
    on a CPU    both, by transformers' own torch reference on one example after the other: exact, and slow

Without borders both do what transformers does. Known upstream as transformers issue 46093. No longer needed once
transformers keeps segments apart in its reference; tests/integration/test_packing.py fails on that day.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

MODELLING = ("qwen3_5", "qwen3_5_moe")

CONVOLUTION, RULE = "causal_conv1d_fn", "torch_chunk_gated_delta_rule"
"""The names under which both modules call them."""

BORDERS = "cu_seq_lens_q"
"""transformers' name for where examples begin and end, (examples + 1,)."""


def keep_apart(device: str) -> dict[str, str]:
    """Makes sure that both parts of Gated DeltaNet heed borders; the second call changes nothing.

    Args:
        device: that the layers run on, cpu or cuda.

    Returns:
        For each part, who keeps examples apart.
    """
    if device == "cpu":
        piecewise = "transformers' torch reference, one example after the other"
        _replace(CONVOLUTION, _convolve_each)
        _replace(RULE, _apply_each)
        return {"causal_conv1d": piecewise, "gated_delta_rule": piecewise}
    if importlib.util.find_spec("causal_conv1d") is not None:
        return {"causal_conv1d": "causal_conv1d", "gated_delta_rule": "fla"}
    _replace(CONVOLUTION, _convolve_by_fla)
    return {"causal_conv1d": "fla", "gated_delta_rule": "fla"}


def _replace(name: str, by: Callable[..., Any]) -> None:
    for model in MODELLING:
        module = importlib.import_module(f"transformers.models.{model}.modeling_{model}")
        upstream = getattr(module, name)
        if not hasattr(upstream, "keeps_apart"):
            replaced = by(upstream)
            replaced.keeps_apart = True
            setattr(module, name, replaced)


def _convolve_each(upstream: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @wraps(upstream)
    def convolution(mixed: torch.Tensor, *weights: Any, **context: Any) -> torch.Tensor:
        """Takes and gives (1, channels, tokens)."""
        borders = context.pop(BORDERS, None)
        if borders is None:
            return upstream(mixed, *weights, **context)
        del context["seq_idx"]
        pieces = mixed.split(borders.diff().tolist(), dim=2)
        return torch.cat([upstream(piece, *weights, **context) for piece in pieces], dim=2)

    return convolution


def _apply_each(upstream: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(upstream)
    def rule(*vectors: torch.Tensor, cu_seqlens: torch.Tensor | None = None, **context: Any) -> Any:
        """Takes query, key and value, (1, tokens, heads, width), and among the rest g and beta, (1, tokens, heads)."""
        if cu_seqlens is None:
            return upstream(*vectors, **context)
        gates = context.pop("g"), context.pop("beta")
        del context["seq_idx"]
        lengths = cu_seqlens.diff().tolist()
        pieces = zip(*(tensor.split(lengths, dim=1) for tensor in (*vectors, *gates)), strict=True)
        outs = [upstream(q, k, v, g=g, beta=beta, **context)[0] for q, k, v, g, beta in pieces]
        return torch.cat(outs, dim=1), None  # each begins without a state, and nobody asks for the last

    return rule


def _convolve_by_fla(upstream: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    from fla.modules.causal_conv1d import causal_conv1d

    @wraps(upstream)
    def convolution(
        mixed: torch.Tensor, weight: torch.Tensor, bias: Any = None, activation: Any = None, **context: Any
    ) -> torch.Tensor:
        """Takes and gives (1, channels, tokens), which fla wants the other way round: a view, as it came from one."""
        borders = context.get(BORDERS)
        if borders is None:
            return upstream(mixed, weight, bias, activation=activation, **context)
        out, _ = causal_conv1d(mixed.transpose(1, 2), weight, bias, activation=activation, cu_seqlens=borders)
        return out.transpose(1, 2)

    return convolution

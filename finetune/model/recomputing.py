"""Forgets what the layers computed and computes it again in backward: a layer at a time, or half a layer at a time.

In halves, a layer's feed-forward is recomputed and its backward done before its mixer is recomputed, so that the
activations of one half at most are alive. The work is the same; each layer keeps two inputs instead of one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from finetune.levers import Levers
from finetune.model.offloading import Function, HostCheckpoints, on_device
from finetune.model.parts import causal_of

Run = Callable[[Function, torch.Tensor], torch.Tensor]


def recompute(model: Any, levers: Levers) -> HostCheckpoints | None:
    """Puts the layers of a text model under activation checkpointing, while they train.

    Instead of `gradient_checkpointing` of the trainer, which must be off. Outside of training mode nothing changes.

    Args:
        model: the causal language model, with or without adapters around it.
        levers: of which `recompute` and `checkpoints` are read.

    Returns:
        What keeps the inputs on the host, if that is where they go.
    """
    layers = causal_of(model).model.layers
    halves = levers.recompute == "halves"
    host = HostCheckpoints(len(layers) * (2 if halves else 1)) if levers.checkpoints == "host" else None
    run: Run = on_device if host is None else host.run
    for layer in layers:
        if halves:
            layer.forward = partial(_forward_in_halves, layer, run)
        else:  # transformers' own mechanism, modeling_layers.py: the layer's forward goes through this function
            layer._gradient_checkpointing_func = run
            layer.gradient_checkpointing = True
    return host


def _forward_in_halves(layer: Any, run: Run, hidden_states: torch.Tensor, **context: Any) -> torch.Tensor:
    """Does what the layer's class does in `forward`, and in training mode in two checkpoints.

    Args:
        layer: a decoder layer, dense or a mixture of experts.
        run: calls a function under a checkpoint.
        hidden_states: (batch, tokens, hidden).
        context: what transformers hands every layer: position embeddings, mask, positions, cache.

    Raises:
        ValueError: a cache was given; recomputing would fill it a second time.
    """
    if not layer.training:
        forward: torch.Tensor = type(layer).forward(layer, hidden_states, **context)
        return forward
    if context["past_key_values"] is not None:
        raise ValueError("a layer that is recomputed cannot fill a cache: call the model with use_cache=False")
    mixed = run(partial(_mix, layer, **context), hidden_states)
    return run(partial(_feed_forward, layer), mixed)


def _mix(
    layer: Any,
    hidden_states: torch.Tensor,
    *,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    past_key_values: None,
    **context: Any,
) -> torch.Tensor:
    """Adds what the other tokens tell.

    Source: transformers 5.23, Qwen3_5DecoderLayer.forward and Qwen3_5MoeDecoderLayer.forward, which are the same here.
    """
    states = layer.input_layernorm(hidden_states)
    if layer.block_type == "linear_attention":
        told = layer.linear_attn(
            hidden_states=states, cache_params=past_key_values, attention_mask=attention_mask, **context
        )
    else:
        told, _ = layer.self_attn(
            hidden_states=states,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            position_embeddings=position_embeddings,
            **context,
        )
    mixed: torch.Tensor = hidden_states + told
    return mixed


def _feed_forward(layer: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """Adds what the token itself tells; a mixture of experts answers with a tensor too, since transformers 5."""
    fed: torch.Tensor = hidden_states + layer.mlp(layer.post_attention_layernorm(hidden_states))
    return fed

"""Runs real layers and the real loss forward and backward on tensors without data, and finds the peak."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finetune.model import QuantisedHead, recompute, token_losses
from simulation.model import Setting, build, on_cuda, take_off_meta
from simulation.storages import Born, Storages, fake

NO_CONTEXT: dict[str, None] = {"attention_mask": None, "position_ids": None, "past_key_values": None}


@dataclass(frozen=True)
class Peak:
    """The most bytes that lived, beside those that were there before."""

    num_bytes: int
    alive: list[Born]
    host_bytes: int = 0
    """What lay in host memory, not counted above."""


def layer_peak(setting: Setting, kind: str) -> Peak:
    """Watches one layer's backward; its weights, its input and its output do not count.

    Args:
        setting: of the training.
        kind: `linear_attn` or `self_attn`.
    """
    with _model(setting) as (model, rotary):
        layers = [next(each for each in model.model.layers if hasattr(each, kind))]
        hidden = _input(setting).requires_grad_()
        return _backward(setting, layers, [hidden], rotary, model, Storages([*_tensors(model), hidden, *rotary]))


def stack_peak(setting: Setting) -> Peak:
    """Watches the backward of four layers, whose inputs and rotary tables count too."""
    with _model(setting) as (model, rotary):
        watch = Storages(_tensors(model))
        inputs = [_input(setting)]
        for tensor in (*inputs, *rotary):
            watch.see(tensor)
        del tensor
        return _backward(setting, model.model.layers, inputs, rotary, model, watch)


def loss_peaks(setting: Setting) -> dict[str, int]:
    """Watches the final norm and the loss of every token, on the base's own vocabulary; the layers' output counts not.

    Returns:
        The peaks of forward and of backward, by the names of finetune.memory.loss_moments.
    """
    tokens = setting.tokens * setting.micro_batch
    head = _head(setting)
    with fake(), on_cuda(setting):
        norm = build(setting).model.norm
        take_off_meta(head)
        hidden = _input(setting)
        everything, targets = torch.arange(tokens), torch.zeros(tokens, dtype=torch.int64)
        watch = Storages([*_tensors(norm), *_tensors(head), hidden, everything, targets])
        with watch:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = _loss(norm, hidden.requires_grad_(), everything, head, targets)
            forward = watch.peak
            watch.begin()
            loss.backward()
        return {"loss: forward": forward, "loss: backward": watch.peak}


def _head(setting: Setting) -> nn.Module:
    hidden, vocabulary, kind = setting.widths.hidden, setting.widths.vocabulary, setting.levers.head
    if kind == "full":
        dtype = torch.bfloat16 if setting.rank else torch.float32
        return nn.Linear(hidden, vocabulary, bias=False, dtype=dtype, device="meta").requires_grad_(not setting.rank)
    return QuantisedHead.empty(vocabulary, hidden, kind=kind, dtype=torch.bfloat16, device="meta")


def _loss(norm: nn.Module, hidden: Tensor, everything: Tensor, head: nn.Module, targets: Tensor) -> Tensor:
    """Does what finetune.model.causal_losses does, which cannot know without data how many tokens are learnt."""
    normed = norm(hidden)  # held to the end, as it is there
    states = normed.reshape(-1, normed.shape[-1]).index_select(0, everything)
    return token_losses(states, head, targets).nll.sum()


class _Seed(torch.autograd.Function):
    """Stands for all that follows a layer: its backward makes the gradient of the output, which nobody else holds."""

    @staticmethod
    def forward(ctx: Any, out: Tensor) -> Tensor:
        ctx.like = out.shape, out.dtype
        return out.new_empty(())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        shape, dtype = ctx.like
        return torch.empty(shape, dtype=dtype)


@contextmanager
def _model(setting: Setting) -> Iterator[tuple[Any, tuple[Tensor, Tensor]]]:
    with fake(), on_cuda(setting):
        model = build(setting)
        positions = torch.arange(setting.tokens).view(1, 1, -1).expand(3, setting.micro_batch, -1)
        yield model, model.model.rotary_emb(_input(setting), positions)


def _input(setting: Setting) -> Tensor:
    return torch.empty(setting.micro_batch, setting.tokens, setting.widths.hidden, dtype=torch.bfloat16)


def _backward(
    setting: Setting, layers: Any, inputs: list[Tensor], rotary: tuple[Tensor, ...], model: Any, watch: Storages
) -> Peak:
    """Runs the layers; of the one input, which is taken out of its list, nobody but the graph keeps hold."""
    host = recompute(model, setting.levers)
    hidden = inputs.pop()
    with watch:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for layer in layers:
                hidden = layer(hidden, position_embeddings=rotary, **NO_CONTEXT)
            seed = _Seed.apply(hidden)
        del hidden
        watch.begin()
        seed.backward()
    on_host = 0 if host is None else host.host_bytes  # the slab was there from begin to end
    return Peak(watch.peak - on_host, watch.at_peak, on_host)


def _tensors(module: nn.Module) -> list[Tensor]:
    found = [*module.parameters(), *module.buffers()]
    return found + [p.grad for p in module.parameters() if p.grad is not None]

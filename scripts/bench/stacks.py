"""What is compared: our own stack under a set of levers, and plain trl with the same weights in the same model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from trl.trainer.utils import add_fused_lm_head

from bench.weights import let_layers_be, trained_of
from finetune.levers import Levers
from finetune.model import causal_losses, causal_of
from finetune.plan import Plan

Loss = Callable[[torch.Tensor], torch.Tensor]
"""Ids of shape (batch, tokens), of which every one is learnt -> the mean loss."""

TRL, TRL_LIGER, PLANNED = "trl", "trl with liger", "as planned"

LEVER_SETS: dict[str, Levers] = {
    "plain": Levers(),
    "embeddings on the host": Levers(embeddings="host"),
    "head in int8": Levers(head="int8"),
    "head in nf4": Levers(head="nf4"),
    "checkpoints on the host": Levers(checkpoints="host"),
    "halves": Levers(recompute="halves"),
    "adamw in 8 bits": Levers(optimizer="adamw_8bit"),
    "adamw in 8 bits, paged": Levers(optimizer="paged_adamw_8bit"),
    "all together": Levers("host", "nf4", "host", "halves", "paged_adamw_8bit"),
}
"""Our stack by name. One more is what the plan chooses for a length."""


def our_loss(model: Any, plan: Plan) -> Loss:
    """Gives the loss as `finetune train` computes it, in finetune/train/trainer.py."""

    def loss(ids: torch.Tensor) -> torch.Tensor:
        causal = causal_of(model)
        with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=plan.dtype == "bfloat16"):
            out = causal.model(input_ids=ids, use_cache=False)
            losses = causal_losses(out.last_hidden_state, ids, causal.lm_head)
        return losses.nll.sum() / len(losses.nll)

    return loss


def trl_loss(model: Any, plan: Plan) -> Loss:
    """Gives the loss as trl's SFTTrainer computes it, in trl/trainer/sft_trainer.py, compute_loss."""

    def loss(ids: torch.Tensor) -> torch.Tensor:
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids, "use_cache": False}
        with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=plan.dtype == "bfloat16"):
            out = model(**given, fused_lm_head=True)
        told: torch.Tensor = -out.log_probs.sum() / out.label_mask.sum().clamp(min=1)
        return told

    return loss


@contextmanager
def plain_trl(model: Any, plan: Plan) -> Iterator[Loss]:
    """Does to the model what SFTTrainer 1.16 does to one with adapters, and takes it back at the end.

    The model must have its vocabulary plain and on the device. Source: trl/trainer/sft_trainer.py, `__init__`.
    """
    causal, tuners = causal_of(model), [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    before = [tuner.cast_input_dtype_enabled for tuner in tuners]
    let_layers_be(model)
    causal.activation_checkpointing_enable()  # with its defaults, as transformers' Trainer calls it
    causal.enable_input_require_grads()
    add_fused_lm_head(causal, outputs=("log_probs", "entropy", "is_top1"))
    for tuner in tuners:
        tuner.cast_input_dtype_enabled = True  # PEFT's default
    for parameter in trained_of(model).values() if plan.quantisation else ():
        parameter.grad = None
        parameter.data = parameter.data.bfloat16()
    try:
        yield trl_loss(model, plan)
    finally:
        for parameter in trained_of(model).values():
            parameter.grad = None
            parameter.data = parameter.data.float()
        for tuner, wanted in zip(tuners, before, strict=True):
            tuner.cast_input_dtype_enabled = wanted
        del causal.forward
        causal.disable_input_require_grads()
        causal.activation_checkpointing_disable()
        let_layers_be(model)


def use_liger(model: Any) -> None:
    """Puts Liger's norms and SwiGLU into the model. It cannot be taken back, so whatever else is measured comes before.

    trl forbids its fused loss and brings its own.
    """
    from liger_kernel.transformers import apply_liger_kernel_to_qwen3_5

    apply_liger_kernel_to_qwen3_5(fused_linear_cross_entropy=False, model=causal_of(model))

"""Which code runs the Gated DeltaNet, whether its gradients are right here, and the torch reference where they are not.

transformers decides for each function alone: the rule may run on fla while the convolution, whose package has to be
compiled, runs on torch.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional
from transformers.models.qwen3_5 import modeling_qwen3_5
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe

from finetune.hardware import Hardware
from finetune.probes.packages import version_of
from finetune.probes.trials import is_miscompiled

MODELLING = (modeling_qwen3_5, modeling_qwen3_5_moe)
RULE, CONVOLUTION = "torch_chunk_gated_delta_rule", "causal_conv1d_fn"
"""Under these names transformers' layers look their functions up, whichever code stands behind them."""

REFERENCE = "torch reference"

INPUTS = ("q", "k", "v", "g", "beta")

WRONG = 0.03
"""Relative error of a gradient, by its norm, from which a kernel is called wrong.

bfloat16 rounds by 0.4 %, and a gradient here passes through a handful of roundings; what Triton miscompiles on Hopper
is off by a good part of its size.
"""

CHECKED_TOKENS = 512
KEY_HEADS, VALUE_HEADS, HEAD = 16, 48, 128
"""Of the 27B."""

Rule = Callable[..., Any]


@dataclass(frozen=True)
class Kernels:
    """What the layers of this run compute with."""

    rule: str
    """The package behind the gated delta rule, or "torch reference"."""
    convolution: str
    why: str
    """Why not both are fast; empty where they are."""
    errors: dict[str, float] | None
    """Of the rule's gradients against the reference in float32, by input; None where it is the reference."""

    def on(self, hardware: Hardware) -> Hardware:
        """Gives a machine with these kernels, for the plan."""
        rule, convolution = self.rule != REFERENCE, self.convolution != REFERENCE
        return replace(hardware, rule_kernel=rule, kernels=rule and convolution)


def choose(device: str, capability: tuple[int, int] | None) -> Kernels:
    """Finds out what runs here, and puts the torch reference in the place of a rule that is wrong or refuses to run."""
    rule, convolution = behind(RULE), behind(CONVOLUTION)
    triton = version_of("triton") or "0"
    why, errors = "", None
    if rule == REFERENCE:
        why = "fla is not installed" if importlib.util.find_spec("fla") is None else "fla cannot be imported"
    elif device != "cuda":
        why = f"{rule} needs a GPU"
    elif is_miscompiled(triton, capability) and version_of("tilelang") is None:
        why = f"Triton {triton} compiles the rule's backward wrongly on Hopper, and fla refuses: Triton 3.7.1 is right"
    else:
        errors, why = _checked(getattr(modeling_qwen3_5, RULE), device)
    if why and rule != REFERENCE:
        use_reference(RULE)
        rule = REFERENCE
    if rule == REFERENCE and convolution != REFERENCE:  # the plan knows no such pair
        use_reference(CONVOLUTION)
        convolution = REFERENCE
    elif convolution == REFERENCE and device == "cuda" and not why:
        why = "causal_conv1d is not installed, and needs a compiler"
    return Kernels(rule, convolution, why, errors)


def _checked(rule: Rule, device: str) -> tuple[dict[str, float] | None, str]:
    """Compares a rule with the reference: its errors, and what is wrong with it."""
    try:
        errors = gradient_errors(rule, device)
    except RuntimeError as error:  # fla, Triton and CUDA refuse with it
        return None, f"the rule's kernels do not run: {str(error).strip().splitlines()[0]}"
    worst = max(errors, key=lambda name: errors[name])
    if errors[worst] < WRONG:
        return errors, ""
    return errors, f"the rule's kernels are wrong: the gradient of {worst} is off by {errors[worst]:.1%}"


def behind(name: str) -> str:
    """Names the package whose function transformers calls under this name, whoever has wrapped it since.

    Source: transformers 5.23, integrations/hub_kernels.py, use_kernel_func_from_hub_with_fallback.
    """
    function = getattr(modeling_qwen3_5, name)
    while hasattr(function, "__wrapped__"):
        told = inspect.getclosurevars(function).nonlocals
        if "is_new_implementation" in told:
            return str(told["package"]) if told["is_new_implementation"] else REFERENCE
        function = function.__wrapped__
    return REFERENCE


def use_reference(name: str) -> None:
    """Puts transformers' own function in place of the package's."""
    for module in MODELLING:
        setattr(module, name, reference(getattr(module, name)))


def reference(function: Rule) -> Rule:
    """Gives transformers' own function, whether a package's stands before it or not."""
    own: Rule = inspect.unwrap(function)
    return own


def gradient_errors(
    rule: Rule,
    device: str,
    *,
    tokens: int = CHECKED_TOKENS,
    heads: tuple[int, int, int] = (KEY_HEADS, VALUE_HEADS, HEAD),
) -> dict[str, float]:
    """Gives the relative errors of a rule's gradients in bfloat16, against the torch reference in float32.

    Args:
        rule: to be checked.
        device: where.
        tokens: of the one sequence.
        heads: of keys, of values, and their width; by default those of the 27B.

    Returns:
        Input -> |error| / |gradient|, by their norms.
    """
    given, weight = _inputs(device, tokens, *heads)
    rounded = [tensor if name == "g" else tensor.bfloat16() for name, tensor in zip(INPUTS, given, strict=True)]
    told = _gradients(rule, rounded, weight)
    truth = _gradients(reference(getattr(modeling_qwen3_5, RULE)), given, weight)
    pairs = zip(INPUTS, told, truth, strict=True)
    return {name: float((got.float() - right).norm() / right.norm()) for name, got, right in pairs}


def _inputs(device: str, tokens: int, keys: int, values: int, width: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Draws q, k, v, g, beta as a layer makes them, exact in bfloat16, and the gradient of the output."""
    draw = torch.Generator("cpu").manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).bfloat16().float().to(device)

    q, k = normal(1, tokens, keys, width), normal(1, tokens, keys, width)
    v, weight = normal(1, tokens, values, width), normal(1, tokens, values, width)
    decay = -torch.rand(values, generator=draw).to(device) * functional.softplus(normal(1, tokens, values))
    beta = normal(1, tokens, values).sigmoid().bfloat16().float()
    return [q, k, v, decay, beta], weight


def _gradients(rule: Rule, given: list[torch.Tensor], weight: torch.Tensor) -> list[torch.Tensor]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in given]
    q, k, v, g, beta = leaves
    out, _ = rule(q, k, v, g=g, beta=beta, use_qk_l2norm_in_kernel=True)
    return list(torch.autograd.grad((out.float() * weight).sum(), leaves))

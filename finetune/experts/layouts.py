"""How adapters of routed experts are written down: as plain PEFT reads them, or one expert at a time, as vLLM does.

PEFT targets the two fused weights as parameters and nests their wrappers, gate and up inside, down outside. Its A has
the experts one after another, (experts * rank, in); its B has for each inner dimension all experts, (out, rank *
experts). Source: PEFT 0.21, tuners/lora/layer.py, ParamWrapper.get_delta_factors; tuners_utils.py, _inject_parameters.

vLLM reads gate, up and down of each expert as matrices of their own. Gate and up share their A, which is written twice.
Source: vLLM 0.11, vllm/lora/utils.py and model_executor/models/qwen3_moe.py; not run there.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from finetune.experts.routed import DOWN, GATE_UP

Pair = tuple[torch.Tensor, torch.Tensor]
"""lora_A (experts, rank, in) and lora_B (experts, out, rank)."""

_NESTED = {GATE_UP: "base_layer.", DOWN: ""}


def to_peft(block: str, adapters: Mapping[str, Pair]) -> dict[str, torch.Tensor]:
    """Writes a layer's adapters as PEFT does.

    Args:
        block: name of the experts' module, as PEFT writes it: base_model.model.model.layers.0.mlp.experts.
        adapters: of each fused weight.
    """
    written = {}
    for name, (a, b) in adapters.items():
        at = f"{block}.{_NESTED[name]}"
        written[f"{at}lora_A.weight"] = a.reshape(-1, a.shape[2]).contiguous()
        written[f"{at}lora_B.weight"] = b.permute(1, 2, 0).reshape(b.shape[1], -1).contiguous()
    return written


def from_peft(block: str, written: Mapping[str, torch.Tensor], num_experts: int) -> dict[str, Pair]:
    """Reads what `to_peft` wrote.

    Raises:
        KeyError: a tensor is missing.
    """
    adapters = {}
    for name, nested in _NESTED.items():
        a, b = (written[f"{block}.{nested}lora_{each}.weight"] for each in "AB")
        adapters[name] = (
            a.reshape(num_experts, -1, a.shape[1]).contiguous(),
            b.reshape(b.shape[0], -1, num_experts).permute(2, 0, 1).contiguous(),
        )
    return adapters


def to_each_expert(block: str, adapters: Mapping[str, Pair]) -> dict[str, torch.Tensor]:
    """Writes a layer's adapters expert by expert: gate_proj, up_proj and down_proj of each."""
    written = {}
    for name, (a, b) in adapters.items():
        for expert in range(len(a)):
            halves = zip(("gate_proj", "up_proj"), b[expert].chunk(2), strict=True)
            for leaf, outward in halves if name == GATE_UP else [("down_proj", b[expert])]:
                at = f"{block}.{expert}.{leaf}"
                written[f"{at}.lora_A.weight"] = a[expert].clone()
                written[f"{at}.lora_B.weight"] = outward.clone()
    return written


def from_each_expert(block: str, written: Mapping[str, torch.Tensor], num_experts: int) -> dict[str, Pair]:
    """Reads what `to_each_expert` wrote.

    Raises:
        KeyError: a tensor is missing.
        ValueError: gate and up have each an A of their own: such adapters do not fit a fused weight of that rank.
    """

    def stacked(leaf: str, each: str) -> torch.Tensor:
        return torch.stack([written[f"{block}.{expert}.{leaf}.lora_{each}.weight"] for expert in range(num_experts)])

    gate, up = stacked("gate_proj", "A"), stacked("up_proj", "A")
    if not torch.equal(gate, up):
        raise ValueError(f"gate_proj and up_proj of {block} have an A each")
    outward = torch.cat([stacked("gate_proj", "B"), stacked("up_proj", "B")], dim=1)
    return {GATE_UP: (gate, outward), DOWN: (stacked("down_proj", "A"), stacked("down_proj", "B"))}

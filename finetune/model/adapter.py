"""Low-rank adapters on every linear family of the hybrid, and the two files that plain PEFT reads.

Trained weights are float32: PEFT's own resume casts them to it, so anything else would not resume identically.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.constants import DUMMY_TARGET_MODULES
from safetensors.torch import load_file, save_file

from finetune.errors import ArtifactError, TrainingStopped
from finetune.model.experts import (
    add_expert_adapters,
    expert_tensors,
    experts_of,
    set_expert_tensors,
    with_experts,
    without_experts,
)
from finetune.plan import Plan

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

ROUTER = "mlp.gate"
"""Ends the name of a router. PEFT keeps a trained one whole, in a copy beside the base's (`modules_to_save`)."""


def add_adapter(model: Any, plan: Plan, *, dropout: float, seed: int) -> Any:
    """Wraps the model with fresh adapters.

    Raises:
        TrainingStopped: the layers that got one, or their parameters, are not those of the plan.
    """
    torch.manual_seed(seed)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=plan.rank,
        lora_alpha=plan.alpha,
        lora_dropout=dropout,
        target_modules=list(plan.target_modules) or DUMMY_TARGET_MODULES,
        modules_to_save=[ROUTER] if plan.num_routers else None,
        bias="none",
        use_dora=plan.variant == "dora",
        use_rslora=plan.variant == "rslora",
        revision=plan.revision,
    )
    wrapped = get_peft_model(model, config)
    if plan.expert_rank:
        add_expert_adapters(wrapped, config, rank=plan.expert_rank, alpha=plan.expert_alpha, dropout=dropout)
    if plan.dtype == "bfloat16":
        keep_bfloat16(wrapped)
    check_targets(wrapped, plan)
    return wrapped


def keep_bfloat16(model: Any) -> None:
    """Lets nothing but the adapters be float32, though they are, in a model that computes under autocast."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            # autocast rounds what an adapter multiplies, and a float32 copy of it would be made in vain
            module.cast_input_dtype_enabled = False
            if module.lora_magnitude_vector:
                # DoRA's product with float32 magnitudes: PEFT's plain layer rounds it, its 4-bit layer does not, and
                # every tensor after it would be float32
                module.register_forward_hook(_in_bfloat16)


def _in_bfloat16(module: Any, given: Any, out: torch.Tensor) -> torch.Tensor:
    return out.to(torch.bfloat16)


def check_targets(model: Any, plan: Plan) -> None:
    """Compares what got an adapter with what the plan said, layer by layer.

    Raises:
        TrainingStopped: they differ.
    """
    ends = ("lora_A.default.weight", "_lora.lora_A")  # of PEFT's and of the routed experts'
    got = Counter(family_of(name) for name in dict(model.named_parameters()) if name.endswith(ends))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    routers = sum(family_of(name) == "router" and p.requires_grad for name, p in model.named_parameters())
    wanted = (plan.num_targets, plan.num_routers, plan.trainable_parameters)
    if (dict(got), routers, trainable) != wanted:
        raise TrainingStopped(
            "the adapters are not those of the plan",
            why=f"planned {plan.num_targets} and {plan.num_routers} routers with {plan.trainable_parameters:,} "
            f"parameters, got {dict(got)} and {routers} with {trainable:,}",
        )


def family_of(name: str) -> str:
    """Gives the family that a parameter of the text model belongs to."""
    for part, family in (
        (".linear_attn.", "linear_attention"),
        (".self_attn.", "attention"),
        (".mlp.experts.", "experts"),
        (f".{ROUTER}.", "router"),
        (".mlp.", "mlp"),
        ("embed_tokens.", "embeddings"),
        ("lm_head.", "lm_head"),
    ):
        if part in name:
            return family
    return "norms"


def adapter_tensors(model: Any) -> dict[str, torch.Tensor]:
    """Gives the adapter's tensors under the names of its file, on the CPU."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False) | expert_tensors(model)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(state.items())}


def save_adapter(model: Any, folder: Path, plan: Plan) -> None:
    """Writes the adapter for plain PEFT: its weights and its config, and no path of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(adapter_tensors(model), folder / WEIGHTS, metadata={"format": "pt"})
    peft = model.peft_config["default"]
    config = peft.to_dict() | {"inference_mode": True}
    if plan.expert_rank:
        config |= with_experts(peft, plan.expert_rank, plan.expert_alpha)
    told = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    (folder / CONFIG).write_text(json.dumps(told, indent=2, sort_keys=True, default=str) + "\n")


def load_adapter(model: Any, folder: Path) -> Any:
    """Lays a saved adapter over a base, and makes sure that all of it took a place.

    PEFT only warns when an adapter of another class matches nothing, and then answers as the base would.

    Raises:
        ArtifactError: the adapter is missing, damaged, or not of this base.
    """
    try:
        saved, config = load_file(folder / WEIGHTS), LoraConfig.from_pretrained(folder, local_files_only=True)
        rank, alpha = without_experts(config)
        wrapped = PeftModel(model, config)
        if rank:
            add_expert_adapters(wrapped, config, rank=rank, alpha=alpha, dropout=0.0)
        _set(wrapped, saved)
    except FileNotFoundError:
        raise ArtifactError(
            "the run has no adapter",
            where=str(folder),
            why="training did not finish, or the folder was removed",
            fix=f"finetune train --resume {shlex.quote(str(folder.parent))}",
        ) from None
    except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        raise ArtifactError("the adapter cannot be loaded", where=str(folder), why=str(error).splitlines()[0]) from None
    wrapped.requires_grad_(False)
    placed = adapter_tensors(wrapped)
    if placed.keys() != saved.keys() or any(not torch.equal(t, saved[n].to(t.dtype)) for n, t in placed.items()):
        raise ArtifactError("the adapter is not of this base", where=str(folder), why="its tensors found no place")
    return wrapped


def restore_adapter(model: Any, folder: Path) -> None:
    """Puts a checkpoint's adapter back into the adapters that the model has.

    Raises:
        ArtifactError: it does not fit them tensor for tensor.
    """
    saved = load_file(folder / WEIGHTS)
    present = adapter_tensors(model)
    if saved.keys() != present.keys() or any(saved[name].shape != present[name].shape for name in saved):
        raise ArtifactError("the checkpoint's adapter is not of this run", where=str(folder / WEIGHTS))
    _set(model, saved)


def _set(model: Any, saved: dict[str, torch.Tensor]) -> None:
    """Puts an adapter's tensors into the model; what has no place there is left out."""
    blocks = tuple(f"{block}." for block in experts_of(model))
    set_peft_model_state_dict(model, {name: t for name, t in saved.items() if not name.startswith(blocks)})
    set_expert_tensors(model, saved)


@contextmanager
def base_alone(model: Any) -> Iterator[None]:
    """Leaves the adapters out meanwhile, those of the routed experts too."""
    blocks = experts_of(model).values()
    with model.disable_adapter():
        for experts in blocks:
            experts.adapted = False
        try:
            yield
        finally:
            for experts in blocks:
                experts.adapted = True

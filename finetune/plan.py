"""What follows from a recipe here: the plan. Pure arithmetic; `finetune train` runs exactly what this says."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune.data import Counts
from finetune.errors import ArtifactError, DoesNotFit, RecipeError
from finetune.hardware import Hardware
from finetune.memory import weight_bytes
from finetune.recipe import Recipe, is_folder
from finetune.shape import FAMILY_MODULES, Linear, ModelShape

MODEL_TYPES = ("qwen3_5", "qwen3_5_moe")

MICRO_BATCH_TOKENS = {"cuda": 4096, "cpu": 4096}
"""Padded tokens of one forward pass. A first, careful rule: 4k tokens of the 27B fit 24 GB with plain trl."""

UNQUANTISED = ("lm_head", "in_proj_a", "in_proj_b", "shared_expert_gate", "model.visual")
"""Linear layers that stay in the base's dtype. Naming any replaces bitsandbytes' own list, so lm_head is here."""

DTYPE_BYTES = {"cuda": 2, "cpu": 4}
"""bfloat16 on a GPU, float32 on a CPU."""

HOST_SHARE = 0.8
"""Of the host's memory that training on a CPU may fill; the system and the libraries need the rest."""

CHECKPOINTS_IN_A_RUN = 10


@dataclass(frozen=True)
class Plan:
    """Consequences. Nothing here is wished for; change the recipe and plan again."""

    base: str
    """A Hub id, or the name of the folder."""
    revision: str | None
    method: str
    device: str
    dtype: str
    """Of the frozen weights that are not quantised, and of the arithmetic. Trained weights are float32."""
    quantisation: str | None
    unquantised: tuple[str, ...]
    target_modules: tuple[str, ...]
    num_targets: dict[str, int]
    """Linear layers that get an adapter, by family."""
    rank: int
    alpha: float
    trainable_parameters: int
    total_parameters: int
    """Of the text model; vision and multi-token prediction are not loaded."""
    routed_parameters: int
    weight_bytes: int
    """Of the text model as it is held; what else training needs is not counted yet."""
    memory_bytes: int
    """Of the GPU, or what the host can spare where there is none."""
    optimizer: str
    micro_batch: int
    accumulation: int
    examples: int
    steps_per_epoch: int
    steps: int
    warmup_steps: int
    save_every: int
    tokens: int | None
    """Of one epoch; None while the base's tokenizer is not on disk."""
    learnt_tokens: int | None
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """Writes the plan as it stands in plan.json."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def read_plan(file: Path) -> Plan:
    """Reads a run's plan.json.

    Raises:
        ArtifactError: it is not one.
    """
    try:
        told: dict[str, Any] = json.loads(file.read_text())
        return Plan(**told | {name: tuple(told[name]) for name in ("unquantised", "target_modules", "notes")})
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ArtifactError("the run's plan cannot be read", where=str(file), why=why) from None


def make_plan(recipe: Recipe, shape: ModelShape, hardware: Hardware, counts: Counts) -> Plan:
    """Decides how to run the recipe here.

    Raises:
        ArtifactError: the base is not of a family that this package knows.
        RecipeError: a family that the recipe targets has no layer in the base.
    """
    if shape.model_type not in MODEL_TYPES:
        raise ArtifactError(
            f"{shape.source} is not a Qwen3.5 or Qwen3.6",
            where=recipe.where("base"),
            why=f"its model_type is {shape.model_type}; known are {', '.join(MODEL_TYPES)}",
            fix="base: Qwen/Qwen3.6-27B",
        )
    full = recipe.method == "full"
    linears = [] if full else _targets(recipe, shape)
    adapters = sum(recipe.lora.rank * sum(linear.shape) for linear in linears)
    micro = micro_batch(recipe.train.batch_size, counts.longest or recipe.data.max_length, hardware.device)
    per_epoch = math.ceil(counts.examples / recipe.train.batch_size)
    steps = recipe.train.max_steps or math.ceil(recipe.train.epochs * per_epoch)
    return Plan(
        base=Path(recipe.base).name if is_folder(recipe.base) else recipe.base,
        revision=None if is_folder(recipe.base) else recipe.revision,
        method=recipe.method,
        device=hardware.device,
        dtype="bfloat16" if hardware.device == "cuda" else "float32",
        quantisation="nf4 with double quantisation" if recipe.method == "qlora" else None,
        unquantised=UNQUANTISED if recipe.method == "qlora" else (),
        target_modules=() if full else tuple(m for f in recipe.lora.targets for m in FAMILY_MODULES[f][1]),
        num_targets=dict(Counter(linear.family for linear in linears)),
        rank=recipe.lora.rank,
        alpha=recipe.lora.alpha or 2.0 * recipe.lora.rank,
        trainable_parameters=shape.num_text_parameters if full else adapters,
        total_parameters=shape.num_text_parameters,
        routed_parameters=shape.num_routed_parameters,
        weight_bytes=weight_bytes(shape, nf4=recipe.method == "qlora", dtype_bytes=DTYPE_BYTES[hardware.device]),
        memory_bytes=hardware.gpu_bytes or int(HOST_SHARE * hardware.host_bytes),
        optimizer="paged_adamw_8bit" if hardware.device == "cuda" and not full else "adamw_torch",
        micro_batch=micro,
        accumulation=recipe.train.batch_size // micro,
        examples=counts.examples,
        steps_per_epoch=per_epoch,
        steps=steps,
        warmup_steps=math.ceil(recipe.train.warmup * steps),
        save_every=recipe.train.save_every or math.ceil(steps / CHECKPOINTS_IN_A_RUN),
        tokens=counts.tokens,
        learnt_tokens=counts.learnt_tokens,
        notes=tuple(_notes(recipe, shape)),
    )


def _targets(recipe: Recipe, shape: ModelShape) -> list[Linear]:
    """Lists the layers that get an adapter.

    Raises:
        RecipeError: a family has none.
    """
    linears = shape.linears(recipe.lora.targets)
    for family in recipe.lora.targets:
        if not any(linear.family == family for linear in linears):
            raise RecipeError(
                f"the base has no layer of the family {family}",
                where=recipe.where("lora.targets"),
                why="an adapter that matches nothing trains nothing",
                fix=f"lora.targets: [{', '.join(f for f in FAMILY_MODULES if shape.linears((f,)))}]",
            )
    return linears


def check_weights_fit(plan: Plan) -> None:
    """Refuses a base whose weights alone are larger than the memory, before it is downloaded.

    Raises:
        DoesNotFit: they are.
    """
    if plan.weight_bytes <= plan.memory_bytes:
        return
    where = "the GPU has" if plan.device == "cuda" else "this machine has no GPU and can spare"
    needed, there = plan.weight_bytes / 2**30, plan.memory_bytes / 2**30
    raise DoesNotFit(
        f"{plan.base} does not fit here",
        where=f"base: {plan.base}",
        why=f"its weights alone take {needed:.1f} GiB; {where} {there:.1f} GiB",
        fix="finetune demo-base toy   # then --set base=./toy tries the recipe on a toy base",
    )


def micro_batch(batch_size: int, longest: int, device: str) -> int:
    """Finds the largest divisor of the batch whose padded tokens stay within the bound; at least 1."""
    most = max(1, MICRO_BATCH_TOKENS[device] // longest)
    return max(n for n in range(1, batch_size + 1) if batch_size % n == 0 and n <= most)


def _notes(recipe: Recipe, shape: ModelShape) -> list[str]:
    notes = []
    if recipe.revision and is_folder(recipe.base):
        notes.append(f"revision {recipe.revision[:12]} is dropped: base is a folder, and a folder has none")
    if shape.num_routed_parameters and recipe.method != "full":
        share = shape.num_routed_parameters / shape.num_text_parameters
        notes.append(f"routed experts ({share:.0%} of the weights) get no adapter: shared experts and mixers do")
        if recipe.method == "qlora":
            notes.append("routed experts are not quantised by bitsandbytes: they stay in full precision")
    return notes

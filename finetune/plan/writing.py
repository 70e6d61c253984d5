"""Writes down what was decided, and what follows from it: steps, bytes, seconds, and words for the user."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.data import Counts
from finetune.data.batches import num_steps
from finetune.hardware import Hardware
from finetune.links import inside
from finetune.memory import Job
from finetune.plan.candidates import Candidate, Room, examples_in_a_step, work_of
from finetune.plan.deciding import expert_rank, job_of, room_of, targets
from finetune.plan.disk import disk_bytes
from finetune.plan.explaining import reason, verdict
from finetune.plan.merging import merge_bytes
from finetune.plan.record import Alternative, Choices, Plan
from finetune.plan.sharing import best_by_way, why_shared
from finetune.recipe import Recipe, is_folder
from finetune.shape import FAMILY_MODULES, ModelShape
from finetune.speed import CPU

UNQUANTISED = ("lm_head", "in_proj_a", "in_proj_b", "shared_expert_gate", "model.visual")
"""Linear layers that stay in the base's dtype. Naming any replaces bitsandbytes' own list, so lm_head is here."""

CHECKPOINTS_IN_A_RUN = 10


def write(
    recipe: Recipe,
    shape: ModelShape,
    hardware: Hardware,
    counts: Counts,
    chosen: Candidate,
    found: Sequence[Candidate],
) -> Plan:
    """Writes a plan down; where nothing fits, without the ways out."""
    job = replace(job_of(recipe, shape, hardware, counts), zero=chosen.way.zero, expert=chosen.way.expert)
    room, needed, choices = room_of(recipe, hardware), chosen.budget, chosen.choices
    per_epoch, steps = num_steps(recipe, counts.examples)
    return Plan(
        base=Path(recipe.base).name if is_folder(recipe.base) else recipe.base,
        revision=None if is_folder(recipe.base) else recipe.revision,
        method=recipe.method,
        device=hardware.device,
        gpu=hardware.gpus[0] if hardware.gpus else "",
        kernels=job.kernels and job.convolution,
        rule_kernel=job.kernels,
        dtype="bfloat16" if job.cuda else "float32",
        quantisation="nf4 with double quantisation" if job.nf4 else None,
        unquantised=UNQUANTISED if job.nf4 else (),
        **_adapters(recipe, shape, job),
        trainable_parameters=job.num_trained,
        total_parameters=shape.num_text_parameters,
        choices=choices,
        **_sharing(recipe, job, hardware, chosen, found),
        fits=chosen.fits,
        gpu_bytes=room.device_bytes,
        peak_bytes=needed.peak_bytes,
        peak=needed.peak,
        static_bytes=needed.static_bytes,
        parts=needed.parts,
        moments=needed.moments,
        host_bytes=needed.host_bytes,
        host_parts=needed.host_parts,
        disk_bytes=disk_bytes(recipe, shape, job, choices),
        length=job.length,
        **_time(recipe, job, hardware, counts, chosen),
        examples=counts.examples,
        steps_per_epoch=per_epoch,
        steps=steps,
        warmup_steps=math.ceil(recipe.train.warmup * steps),
        save_every=recipe.train.save_every or math.ceil(steps / CHECKPOINTS_IN_A_RUN),
        tokens=counts.tokens,
        learnt_tokens=counts.learnt_tokens,
        why=reason(chosen, room, recipe.memory.head),
        notes=(*_notes(recipe, shape, hardware), *_packed(recipe, job, counts, choices)),
    )


def _time(recipe: Recipe, job: Job, hardware: Hardware, counts: Counts, chosen: Candidate) -> dict[str, Any]:
    """Says how long a step and a run take, and what that costs."""
    run_seconds = chosen.seconds * _whole_steps(recipe, counts)
    tokens = work_of(recipe, counts, job.length, chosen.choices, job.processes).tokens
    return {
        "step_seconds": chosen.seconds,
        "run_seconds": run_seconds,
        "energy_kwh": job.processes * run_seconds * (hardware.card or CPU).watts / 3.6e6,
        "tokens_per_second": job.processes * tokens / chosen.seconds,
    }


def _sharing(
    recipe: Recipe, job: Job, hardware: Hardware, chosen: Candidate, found: Sequence[Candidate]
) -> dict[str, Any]:
    """Says how the processes share out what they hold, what that puts on the wire, and what else they could do."""
    room, several = room_of(recipe, hardware), job.processes > 1
    by_way = best_by_way(found, room) if several else {}
    return {
        "processes": job.processes,
        "nodes": hardware.nodes,
        "links": (inside(hardware.card).told, hardware.network.told)[: several and 1 + (hardware.nodes > 1)],
        "zero": job.zero,
        "expert_parallel": job.expert,
        "sharing": why_shared(recipe, job, chosen, found, room),
        "alternatives": tuple(_alternative(chosen, other, room) for other in by_way.values()),
        "wire_bytes": chosen.wire.parts,
        "wire_seconds": chosen.wire.seconds,
    }


def _alternative(chosen: Candidate, other: Candidate, room: Room) -> Alternative:
    return Alternative(
        zero=other.way.zero,
        expert_parallel=other.way.expert,
        fits=other.fits,
        peak_bytes=other.budget.peak_bytes,
        wire_bytes=other.wire.num_bytes,
        wire_seconds=other.wire.seconds,
        step_seconds=other.seconds,
        verdict="chosen" if other is chosen else verdict(chosen, other, room),
    )


def _whole_steps(recipe: Recipe, counts: Counts) -> float:
    """Counts the steps' worth of examples of a run: the last step of an epoch may have only a part of a batch."""
    return recipe.train.max_steps or recipe.train.epochs * counts.examples / examples_in_a_step(recipe, counts)


def _adapters(recipe: Recipe, shape: ModelShape, job: Job) -> dict[str, Any]:
    """Says what gets an adapter, of which rank and scale, and what merging takes; experts' have the scale of others."""
    lora, share = recipe.lora, expert_rank(recipe, shape) / recipe.lora.rank
    alpha = lora.alpha or 2.0 * lora.rank
    families = () if recipe.method == "full" else lora.targets
    return {
        "target_modules": tuple(m for family in families for m in FAMILY_MODULES.get(family, ("", ()))[1]),
        "num_targets": dict(Counter(linear.family for linear in targets(recipe, shape))),
        "rank": lora.rank,
        "alpha": alpha,
        "variant": "dora" if lora.dora else "rslora" if lora.rslora else "",
        "expert_rank": expert_rank(recipe, shape),
        "num_routers": len(shape.routers) if recipe.lora.router and recipe.method != "full" else 0,
        "expert_alpha": alpha * (math.sqrt(share) if lora.rslora else share),
        "merge_bytes": merge_bytes(shape, job.widths),
    }


def _packed(recipe: Recipe, job: Job, counts: Counts, choices: Choices) -> list[str]:
    if not recipe.data.packing:
        return []
    least = work_of(recipe, counts, job.length, choices).micro_steps
    return [f"packing: a step's examples lie end to end, in {least} packs or more of up to {job.length:,} tokens"]


def _notes(recipe: Recipe, shape: ModelShape, hardware: Hardware) -> list[str]:
    notes = []
    if hardware.trouble:
        notes.append(f"planned without a GPU, for {hardware.trouble}; finetune doctor tells more")
    if hardware.card and hardware.card.speed_of:
        notes.append(
            f"{hardware.card.name} has the speed of an {hardware.card.speed_of}; --gpu takes a card's name too"
        )
    if recipe.revision and is_folder(recipe.base):
        notes.append(f"revision {recipe.revision[:12]} is dropped: base is a folder, and a folder has none")
    if shape.num_routed_parameters and recipe.method != "full" and not expert_rank(recipe, shape):
        share = shape.num_routed_parameters / shape.num_text_parameters
        notes.append(f"routed experts ({share:.0%} of the weights) get no adapter: lora.targets leaves them out")
    if hardware.device == "cuda" and hardware.rule_kernel and not hardware.kernels:
        notes.append("causal_conv1d is not installed: the convolution before Gated DeltaNet's rule runs in torch")
    elif hardware.device == "cuda" and not hardware.kernels:
        notes.append(
            "SLOW: Gated DeltaNet runs on transformers' torch reference; pip install 'finetune-proven[kernels]'"
        )
    return notes

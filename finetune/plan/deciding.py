"""What follows from a recipe here. Pure arithmetic; `finetune train` runs exactly what this says."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from finetune.data import Counts
from finetune.errors import ArtifactError, DoesNotFit, RecipeError
from finetune.hardware import Hardware, plannable_bytes
from finetune.levers import OPTIMIZERS
from finetune.memory import Job, adapter_shapes, count_weights, num_trainable, read_widths, state_bytes
from finetune.plan.candidates import Candidate, Room, best, candidates, work_of
from finetune.plan.disk import disk_bytes
from finetune.plan.explaining import reason
from finetune.plan.nearest import changed, nearest
from finetune.plan.record import Plan
from finetune.plan.rules import check_rules, refusals
from finetune.recipe import Recipe, is_folder
from finetune.shape import FAMILY_MODULES, Linear, ModelShape, is_text
from finetune.speed import CPU

MODEL_TYPES = ("qwen3_5", "qwen3_5_moe")

UNQUANTISED = ("lm_head", "in_proj_a", "in_proj_b", "shared_expert_gate", "model.visual")
"""Linear layers that stay in the base's dtype. Naming any replaces bitsandbytes' own list, so lm_head is here."""

DTYPE_BYTES = {"cuda": 2, "cpu": 4}
"""bfloat16 on a GPU, float32 on a CPU."""

HOST_SHARE = 0.8
"""Of the host's memory that training may fill; the system and the libraries need the rest."""

CHECKPOINTS_IN_A_RUN = 10


def make_plan(recipe: Recipe, shape: ModelShape, hardware: Hardware, counts: Counts) -> Plan:
    """Decides how to run the recipe here.

    Raises:
        ArtifactError: the base is not of a family that this package knows.
        RecipeError: a family that the recipe targets has no layer in the base, or a combination is forbidden.
    """
    chosen, _ = decide(recipe, shape, hardware, counts)
    return _written(recipe, shape, hardware, counts, chosen)


def decide(recipe: Recipe, shape: ModelShape, hardware: Hardware, counts: Counts) -> tuple[Candidate, list[Candidate]]:
    """Chooses among all sets of levers; returns the best, and all.

    Raises:
        ArtifactError, RecipeError: as `make_plan`.
    """
    _check_family(recipe, shape)
    targets(recipe, shape)
    check_rules(recipe, shape, hardware)
    room = room_of(recipe, hardware)
    found = candidates(recipe, job_of(recipe, shape, hardware, counts), room, counts)
    return best(found, room), found


def room_of(recipe: Recipe, hardware: Hardware) -> Room:
    """Says how many bytes there are; a machine that was only wished for has a host that is large enough."""
    host = int(HOST_SHARE * hardware.host_bytes)
    if hardware.device == "cpu":
        return Room(host, 2 * host, None)
    spare = int(recipe.memory.spare * 2**30)
    return Room(max(0, plannable_bytes(hardware) - spare), 2**60 if hardware.wished else host, hardware.card)


def targets(recipe: Recipe, shape: ModelShape) -> list[Linear]:
    """Lists the layers that get an adapter.

    Raises:
        RecipeError: a family has none.
    """
    if recipe.method == "full":
        return []
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


def check_fits(plan: Plan, recipe: Recipe) -> None:
    """Refuses a plan that does not fit, with the recipes near to it that do.

    Raises:
        DoesNotFit: it does not.
    """
    if plan.fits:
        return
    needed, there = plan.peak_bytes / 2**30, plan.gpu_bytes / 2**30
    place = recipe.where("base")
    if plan.gpu:
        has, fix = f"the {plan.gpu} has {there:.1f} for it", " or ".join(plan.proposals) or "a larger GPU"
    else:
        has = f"this machine has no GPU and can spare {there:.1f}"
        fix = f"finetune plan {place.split(':')[0]} --gpu 24GB   # here a toy trains: finetune demo-base toy"
    what = f"{plan.base} needs {needed:.1f} GiB; {has}"
    if needed <= there:
        what = f"{plan.base} needs {plan.host_bytes / 2**30:.1f} GiB of host memory, which this machine has not"
    largest = sorted(plan.parts.items(), key=lambda part: -part[1])[:4]
    parts = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in largest)
    raise DoesNotFit(
        what,
        where=f"{place}, {plan.length:,} tokens, method {plan.method}",
        why=f"{parts} GiB, with every lever pulled",
        fix=fix,
    )


def _check_family(recipe: Recipe, shape: ModelShape) -> None:
    if shape.model_type not in MODEL_TYPES:
        raise ArtifactError(
            f"{shape.source} is not a Qwen3.5 or Qwen3.6",
            where=recipe.where("base"),
            why=f"its model_type is {shape.model_type}; known are {', '.join(MODEL_TYPES)}",
            fix="base: Qwen/Qwen3.6-27B",
        )


def job_of(recipe: Recipe, shape: ModelShape, hardware: Hardware, counts: Counts) -> Job:
    """Says what is asked of the device."""
    trained = trained_shapes(recipe, shape, targets(recipe, shape))
    return Job(
        widths=read_widths(shape),
        weights=count_weights(shape),
        num_trained=num_trainable(trained),
        states={optimizer: state_bytes(trained, optimizer) for optimizer in OPTIMIZERS},
        rank=0 if recipe.method == "full" else recipe.lora.rank,
        dropout=recipe.lora.dropout > 0,
        dora=recipe.lora.dora,
        nf4=recipe.method == "qlora",
        e=DTYPE_BYTES[hardware.device],
        kernels=hardware.rule_kernel and hardware.device == "cuda",
        convolution=hardware.kernels,
        cuda=hardware.device == "cuda",
        length=min(counts.longest or recipe.data.max_length, recipe.data.max_length),
        scored_length=min(counts.longest_held_out or 0, recipe.data.max_length),
    )


def trained_shapes(recipe: Recipe, shape: ModelShape, linears: list[Linear]) -> list[tuple[int, ...]]:
    """Lists the shapes of the trained tensors: of adapters, with DoRA's lengths of rows, or of every text weight."""
    if recipe.method == "full":
        return [dims for name, dims in shape.parameters.items() if is_text(name)]
    adapters: list[tuple[int, ...]] = [*adapter_shapes(linears, recipe.lora.rank)]
    return adapters + [(linear.shape[0],) for linear in linears if recipe.lora.dora]


def _written(recipe: Recipe, shape: ModelShape, hardware: Hardware, counts: Counts, chosen: Candidate) -> Plan:
    """Writes down what was decided."""
    job, linears = job_of(recipe, shape, hardware, counts), targets(recipe, shape)
    room, needed, choices = room_of(recipe, hardware), chosen.budget, chosen.choices
    per_epoch, steps = _steps(recipe, counts)
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
        target_modules=() if job.full else tuple(m for f in recipe.lora.targets for m in FAMILY_MODULES[f][1]),
        num_targets=dict(Counter(linear.family for linear in linears)),
        rank=recipe.lora.rank,
        alpha=recipe.lora.alpha or 2.0 * recipe.lora.rank,
        variant=_variant(recipe),
        trainable_parameters=job.num_trained,
        total_parameters=shape.num_text_parameters,
        routed_parameters=shape.num_routed_parameters,
        choices=choices,
        fits=chosen.fits,
        gpu_bytes=room.device_bytes,
        peak_bytes=needed.peak_bytes,
        peak=needed.peak,
        static_bytes=needed.static_bytes,
        parts=needed.parts,
        moments=needed.moments,
        host_bytes=needed.host_bytes,
        disk_bytes=disk_bytes(recipe, shape, job, choices),
        length=job.length,
        step_seconds=chosen.seconds,
        run_seconds=steps * chosen.seconds,
        energy_kwh=steps * chosen.seconds * (hardware.card or CPU).watts / 3.6e6,
        tokens_per_second=work_of(recipe, counts, job.length, choices).tokens / chosen.seconds,
        examples=counts.examples,
        steps_per_epoch=per_epoch,
        steps=steps,
        warmup_steps=math.ceil(recipe.train.warmup * steps),
        save_every=recipe.train.save_every or math.ceil(steps / CHECKPOINTS_IN_A_RUN),
        tokens=counts.tokens,
        learnt_tokens=counts.learnt_tokens,
        why=reason(chosen, room),
        proposals=() if chosen.fits or not job.cuda else _nearest(recipe, shape, hardware, counts),
        notes=tuple(_notes(recipe, shape, hardware)),
    )


def _variant(recipe: Recipe) -> str:
    return "dora" if recipe.lora.dora else "rslora" if recipe.lora.rslora else ""


def _steps(recipe: Recipe, counts: Counts) -> tuple[int, int]:
    """Counts optimizer steps: of one epoch, and in all."""
    per_epoch = math.ceil(counts.examples / recipe.train.batch_size)
    return per_epoch, recipe.train.max_steps or math.ceil(recipe.train.epochs * per_epoch)


def _nearest(recipe: Recipe, shape: ModelShape, hardware: Hardware, counts: Counts) -> tuple[str, ...]:
    """Finds recipes near to one that does not fit, which do; each was planned, so each succeeds."""

    def fits(other: Recipe, base: ModelShape) -> bool:
        if refusals(other, base, hardware):
            return False
        lean = changed(other, {"memory.micro_batch": other.memory.micro_batch or 1})
        job = job_of(lean, base, hardware, counts)
        return any(each.fits for each in candidates(lean, job, room_of(lean, hardware), counts))

    return nearest(recipe, shape, job_of(recipe, shape, hardware, counts).length, fits)


def _notes(recipe: Recipe, shape: ModelShape, hardware: Hardware) -> list[str]:
    notes = []
    if recipe.revision and is_folder(recipe.base):
        notes.append(f"revision {recipe.revision[:12]} is dropped: base is a folder, and a folder has none")
    if shape.num_routed_parameters and recipe.method != "full":
        share = shape.num_routed_parameters / shape.num_text_parameters
        notes.append(f"routed experts ({share:.0%} of the weights) get no adapter: shared experts and mixers do")
        if recipe.method == "qlora":
            notes.append("routed experts are not quantised by bitsandbytes: they stay in full precision")
    if len(hardware.gpus) > 1:
        notes.append(f"of {len(hardware.gpus)} GPUs one is used: training on several is not built yet")
    if hardware.device == "cuda" and hardware.rule_kernel and not hardware.kernels:
        notes.append("causal_conv1d is not installed: the convolution before Gated DeltaNet's rule runs in torch")
    elif hardware.device == "cuda" and not hardware.kernels:
        notes.append(
            "SLOW: Gated DeltaNet runs on transformers' torch reference; pip install 'finetune-proven[kernels]'"
        )
    return notes

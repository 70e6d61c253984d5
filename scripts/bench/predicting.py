"""What the plan promises for a cell of the benchmark: the same arithmetic that `finetune plan` prints."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from bench.bases import Base
from bench.limits import bisect_longest
from finetune.cards import Card
from finetune.data import Counts
from finetune.hardware import Hardware
from finetune.levers import Levers
from finetune.memory import Job, budget
from finetune.plan import Choices, Plan, make_plan, room_of
from finetune.plan.deciding import job_of
from finetune.recipe import Data, Lora, Memory, Recipe, Train
from finetune.speed import CPU, Work, flops_per_token, step_seconds

RANK = 16


@dataclass(frozen=True)
class Promise:
    """Bytes of one cell, as the plan counts them."""

    allocated_bytes: int
    """Of tensors: what `torch.cuda.max_memory_allocated` should say."""
    reserved_bytes: int
    """With the gaps between them and the workspaces: what `max_memory_reserved` should say."""
    peak_bytes: int
    """With CUDA's context: what is compared with the card."""
    static_bytes: int
    """Of tensors that stay from step to step."""
    moment: str
    """When that is."""


def recipe_of(tokens: int) -> Recipe:
    """Wishes for QLoRA on examples of just so many tokens, one at a time."""
    return Recipe(
        name="bench",
        base="Qwen/Qwen3.6-27B",
        revision="0" * 40,
        method="qlora",
        data=Data(train=Path("bench.jsonl"), max_length=tokens),
        lora=Lora(rank=RANK),
        train=Train(batch_size=1),
        memory=Memory(micro_batch=1),
    )


def counts_of(tokens: int) -> Counts:
    """A hundred examples of that length, of which every token is learnt."""
    return Counts(
        rows=100, examples=100, tokens=100 * tokens, learnt_tokens=100 * tokens, longest=tokens, longest_held_out=0
    )


def plan_of(base: Base, hardware: Hardware, tokens: int) -> Plan:
    """Gives the plan that `finetune plan` would make for that length."""
    return make_plan(recipe_of(tokens), base.shape, hardware, counts_of(tokens))


def job(base: Base, hardware: Hardware, tokens: int) -> Job:
    """Says what is asked of the device."""
    return job_of(recipe_of(tokens), base.shape, hardware, counts_of(tokens))


def levers_of(choices: Choices) -> Levers:
    """Keeps of a plan's choices what decides over memory."""
    return Levers(**{each.name: asdict(choices)[each.name] for each in fields(Levers)})


def promise(base: Base, hardware: Hardware, levers: Levers, tokens: int) -> Promise:
    """Counts the bytes of one cell."""
    found = budget(job(base, hardware, tokens), levers, 1)
    context, gaps = found.parts.get("CUDA context", 0), found.parts.get("gaps between blocks", 0)
    peak = found.peak_bytes
    return Promise(peak - context - gaps, peak - context, peak, found.static_bytes - context, found.peak)


def longest(base: Base, hardware: Hardware, levers: Levers, *, step: int, most: int) -> int:
    """Gives the longest context that the plan says fits into the card."""
    room = room_of(recipe_of(step), hardware).device_bytes

    def fits(tokens: int) -> bool:
        return promise(base, hardware, levers, tokens).peak_bytes <= room

    return bisect_longest(fits, step, most, step)


def seconds(base: Base, hardware: Hardware, card: Card | None, levers: Levers, tokens: int) -> float:
    """Estimates a step on the card that really computes, not on the one that is emulated."""
    there = replace(hardware, card=card)
    return step_seconds(job(base, there, tokens), levers, Work(tokens, tokens, 1), card or CPU)


def weights_in_products(base: Base, hardware: Hardware) -> float:
    """N of the rule that a token costs 6N FLOP with full recomputation and 4N without: weights of linear layers.

    The base is frozen, so a product is made forward, again for backward, and for the gradient of its input; its
    adapters and the output head are left out on both sides.
    """
    asked = job(base, hardware, 64)
    return (flops_per_token(asked) - 8 * asked.num_trained) / 6


def as_json(made: Promise) -> dict[str, Any]:
    """Writes a promise as it stands in results.json."""
    return asdict(made)

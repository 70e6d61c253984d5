"""Combinations that must not be: each with the reason, and with words that lead out of it.

A rule looks at the recipe, the base and the machine; it never looks at bytes. What merely does not fit is no rule's
business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from finetune.errors import Problem
from finetune.hardware import Hardware
from finetune.memory import Widths, read_widths
from finetune.memory.mixture import ALIGNMENT
from finetune.memory.weights import BLOCK, DTYPE_BYTES
from finetune.plan.words import Words, as_overrides, to_dense
from finetune.recipe import FAMILIES, MOST_EXAMPLES, Recipe
from finetune.shape import ModelShape

LONGEST = 262_144
"""Positions that the published models were trained on. Source: max_position_embeddings of their configs."""

BF16_SINCE = (8, 0)
"""Compute capability from which GPUs multiply bfloat16. Source: CUDA programming guide, table of capabilities."""


@dataclass(frozen=True)
class Case:
    """What the rules look at."""

    recipe: Recipe
    shape: ModelShape
    widths: Widths
    hardware: Hardware

    @property
    def cuda(self) -> bool:
        return self.hardware.device == "cuda"

    @property
    def full(self) -> bool:
        return self.recipe.method == "full"


@dataclass(frozen=True)
class Refusal:
    """One rule that a recipe breaks."""

    key: str
    """Of the recipe, whose line is named."""
    what: str
    why: str
    out: Words
    """That lead out of it, all of them together; none where only another GPU does."""


Rule = Callable[[Case], Iterator[Refusal]]


def refusals(recipe: Recipe, shape: ModelShape, hardware: Hardware) -> list[Refusal]:
    """Lists every rule that the recipe breaks on this base and machine."""
    case = Case(recipe, shape, read_widths(shape), hardware)
    return [refusal for rule in RULES for refusal in rule(case)]


def problem(recipe: Recipe, refusal: Refusal, fix: str = "") -> Problem:
    """Tells a refusal: by its own words, unless a fix that leads further is known."""
    return Problem(refusal.what, recipe.where(refusal.key), refusal.why, fix or as_overrides(refusal.out))


def _targets(case: Case) -> Iterator[Refusal]:
    wished = case.recipe.lora.targets
    there = [family for family in FAMILIES if case.shape.linears((family,))]
    lacking = [family for family in wished if family not in there]
    if case.full or not lacking or (lacking == ["experts"] and set(wished) == set(FAMILIES)):
        return  # all families means all that a dense base has
    kept = [family for family in wished if family in there] or there
    what, why = f"the base has no layer of the family {lacking[0]}", "an adapter that matches nothing trains nothing"
    yield Refusal("lora.targets", what, why, {"lora.targets": tuple(kept)})


def _packing(case: Case) -> Iterator[Refusal]:
    recipe, processes, out = case.recipe, case.hardware.processes, {"data.packing": False}
    if not recipe.data.packing:
        return
    if case.cuda and not case.hardware.rule_kernel:
        why = "without fla each example of a pack would go through transformers' torch reference alone, which is slow"
        yield Refusal("data.packing", "packing needs fla on a GPU, and it is not here", why, out)
    if processes > 1:
        why = "a step would be another number of packs for each of them, and all have to take as many"
        yield Refusal("data.packing", "packing on several GPUs is not built yet", why, out)
    if recipe.memory.micro_batch:
        why = "a packed micro-batch holds as many examples as data.max_length has room for"
        what = "packing and memory.micro_batch both say how many examples lie together"
        yield Refusal("memory.micro_batch", what, why, {"memory.micro_batch": None})


def _dora(case: Case) -> Iterator[Refusal]:
    lora = case.recipe.lora
    if lora.dora and case.widths.num_experts and "experts" in lora.targets and not case.full:
        why = "it normalises whole rows of W + BA, and that sum is never made of a routed expert"
        yield Refusal("lora.dora", "DoRA cannot be trained on routed experts", why, {"lora.dora": False})
    if lora.dora and lora.rslora:
        why = "DoRA learns the length of each row itself, so another scale of the adapter is only another learning rate"
        yield Refusal("lora.rslora", "DoRA and rsLoRA together set the scale twice", why, {"lora.rslora": False})


def _no_adapter(case: Case) -> Iterator[Refusal]:
    lora = case.recipe.lora
    for key, wished, plain in (
        ("lora.dora", lora.dora, False),
        ("lora.rslora", lora.rslora, False),
        ("lora.dropout", lora.dropout > 0, 0.0),
        ("lora.router", lora.router, False),
    ):
        if case.full and wished:
            why = "method full trains the weights themselves, and there is no adapter to apply it to"
            yield Refusal(key, f"method full has no adapter for {key}", why, {key: plain})


def _router(case: Case) -> Iterator[Refusal]:
    recipe = case.recipe
    trained = case.widths.num_experts and (case.full or recipe.lora.router)
    if recipe.lora.router and not case.widths.num_experts and not case.full:
        yield Refusal("lora.router", "there are no routers to train", "the base is dense", {"lora.router": False})
    if recipe.lora.expert_rank and not case.widths.num_experts and not case.full:
        yield Refusal(
            "lora.expert_rank", "there are no routed experts", "the base is dense", {"lora.expert_rank": None}
        )
    if recipe.train.router_aux_loss_coef is not None and not trained:
        why = "the routers are frozen" if case.widths.num_experts else "the base is dense"
        what = "the auxiliary loss has nothing to even out"
        yield Refusal("train.router_aux_loss_coef", what, why, {"train.router_aux_loss_coef": None})


def _full_mixture(case: Case) -> Iterator[Refusal]:
    if case.full and case.cuda and case.widths.num_experts:
        why = "trained weights are float32, and the grouped products of routed experts take bfloat16 only"
        out = {"method": "qlora"}
        yield Refusal("method", "method full cannot train routed experts on a GPU", why, out)


def _rank(case: Case) -> Iterator[Refusal]:
    linears = case.shape.linears(case.recipe.lora.targets)
    for key, rank, kind in (
        ("lora.rank", case.recipe.lora.rank, [linear for linear in linears if not linear.num_experts]),
        ("lora.expert_rank", case.recipe.lora.expert_rank or 0, [linear for linear in linears if linear.num_experts]),
    ):
        if case.full or not kind:
            continue
        narrow = min(kind, key=lambda linear: min(linear.shape))
        most = min(narrow.shape)
        if rank > most:
            why = f"{narrow.name} has rank {most} at most: a larger adapter would hold more numbers than the layer"
            yield Refusal(key, "the adapter is larger than its layer", why, {key: most})


def _vocabulary(case: Case) -> Iterator[Refusal]:
    memory = case.recipe.memory
    wishes = (
        ("memory.embeddings", memory.embeddings == "host", "the embedding on the host"),
        ("memory.head", memory.head in ("int8", "nf4"), "a quantised output head"),
    )
    for key, wished, told in wishes:
        if wished and case.full:
            why = "method full trains both matrices of the vocabulary, so they stay whole and on the device"
            yield Refusal(key, f"method full cannot have {told}", why, {key: "auto"})
        elif wished and case.widths.tied:
            why = "its head and its embedding are one matrix, which is needed whole on the device"
            yield Refusal(key, f"this base cannot have {told}", why, {key: "auto"})


def _optimizer(case: Case) -> Iterator[Refusal]:
    if case.recipe.memory.optimizer == "paged_adamw_8bit" and not case.cuda:
        what, why = (
            "a paged optimizer needs a GPU",
            "its pages move between a GPU and the host, and there is no GPU here",
        )
        yield Refusal("memory.optimizer", what, why, {"memory.optimizer": "auto"})


def _micro_batch(case: Case) -> Iterator[Refusal]:
    processes = case.hardware.processes
    micro, batch = case.recipe.memory.micro_batch, _shared_out(case.recipe.train.batch_size, processes) // processes
    if micro and batch % micro and not case.recipe.data.packing:
        below = max(n for n in range(1, micro + 1) if batch % n == 0)
        several = f"each process's {batch} of " if processes > 1 else ""
        why = f"{several}a step of train.batch_size {case.recipe.train.batch_size} is made of whole micro-batches"
        yield Refusal("memory.micro_batch", f"{micro} does not divide {batch}", why, {"memory.micro_batch": below})


def _length(case: Case) -> Iterator[Refusal]:
    if case.recipe.data.max_length > LONGEST:
        why = f"the base knows {LONGEST:,} positions and was never trained on later ones"
        what = "the examples may be longer than the base can read"
        yield Refusal("data.max_length", what, why, {"data.max_length": LONGEST})


def _base(case: Case) -> Iterator[Refusal]:
    if case.shape.quantised_by:
        why = (
            f"it was quantised with {case.shape.quantised_by}: rounding it twice loses twice, and exports need it whole"
        )
        yield Refusal("base", "this base is quantised already", why, to_dense(case.recipe))


def _bf16(case: Case) -> Iterator[Refusal]:
    capability = case.hardware.compute_capability
    if case.cuda and capability and capability < BF16_SINCE:
        why = f"compute capability {capability[0]}.{capability[1]} multiplies no bfloat16, and float16 overflows here"
        what = f"{case.hardware.gpus[0]} is too old for Qwen3.6"
        yield Refusal("base", what, why, {})


def _parallel(case: Case) -> Iterator[Refusal]:
    recipe, processes = case.recipe, case.hardware.processes
    zero, batch = recipe.parallel.zero or 0, recipe.train.batch_size
    alone = f"there {'is one process' if processes == 1 else f'are {processes} processes'}"
    if zero == 3 and recipe.lora.dora:
        why = "it reads the weight of another layer than its own, of which stage 3 leaves each process a share"
        yield Refusal("lora.dora", "DoRA cannot be trained under ZeRO-3", why, {"lora.dora": False})
    if zero and processes < 2:
        yield Refusal("parallel.zero", f"ZeRO-{zero} has nothing to shard over", alone, {"parallel.zero": None})
    if processes > 1 and batch % processes:
        why = f"each of {processes} processes takes as many of a step's examples as any other"
        out = {"train.batch_size": _shared_out(batch, processes)}
        yield Refusal("train.batch_size", f"{batch} cannot be shared out", why, out)
    if processes > 1 and case.full:
        why = "whole weights would be gathered for each checkpoint; --processes 1 trains them on one"
        yield Refusal("method", "method full on several GPUs is not built yet", why, {"method": "qlora"})
    optimizer = recipe.memory.optimizer
    if processes > 1 and optimizer not in ("auto", "adamw"):
        why = "states in 8 bits cannot be put together again on another number of GPUs"
        yield Refusal("memory.optimizer", f"{optimizer} is for one GPU", why, {"memory.optimizer": "auto"})


def _shared_out(batch: int, processes: int) -> int:
    """Gives the number of examples that all processes take alike: the next above, if a recipe may say so many."""
    above = -(-batch // processes) * processes
    return above if above <= MOST_EXAMPLES else batch // processes * processes


def _spread(case: Case) -> Iterator[Refusal]:
    expert, processes = case.recipe.parallel.expert or 1, case.hardware.processes
    what, why = "", ""
    if expert > 1 and not case.widths.num_experts:
        what, why = "there are no experts to spread", "the base is dense"
    elif expert > 1 and case.widths.num_experts % expert:
        what = "the experts cannot be spread evenly"
        why = f"{case.widths.num_experts} experts do not divide by {expert}"
    elif expert > 1 and processes % expert:
        what = f"the experts cannot be spread over {expert} processes"
        why = f"there {'is one' if processes == 1 else f'are {processes}'}, which {expert} does not divide"
    if what:
        yield Refusal("parallel.expert", what, why, {"parallel.expert": None})


def _expert_widths(case: Case) -> Iterator[Refusal]:
    hidden, inner, numbers = case.widths.hidden, case.widths.expert, ALIGNMENT // DTYPE_BYTES[case.hardware.device]
    if case.full or not case.widths.num_experts:
        return
    if hidden % numbers or inner % numbers:
        why = f"grouped products need widths that are multiples of {numbers}; its hidden_size is {hidden}"
        why += f" and its moe_intermediate_size {inner}"
    elif case.recipe.method == "qlora" and hidden * inner % BLOCK:
        why = f"each is quantised in whole blocks of {BLOCK} weights, and {hidden} x {inner} are none"
    else:
        return
    yield Refusal("base", "the routed experts of this base cannot be trained with adapters", why, to_dense(case.recipe))


RULES: tuple[Rule, ...] = (
    _expert_widths,
    _targets,
    _packing,
    _dora,
    _no_adapter,
    _router,
    _full_mixture,
    _rank,
    _vocabulary,
    _optimizer,
    _micro_batch,
    _length,
    _base,
    _bf16,
    _parallel,
    _spread,
)

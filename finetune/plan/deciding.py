"""Which levers a recipe pulls here: every set is worked out, and the best is taken."""

from __future__ import annotations

from finetune.data import Counts
from finetune.errors import ArtifactError
from finetune.hardware import Hardware, plannable_bytes
from finetune.levers import OPTIMIZERS
from finetune.memory import Job, adapter_shapes, count_weights, num_trainable, read_widths, state_bytes
from finetune.memory.weights import DTYPE_BYTES
from finetune.plan.candidates import Candidate, Room, best, candidates
from finetune.plan.words import as_overrides, to_dense
from finetune.recipe import Recipe
from finetune.shape import Linear, ModelShape, is_text

MODEL_TYPES = ("qwen3_5", "qwen3_5_moe")

HOST_SHARE = 0.8
"""Of the host's memory that training may fill; the system and the libraries need the rest."""


def decide(recipe: Recipe, shape: ModelShape, hardware: Hardware, counts: Counts) -> tuple[Candidate, list[Candidate]]:
    """Chooses among all sets of levers of a recipe that breaks no rule; returns the best, and all."""
    room = room_of(recipe, hardware)
    found = candidates(recipe, job_of(recipe, shape, hardware, counts), room, counts, hardware)
    return best(found, room), found


def room_of(recipe: Recipe, hardware: Hardware) -> Room:
    """Says how many bytes a process has; a machine that was only wished for has a host that is large enough."""
    host = int(HOST_SHARE * hardware.host_bytes) // hardware.on_each
    if hardware.device == "cpu":
        return Room(host, 2 * host, None)
    spare = int(recipe.memory.spare * 2**30)
    return Room(max(0, plannable_bytes(hardware) - spare), 2**60 if hardware.wished else host, hardware.card)


def targets(recipe: Recipe, shape: ModelShape) -> list[Linear]:
    """Lists the layers that get an adapter."""
    return [] if recipe.method == "full" else shape.linears(recipe.lora.targets)


def check_family(recipe: Recipe, base: str, model_type: str) -> None:
    """Refuses a base of another family.

    Raises:
        ArtifactError: it is one.
    """
    if model_type not in MODEL_TYPES:
        raise ArtifactError(
            f"{base} is not a Qwen3.5 or Qwen3.6",
            where=recipe.where("base"),
            why=f"its model_type is {model_type}; known are {', '.join(MODEL_TYPES)}",
            fix=as_overrides(to_dense(recipe)),
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
        routers=bool(shape.routers)
        and (recipe.method == "full" or recipe.lora.router)
        and recipe.train.router_aux_loss_coef != 0,
        expert_rank=expert_rank(recipe, shape),
        nf4=recipe.method == "qlora",
        e=DTYPE_BYTES[hardware.device],
        kernels=hardware.rule_kernel and hardware.device == "cuda",
        convolution=hardware.kernels,
        cuda=hardware.device == "cuda",
        length=_length(recipe, counts),
        processes=hardware.processes,
        zero=recipe.parallel.zero or 0,
        expert=recipe.parallel.expert or 1,
        scored_length=min(counts.longest_held_out or 0, recipe.data.max_length),
    )


def _length(recipe: Recipe, counts: Counts) -> int:
    """Gives the tokens of the longest row of a micro-batch: of an example, or of a pack."""
    longest = min(counts.longest or recipe.data.max_length, recipe.data.max_length)
    return min(recipe.data.max_length, recipe.train.batch_size * longest) if recipe.data.packing else longest


def expert_rank(recipe: Recipe, shape: ModelShape) -> int:
    """Gives the rank of each routed expert's adapter; 0 where they get none.

    A token meets several experts: with the rank shared out among them it meets as many numbers as in a dense layer.
    """
    if recipe.method == "full" or "experts" not in recipe.lora.targets or not shape.linears(("experts",)):
        return 0
    return recipe.lora.expert_rank or max(1, recipe.lora.rank // shape.experts_per_token)


def trained_shapes(recipe: Recipe, shape: ModelShape, linears: list[Linear]) -> list[tuple[int, ...]]:
    """Lists the shapes of the trained tensors: of adapters, DoRA's lengths of rows and routers, or of every weight."""
    if recipe.method == "full":
        return [dims for name, dims in shape.parameters.items() if is_text(name)]
    adapters = adapter_shapes(linears, recipe.lora.rank, expert_rank(recipe, shape))
    routers = shape.routers if recipe.lora.router else []
    return adapters + [(linear.shape[0],) for linear in linears if recipe.lora.dora] + routers

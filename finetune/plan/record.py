"""The plan as it is written down: consequences, nothing wished for."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from finetune.errors import ArtifactError
from finetune.levers import POSITIONS, Levers


@dataclass(frozen=True)
class Choices(Levers):
    """What the plan decided: a position for every lever, and how a step is cut into micro-batches."""

    micro_batch: int = 1
    """Examples of one forward pass on one GPU, or 1 pack of them."""
    accumulation: int = 1
    """Micro-batches of one optimizer step; of packs, the most that there can be."""


@dataclass(frozen=True)
class Alternative:
    """One way in which the processes could share out what they hold, all levers set as is best for it."""

    zero: int
    expert_parallel: int
    fits: bool
    peak_bytes: int
    wire_bytes: int
    """That one process sends in a step."""
    wire_seconds: float
    step_seconds: float
    verdict: str
    """Why it was not taken, or that it was."""


@dataclass(frozen=True)
class Plan:
    """Consequences. Nothing here is wished for; change the recipe and plan again."""

    base: str
    """A Hub id, or the name of the folder."""
    revision: str | None
    method: str
    device: str
    gpu: str
    """Name of the card; empty without one."""
    kernels: bool
    """Whether Gated DeltaNet runs on fla and causal_conv1d."""
    rule_kernel: bool
    """Whether its rule runs on fla; else on transformers' torch reference, which is slow."""
    dtype: str
    """Of the frozen weights that are not quantised, and of the arithmetic. Trained weights are float32."""
    quantisation: str | None
    unquantised: tuple[str, ...]
    target_modules: tuple[str, ...]
    num_targets: dict[str, int]
    """Linear layers that get an adapter, by family."""
    rank: int
    alpha: float
    variant: str
    """Of LoRA: dora, rslora, or none."""
    expert_rank: int
    """Of each routed expert's adapter; 0 where they have none."""
    expert_alpha: float
    """Which gives their adapters the scale of all others."""
    num_routers: int
    """That are trained beside the adapters, whole."""
    trainable_parameters: int
    total_parameters: int
    """Of the text model; vision and multi-token prediction are not loaded."""
    choices: Choices
    processes: int
    """That train together and share each step's examples."""
    nodes: int
    """Machines that they are on."""
    links: tuple[str, ...]
    """Between the processes of a machine, and between machines; none for one process."""
    zero: int
    """Stage of DeepSpeed's ZeRO, where there are several."""
    expert_parallel: int
    """Processes over which the routed experts are spread."""
    sharing: str
    """Why this stage and this spread; empty for one process."""
    alternatives: tuple[Alternative, ...]
    """All ways that the recipe leaves open, the chosen one among them; none for one process."""
    wire_bytes: dict[str, int]
    """Name -> bytes that one process sends to others in a step."""
    wire_seconds: float
    """Of a step, in which nothing is computed."""
    fits: bool
    gpu_bytes: int
    """What training may hold: of the GPU or, where there is none, of the host's memory."""
    peak_bytes: int
    """The most that training will hold there, in a micro-batch of the longest examples."""
    peak: str
    """The moment when that is."""
    static_bytes: int
    """Of the peak, what stays from the first step to the last."""
    parts: dict[str, int]
    """Name -> bytes; they add up to peak_bytes."""
    moments: dict[str, int]
    """Moment that might be the peak -> bytes held then."""
    host_bytes: int
    """Of the host's memory."""
    host_parts: dict[str, int]
    """Name -> bytes; they add up to host_bytes."""
    disk_bytes: dict[str, int]
    """Stage -> bytes that it writes."""
    merge_bytes: int
    """Of the host's memory, that merging what was learnt will take."""
    length: int
    """Tokens of the longest example, or pack, that the bytes are counted for."""
    step_seconds: float
    """Of one optimizer step, by a roofline, what is on the wire included."""
    run_seconds: float
    energy_kwh: float
    """Of all the GPUs' whole boards, at full load all the time."""
    tokens_per_second: float
    examples: int
    steps_per_epoch: int
    steps: int
    warmup_steps: int
    save_every: int
    tokens: int | None
    """Of one epoch; None while the base's tokenizer is not on disk."""
    learnt_tokens: int | None
    why: str
    """Why these choices."""
    notes: tuple[str, ...]
    cards: tuple[str, ...] = ()
    """If it does not fit: the smallest cards on which it does, as words for --gpu."""
    proposals: tuple[str, ...] = ()
    """If it does not fit: recipes near to this one that do, each as words for the command line."""

    def to_json(self) -> str:
        """Writes the plan as it stands in plan.json."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def levers_of(plan: Plan) -> str:
    """Writes the position of every lever."""
    return ", ".join(f"{name} {getattr(plan.choices, name)}" for name in POSITIONS)


def read_plan(file: Path) -> Plan:
    """Reads a run's plan.json.

    Raises:
        ArtifactError: it is not one.
    """
    try:
        text = file.read_bytes()
        plan = _PLAN.validate_json(text, strict=True)
        if odd := {field.name for field in fields(Plan)} ^ set(json.loads(text)):
            raise ValueError(f"keys too many or too few: {', '.join(sorted(odd))}")
        if plan.processes < 1 or plan.nodes < 1:
            raise ValueError("nobody trains")
        return plan
    except (OSError, ValueError) as error:
        told = _first(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        why = f"it is damaged, or another version wrote it: {told}"
        fix = f"put it back, or begin a new run: finetune train {shlex.quote(str(file.with_name('recipe.yaml')))}"
        raise ArtifactError("the run's plan cannot be read", where=str(file), why=why, fix=fix) from None


def _first(error: ValidationError) -> str:
    """Names the first value that is not what it should be."""
    found = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(map(str, found['loc'])) or 'the file'}: {found['msg']}"


_PLAN = TypeAdapter(Plan)

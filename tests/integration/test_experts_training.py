"""Whole trainings by trl and DeepSpeed, routed experts over 1, 2 and 4 processes, against a loop around plain PEFT.

All are on float32 weights, with SGD, whose steps are as near to one another as their gradients are, and with AdamW. The
rows differ in length, so micro-batches are padded; in one of two bases nearly all tokens choose the same two experts.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from processes import in_processes
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, TrainerCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from finetune.data import Example
from finetune.model import adapter_tensors, save_adapter
from finetune.model.adapter import restore_adapter
from finetune.plan import read_plan
from finetune.recipe import load
from finetune.stopping import Stop
from finetune.train.assembly import assemble
from finetune.train.batches import collate
from finetune.train.processes import join
from finetune.train.trainer import ProvingTrainer
from finetune.train.verb import begin

pytestmark = [
    pytest.mark.slow,
    # PEFT 0.21 looks for these keys among modules only, warns, and applies them to parameters all the same
    pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning"),
]

ROWS = Path(__file__).parents[2] / "data_templates" / "demo" / "train.jsonl"
STEPS = 3
RATES = {"sgd": 0.3, "adamw_torch": 0.003}
"""Of an optimizer as transformers names it: one that moves adapters about as far as they are large."""

SPREADS = {1: 1, 2: 2, 4: 0}
"""Processes over which the experts are spread, of four -> stage of ZeRO."""

CASES = [
    *((base, "sgd", spread) for base in ("even", "skewed") for spread in SPREADS),
    *(("even", "adamw_torch", 1), ("even", "adamw_torch", 2), ("skewed", "adamw_torch", 4)),
]
"""Base, optimizer and spread: gradients of all, and of each spread how AdamW takes them."""

SHARED = ("even", "sgd", 4)
"""The base, optimizer and spread whose weights ZeRO-3 shares out; hundreds of gathers a step take their time."""

Tensors = dict[str, torch.Tensor]


def skewed(base: Path, folder: Path) -> Path:
    """Copies a base with twice the experts, and routers that prefer the last two of them.

    A router has no bias: the first number of every embedding is made large, and what the router reads of it is one.
    """
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_experts"] *= 2
    (folder / "config.json").write_text(json.dumps(config))
    for shard in folder.glob("*.safetensors"):
        tensors = load_file(shard)
        for name, tensor in tensors.items():
            if ".mlp.experts." in name or name.endswith(".mlp.gate.weight"):
                tensors[name] = torch.cat([tensor, 1.1 * tensor])
            if name.endswith(".mlp.gate.weight"):
                tensors[name][-2:, 0] += 2
            if name.endswith("embed_tokens.weight"):
                tensor[:, 0] += 0.3
        save_file(tensors, shard, metadata={"format": "pt"})
    return folder


def put_together(folder: Path, name: str, *wishes: str) -> ProvingTrainer:
    """A trainer that is about to begin, its adapters as they lie in `start`, which the first one writes."""
    recipe = load(folder / "r.yaml", wishes)
    stop = Stop()
    run, dataset = begin(recipe, folder / name, stop, str)
    plan = read_plan(run.plan)
    processes = join(plan.device, plan.expert_parallel)
    base = Path(recipe.base)
    trainer, watcher = assemble(run, recipe, plan, base, dataset, stop, str, str, None, processes)
    trainer.remove_callback(watcher)
    if not (folder / "start").exists():
        torch.manual_seed(0)
        for parameter_name, parameter in trainer.model.named_parameters():
            if "lora_B" in parameter_name:
                nn.init.normal_(parameter, std=0.05)
        save_adapter(trainer.model, folder / "start", plan)
    restore_adapter(trainer.model, folder / "start")
    return trainer


def of_now(trainer: ProvingTrainer) -> Tensors:
    """The adapters as they are now, under the names of their file."""
    return {name: tensor.clone() for name, tensor in adapter_tensors(trainer.model).items()}


class Noting(TrainerCallback):
    """Notes every step's loss, and the adapters after the first step."""

    def __init__(self, trainer: ProvingTrainer) -> None:
        self.trainer, self.losses, self.first = trainer, [], {}

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if not self.first:
            self.trainer.make_whole()
            self.first = of_now(self.trainer)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **given: Any) -> None:
        self.losses += [logs["loss"]] if "loss" in logs else []


def in_one_of_four(place: int, folders: list[Path]) -> dict[Any, Any]:
    """What one process of four ends with, for each base, optimizer and spread."""
    from finetune.train import sharded

    sharded.SMALL = 500  # so that adapters of these small experts are shared out under ZeRO-3 too
    os.environ |= {"WORLD_SIZE": "4", "RANK": str(place), "LOCAL_RANK": str(place)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    found = {}
    by_name = {folder.name: folder for folder in folders}
    for name, optimizer, spread in CASES:
        stage = 3 if (name, optimizer, spread) == SHARED else SPREADS[spread]
        wishes = (f"parallel.expert={spread}", f"parallel.zero={stage}", f"train.learning_rate={RATES[optimizer]}")
        trainer = put_together(by_name[name], f"{optimizer}-{spread}", *wishes)
        trainer.args.optim = optimizer
        noting = Noting(trainer)
        trainer.add_callback(noting)
        trainer.train()
        trainer.make_whole()
        unset_hf_deepspeed_config()  # else transformers would make the next model under ZeRO-3 too
        found[name, optimizer, spread] = noting.losses, noting.first, of_now(trainer)
    return found


def plain_peft(folder: Path, optimizer: str) -> tuple[list[float], Tensors, Tensors, float]:
    """The same steps by hand, through a model that knows nothing of us; and the least skew of a router's choices."""
    recipe = load(folder / "r.yaml")
    torch.manual_seed(0)
    bare = AutoModelForCausalLM.from_pretrained(recipe.base, dtype=torch.float32)
    model = PeftModel.from_pretrained(bare, folder / "start", is_trainable=True).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    make = {"sgd": torch.optim.SGD, "adamw_torch": torch.optim.AdamW}[optimizer]
    stepper = make(trained, lr=RATES[optimizer], weight_decay=0.0)
    chosen: list[torch.Tensor] = []
    for module in model.modules():
        if type(module).__name__ == "Qwen3_5MoeTopKRouter":
            module.register_forward_hook(lambda router, given, out: chosen.append(out[2]))
    losses, first = [], {}
    for _ in range(STEPS):
        stepper.zero_grad()
        total = 0.0
        for batch, count in micro_batches(folder):
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
            labels = batch["labels"][:, 1:]
            loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / count
            loss.backward()
            total += loss.item()
        stepper.step()
        losses.append(total)
        first = first or written(model)
    num_experts = bare.config.get_text_config().num_experts
    loads = [each.flatten().bincount(minlength=num_experts).float() for each in chosen]
    skews = [(load.max() / load.mean()).item() for load in loads]
    return losses, first, written(model), min(skews)


def written(model: PeftModel) -> Tensors:
    """What PEFT itself would write down."""
    return {name: t.clone() for name, t in get_peft_model_state_dict(model, save_embedding_layers=False).items()}


def micro_batches(folder: Path) -> Iterator[tuple[dict[str, torch.Tensor], int]]:
    """All rows, in the order of the file, three at a time, with how many tokens are learnt in all of them."""
    examples = [Example(ids, learnt, "") for ids, learnt in torch.load(folder / "rows.pt")]
    count = sum(learnt for example in examples for learnt in example.learnt[1:])
    for first in range(0, len(examples), 3):
        yield collate([{"index": row} for row in range(first, first + 3)], examples=examples, pad=0), count


@pytest.fixture(scope="module")
def found(pico_moe_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """For each base and optimizer: what plain PEFT ends with, what each of our spreads does, and where all began."""
    folders = []
    for name in ("even", "skewed"):
        folder = tmp_path_factory.mktemp("trainings") / name
        folder.mkdir()
        base = skewed(pico_moe_base, folder / "base") if name == "skewed" else pico_moe_base
        (folder / "rows.jsonl").write_text("".join(ROWS.read_text().splitlines(keepends=True)[:12]))
        (folder / "r.yaml").write_text(
            f"base: {base}\nmethod: lora\nlora: {{rank: 4}}\n"
            "data: {train: rows.jsonl, eval: 0.0, max_length: 512}\nmemory: {micro_batch: 3}\n"
            f"train: {{batch_size: 12, max_steps: {STEPS}, schedule: constant, warmup: 0.0, max_grad_norm: 1.0e+9}}\n"
        )
        trainer = put_together(folder, "start-of-all")
        torch.save([(example.ids, example.learnt) for example in trainer.examples], folder / "rows.pt")
        folders.append(folder)
    ours = in_processes(4, in_one_of_four, folders)
    told = {}
    for folder in folders:
        for optimizer in RATES:
            cases = [case for case in CASES if case[:2] == (folder.name, optimizer)]
            spreads = {case[2]: [each[case] for each in ours] for case in cases}
            start = load_file(folder / "start" / "adapter_model.safetensors")
            told[folder.name, optimizer] = plain_peft(folder, optimizer), spreads, start
    return told


def apart(one: Tensors, other: Tensors, start: Tensors) -> float:
    """The largest distance of two adapters' tensors, as a share of how far they came from their start."""
    assert one.keys() == other.keys() == start.keys()
    return max(((one[n] - other[n]).norm() / (other[n] - start[n]).norm()).item() for n in start)


@pytest.mark.parametrize(
    ("optimizer", "tolerance"),
    # SGD: sums in another order, in float32, four times. AdamW divides a gradient by its size, so where there is nearly
    # none, its last bits decide which way a number moves
    [("sgd", 5e-6), ("adamw_torch", 5e-4)],
)
@pytest.mark.parametrize(("base", "skew"), [("even", 1.0), ("skewed", 8.0)])
def test_however_experts_are_spread_a_training_ends_where_plain_peft_does(
    found: dict[Any, Any], base: str, skew: float, optimizer: str, tolerance: float, within: Any
) -> None:
    (losses, first, last, least_skew), spreads, start = found[base, optimizer]
    assert least_skew >= skew, "in every layer and micro-batch"
    nothing = {name: torch.zeros(()) for name in start}
    for spread, of_each in spreads.items():
        case = f"experts over {spread}, {base}, {optimizer}:"
        for their_losses, their_first, their_last in of_each:
            off = max(abs(one / other - 1) for one, other in zip(their_losses, losses, strict=True))
            within(f"{case} losses", off, 1e-6)
            if optimizer == "sgd":  # the first step is the gradient times the rate
                within(f"{case} gradients", apart(their_first, first, start), 1e-5)
                within(f"{case} adapters, of their size", apart(their_last, last, nothing), 1e-6)
            within(f"{case} adapters, of their way", apart(their_last, last, start), tolerance)

"""trl's trainer with five habits of ours: a loss that holds no logits, finite or stopped, staged and verified, warm
from the first step, no pickle of its arguments.

Accumulation, clipping, the optimizers and the loop are trl's and transformers'.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch.utils.data import DataLoader
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import load_balancing_loss_func
from trl import SFTTrainer

from finetune.data import Example, lengths_of
from finetune.errors import ArtifactError, TrainingStopped
from finetune.experts.loads import LoadCounter, Loads, expert_blocks
from finetune.model import (
    TokenLosses,
    bytes_by_dtype,
    causal_losses,
    causal_of,
    compute_device,
    frozen_sha256,
    restore_adapter,
    save_adapter,
)
from finetune.plan import Plan
from finetune.recipe import Recipe
from finetune.run import Run, anew, checkpoint
from finetune.train.batches import Shuffled, StepBatches, borders_in, micro_batches
from finetune.train.processes import ALONE, Processes

FULL_WEIGHTS = "model.safetensors"
BASE = "base.sha256"
"""In a checkpoint: of the frozen weights, as they lay in memory. Shards are only sampled when a run begins."""


class ProvingTrainer(SFTTrainer):
    """A trainer that stops rather than train on what is not finite, and saves only what can be resumed from."""

    processes: Processes = ALONE

    def __init__(self, run: Run, recipe: Recipe, plan: Plan, examples: Sequence[Example], **given: Any) -> None:
        self.finetune_run, self.recipe, self.plan, self.examples = run, recipe, plan, examples
        self.lengths = array("L", lengths_of(examples))
        self.order = Shuffled(len(examples), recipe.train.seed)
        super().__init__(**given)
        for parameter in self.model.parameters():
            if parameter.requires_grad:  # trl casts adapters of a quantised base to bf16, resume casts them back
                parameter.data = parameter.data.float()
        self.base_sha256 = frozen_sha256(self.model, self.processes.gather)
        blocks = expert_blocks(self.model)
        self.load_counter = LoadCounter(blocks) if blocks else None
        self._auxiliary = torch.zeros((), device=compute_device(self.model))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Gives the mean loss of the learnt tokens, and keeps what is told of them."""
        assert not return_outputs, "nobody here asks for logits"
        with self.load_counter.counting(inputs["attention_mask"]) if self.load_counter else nullcontext():
            losses, auxiliary = self.losses(model, inputs)
        count = len(losses.nll) if num_items_in_batch is None else num_items_in_batch
        told = self._metrics["train"]
        told["entropy"].append(losses.entropy.mean().item() if len(losses.nll) else 0.0)
        told["mean_token_accuracy"].append(losses.is_top1.float().mean().item() if len(losses.nll) else 0.0)
        self._total_train_tokens += int(inputs["attention_mask"].sum())
        told["num_tokens"] = [self._total_train_tokens]
        # several processes: the count is of all their tokens, and an engine takes the mean of their gradients
        loss = self.processes.size * losses.nll.sum() / torch.as_tensor(count).clamp(min=1)
        if auxiliary is None:
            return loss
        share = inputs["attention_mask"].sum() / self._step_tokens
        self._auxiliary += share * auxiliary.detach()
        return loss + self.router_aux_loss_coef * self.processes.size * share * auxiliary

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Counts a step's tokens in all processes: a micro-batch's auxiliary loss weighs as much as its share of them.

        In a plain mean one that is nearly all padding, or filler, would weigh as much as a full one.
        """
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.aux_loss_enabled and batches:
            tokens = torch.stack([batch["attention_mask"].sum() for batch in batches]).sum()
            self._step_tokens = self.processes.add_up(tokens)
        return batches, count

    def get_train_dataloader(self) -> Any:
        """Gives the micro-batches of this process, or whole steps where they are packed.

        Which examples a step has, in which order, is the same however they are laid out.
        """
        batches = StepBatches(
            self.order,
            self.lengths,
            micro_batch=self.args.per_device_train_batch_size,
            accumulation=self.args.gradient_accumulation_steps,
            processes=self.processes.size,
        )
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def _run_epoch(self, model: Any, epoch: int, *given: Any, **named: Any) -> None:
        """Tells the order its epoch: what accelerate puts around it on several processes that resume tells it nothing.

        Source: transformers 5.23, trainer.py, `_run_epoch`; accelerate 1.15, data_loader.py, `set_epoch`.
        """
        self.order.set_epoch(epoch)
        super()._run_epoch(model, epoch, *given, **named)

    def losses(self, model: Any, inputs: dict[str, Any]) -> tuple[TokenLosses, torch.Tensor | None]:
        """Gives the losses of the learnt tokens and, of a mixture of experts, how unevenly its routers choose.

        The model gets no attention mask: batches are padded on the right, and neither causal attention nor the
        recurrence of Gated DeltaNet looks there. A mask would cost a square of the length in memory; transformers
        makes one of the positions of a pack.
        """
        causal = causal_of(model)
        asked = {"output_router_logits": True} if self.aux_loss_enabled else {}
        device = compute_device(model).type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.plan.dtype == "bfloat16"):
            out = causal.model(input_ids=inputs["input_ids"], use_cache=False, **borders_in(inputs), **asked)
            losses = causal_losses(out.last_hidden_state, inputs["labels"], causal.lm_head)
        if not self.aux_loss_enabled:
            return losses, None
        text, mask = causal.config.get_text_config(), inputs["attention_mask"]
        mask = mask.where(mask.any(), 1)  # of filler rows alone: transformers would divide by no tokens; they weigh 0
        return losses, load_balancing_loss_func(out.router_logits, text.num_experts, text.num_experts_per_tok, mask)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Runs one micro-batch, or all packs of a step, forward and backward, and looks at what came out.

        Raises:
            TrainingStopped: the loss or a gradient is not finite; nothing was updated.
        """
        total = torch.zeros((), device=self.args.device)
        for micro_batch in micro_batches(inputs):
            rows = micro_batch.pop("index").tolist()
            loss = super().training_step(model, micro_batch, num_items_in_batch)
            self._look_at(model, loss, rows)
            total += loss
        return total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to a step's figures how its routers shared out the tokens of all processes, and the loss for that."""
        if self.aux_loss_enabled and "loss" in logs:
            logs["aux_loss"] = self.processes.add_up(self._auxiliary).item()
            self._auxiliary.zero_()
        if self.load_counter and "loss" in logs:
            counted = Loads(self.processes.add_up(self.load_counter.take()).cpu())
            skew = counted.skew
            logs |= {
                "router_skew": sum(skew) / len(skew),
                "router_skew_max": max(skew),
                "router_idle": sum(counted.idle),
            }
        super().log(logs, start_time)

    def gradients(self, *kinds: str) -> dict[str, bool]:
        """Tells of each trained parameter of these kinds whether it has a gradient."""
        trained = [(name, p) for name, p in self.model.named_parameters() if _is_of(name, kinds)]
        return {name: p.grad is not None and bool(p.grad.any()) for name, p in trained}

    def make_whole(self) -> None:
        """Makes sure that this process has the trained weights; every process calls it."""

    def held_bytes(self) -> dict[str, int]:
        """Adds up the bytes of the weights that this process holds, by dtype."""
        return bytes_by_dtype(self.model)

    def _look_at(self, model: Any, loss: torch.Tensor, rows: list[int]) -> None:
        norm = _norm([p.grad for p in model.parameters() if p.grad is not None])
        finite_loss, finite_norm = torch.isfinite(torch.stack([loss.float(), norm.to(loss.device)])).tolist()
        if not (finite_loss and finite_norm):
            what = "the loss" if not finite_loss else "a gradient"
            raise self._not_finite(what, f"at step {self.state.global_step + 1} (loss {loss.item()})", rows)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Makes the learning rate rise from the very first step, so that no step trains nothing."""
        rate = partial(
            rate_at,
            plan_steps=self.plan.steps,
            warmup=self.plan.warmup_steps,
            schedule=self.recipe.train.schedule,
        )
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, rate)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        checkpoint.save(self.finetune_run.checkpoints, self.state.global_step, self._write_state)
        checkpoint.prune(self.finetune_run.checkpoints, self.recipe.train.keep_checkpoints)

    def _write_state(self, folder: Path) -> None:
        """Writes everything that the next step depends on; the caller stages, hashes and renames.

        Raises:
            TrainingStopped: a weight is not finite; the caller removes what was written.
        """
        if not torch.isfinite(_norm([p.detach() for p in self.model.parameters() if p.requires_grad])):
            raise self._not_finite("a trained weight", f"after step {self.state.global_step}")
        (folder / BASE).write_text(self.base_sha256)
        if self.plan.method == "full":
            save_model(self.model, str(folder / FULL_WEIGHTS))
        else:
            save_adapter(self.model, folder, self.plan)
        self._save_optimizer_and_scheduler(str(folder))
        self._save_rng_state(str(folder))
        self.state.save_to_json(str(folder / "trainer_state.json"))

    def restore(self, folder: Path) -> None:
        """Puts the trained weights of a checkpoint back over the base that they were trained on.

        Raises:
            ArtifactError: the base is another one, or the weights do not fit it.
        """
        if (folder / BASE).read_text() != self.base_sha256:
            raise ArtifactError(
                "the base's weights changed since the run began",
                where=self.plan.base,
                why=f"they are not those that {folder} was trained on",
                fix=f"put them back, or begin a new run: {anew(self.finetune_run)}",
            )
        if self.plan.method == "full":
            load_model(self.model, folder / FULL_WEIGHTS)
        else:
            restore_adapter(self.model, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.restore(Path(resume_from_checkpoint))

    def _not_finite(self, what: str, when: str, rows: Sequence[int] = ()) -> TrainingStopped:
        newest = checkpoint.newest_verified(self.finetune_run.checkpoints)
        kept = f"the last good state is {newest.path}" if newest.path else "no checkpoint was written yet"
        rate = min(self.recipe.train.learning_rate / 2, 1e-2)
        return TrainingStopped(
            f"{what} is not finite {when}",
            where=", ".join(dict.fromkeys(self.examples[row].place for row in rows)) or str(self.finetune_run.path),
            why=("these rows were in the micro-batch; nothing was updated or saved, " if rows else "") + kept,
            fix=("look at the rows, or " if rows else "") + f"begin again with --set train.learning_rate={rate:g}",
        )


def _norm(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Gives the norm of all tensors together; it is finite if each of their numbers is."""
    return torch.stack(torch._foreach_norm(tensors)).norm()


def _is_of(name: str, kinds: Sequence[str]) -> bool:
    return any(kind in name for kind in kinds)


def rate_at(step: int, *, plan_steps: int, warmup: int, schedule: str) -> float:
    """Gives the factor on the learning rate for an optimizer step, counted from 0."""
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, plan_steps - warmup))
    return 1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))

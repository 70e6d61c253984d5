"""Our trainer over several processes, under DeepSpeed's ZeRO: each takes its share of every step's examples.

What is learnt does not depend on how many there are: the examples of a step are those that one process would take, the
loss is over all of their tokens, and a checkpoint holds whole tensors under the names that one process writes.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepspeed.utils import safe_get_full_optimizer_state, safe_set_full_optimizer_state
from torch import nn

from finetune.memory import REDUCED_AT_ONCE
from finetune.train import sharded
from finetune.train.processes import Processes
from finetune.train.trainer import ProvingTrainer, _is_of, _norm

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's two states, as torch and DeepSpeed name them."""


def engine_settings(
    *, micro_batch: int, accumulation: int, size: int, zero: int, max_grad_norm: float
) -> dict[str, Any]:
    """Gives DeepSpeed's configuration. Weights stay as they are: autocast computes in bfloat16, sums are float32."""
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": micro_batch * accumulation * size,
        "gradient_clipping": max_grad_norm,  # DeepSpeed 0.19 would clip to 1.0 if nothing were said
        "zero_optimization": {"stage": zero, "reduce_bucket_size": REDUCED_AT_ONCE, **sharded.settings(zero)},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**62,
    }


class DistributedTrainer(ProvingTrainer):
    """The trainer of one process among several."""

    def __init__(self, processes: Processes, zero: int, *given: Any, **more: Any) -> None:
        self.processes, self.zero = processes, zero
        self._moved: set[str] = set()
        self._looked: list[tuple[torch.Tensor, list[int]]] = []
        super().__init__(*given, **more)
        self._hooks = [parameter.register_hook(self._noting(name)) for name, parameter in self._trained_by_name()]

    def compute_loss(self, model: Any, inputs: dict[str, Any], *given: Any, **more: Any) -> torch.Tensor:
        """Gives this process's part of the loss.

        The engine hears of the gradients through hooks on the parameters. Its own forward would run the model in
        another way; what it counts is counted here: in stage 3 a micro-batch that is not takes the last one's place.
        """
        if self.zero and self.deepspeed is not None:
            self.deepspeed.optimizer.clear_backward_seen_flag()
        return super().compute_loss(self.model, inputs, *given, **more)

    def gradients(self, *kinds: str) -> dict[str, bool]:
        """Tells of each trained parameter of these kinds whether any process got a gradient since it was asked."""
        moved = set().union(*self.processes.gather(self._moved))
        self._moved.clear()
        return {name: name in moved for name, _ in self._trained_by_name() if _is_of(name, kinds)}

    def _noting(self, name: str) -> Any:
        def note(gradient: torch.Tensor) -> None:
            if name not in self._moved and bool(gradient.any()):
                self._moved.add(name)

        return note

    def _look_at(self, model: Any, loss: torch.Tensor, rows: list[int]) -> None:
        """Looks, at a step's last micro-batch, at the losses of all, and at the weights: the engine has taken its step.

        Raises:
            TrainingStopped: one of them is not finite in one of the processes; nothing is saved.
        """
        self._looked.append((torch.isfinite(loss), [row for row in rows if row >= 0]))
        if not self.accelerator.sync_gradients:
            return
        if self.state.global_step > 1:  # who is alive was asked in the first two steps
            while self._hooks:
                self._hooks.pop().remove()
        looked, self._looked = self._looked, []
        weights = torch.isfinite(_norm([sharded.held(p) for p in self._trained()]))
        fine = torch.stack([*(found for found, _ in looked), weights.to(loss.device)])
        if self.processes.add_up((~fine).sum()).item():
            mine = [row for found, rows in looked if not found for row in rows]
            wrong = [row for rows in self.processes.gather(mine) for row in rows]
            raise self._not_finite("the loss or a gradient", f"at step {self.state.global_step + 1}", wrong)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """Puts a checkpoint's weights in before the engine takes its copies of them, and its states in afterwards."""
        if resume_from_checkpoint is not None:
            self.restore(Path(resume_from_checkpoint))
        made = super()._prepare_for_training(max_steps, train_dataloader, None)
        if self.zero == 3:
            sharded.keep_whole(self.deepspeed, self.model)
        if resume_from_checkpoint is not None:
            self._load_states(Path(resume_from_checkpoint))
        return made

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._states, self._random = self._whole_states(), self.processes.gather(_random_state())
        with sharded.whole(self._trained()):
            if self.processes.first:
                super()._save_checkpoint(model, trial)
        self.processes.gather(None)  # nobody goes on before it is written

    def make_whole(self) -> None:
        """Gathers the trained weights, of which ZeRO-3 leaves each process a share; every process calls it."""
        sharded.make_whole(self._trained())

    def held_bytes(self) -> dict[str, int]:
        """Adds up what this process holds between steps."""
        return sharded.held_bytes(self.model)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        torch.save(self._states, f"{output_dir}/optimizer.pt")
        torch.save(_of_groups(self.lr_scheduler.state_dict(), 2), f"{output_dir}/scheduler.pt")

    def _save_rng_state(self, output_dir: str) -> None:
        torch.save(self._random[0] | {"processes": self._random}, f"{output_dir}/rng_state.pth")

    def _load_rng_state(self, folder: str | None) -> None:
        if folder is None:
            return
        told = torch.load(f"{folder}/rng_state.pth", weights_only=False)
        states = told.get("processes", [told])
        if len(states) == self.processes.size:  # else dropout draws other numbers from here on
            _set_random_state(states[self.processes.place])

    def _whole_states(self) -> dict[str, Any]:
        """Gathers AdamW's states as torch writes them in one process; every process calls it."""
        optimizer, state = self._torch_optimizer(), {}
        steps = [each["step"] for each in optimizer.state.values()]
        for number, parameter in enumerate(self._trained()):
            state[number] = {moment: self._moment(parameter, moment) for moment in MOMENTS} | {
                "step": steps[0].cpu().clone()
            }
        told = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
        decayed = sum(name in self._decayed() for name, _ in self._trained_by_name())
        groups = [
            told | {"weight_decay": self.args.weight_decay, "params": list(range(decayed))},
            told | {"weight_decay": 0.0, "params": list(range(decayed, len(state)))},
        ]
        return {"state": state, "param_groups": groups}

    def _load_states(self, folder: Path) -> None:
        """Takes AdamW's states and the scheduler's from a checkpoint, whoever wrote it."""
        told = torch.load(folder / "optimizer.pt", weights_only=True)
        saved, optimizer = told["state"], self._torch_optimizer()
        for group in optimizer.param_groups:
            group["lr"] = told["param_groups"][0]["lr"]
        for tensor in self._stepped():
            zeros = {moment: torch.zeros_like(tensor) for moment in MOMENTS}
            optimizer.state[tensor] = zeros | {"step": saved[0]["step"].clone()}
        if self.zero in (1, 2):
            self.deepspeed.optimizer._lazy_init_hp_params_optimizer_state()
        for number, parameter in enumerate(self._trained()):
            for moment in MOMENTS:
                value = saved[number][moment].to(parameter.device)
                if self.zero == 3:
                    sharded.set_state(parameter, value, moment, place=self.processes.place)
                elif self.zero:
                    safe_set_full_optimizer_state(parameter, value, moment)
                else:
                    optimizer.state[parameter][moment].copy_(value)
        scheduler = torch.load(folder / "scheduler.pt", weights_only=True)
        self.lr_scheduler.load_state_dict(_of_groups(scheduler, len(optimizer.param_groups)))

    def _moment(self, parameter: nn.Parameter, moment: str) -> torch.Tensor:
        whole = (
            safe_get_full_optimizer_state(parameter, moment)
            if self.zero
            else self._torch_optimizer().state[parameter][moment]
        )
        return whole.detach().cpu().clone()

    def _torch_optimizer(self) -> torch.optim.Optimizer:
        """Gives AdamW itself, which ZeRO keeps inside its own."""
        outer = self.deepspeed.optimizer
        return outer.optimizer if self.zero else outer

    def _stepped(self) -> list[torch.Tensor]:
        """Lists the tensors that AdamW steps, of which stage 3 shows it one at a time."""
        if self.zero == 3:
            return list(self.deepspeed.optimizer.fp32_partitioned_groups_flat)
        return [tensor for group in self._torch_optimizer().param_groups for tensor in group["params"]]

    def _decayed(self) -> set[str]:
        return set(self.get_decay_parameter_names(self.model))

    def _trained_by_name(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    def _trained(self) -> list[nn.Parameter]:
        """Lists the trained parameters in the optimizer's order: those that decay first."""
        decayed = self._decayed()
        return [p for _, p in sorted(self._trained_by_name(), key=lambda named: named[0] not in decayed)]


def _of_groups(scheduler: dict[str, Any], number: int) -> dict[str, Any]:
    """Gives a scheduler's state for so many groups of parameters; all have the same rate, and ZeRO drops empty ones."""
    return scheduler | {key: value[:1] * number for key, value in scheduler.items() if isinstance(value, list)}


def _random_state() -> dict[str, Any]:
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()} | cuda


def _set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])

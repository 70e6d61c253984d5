"""What happens between the steps: gradients shown alive, held-out rows scored, checkpoints due, signals heard."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from transformers import TrainerCallback

from finetune.data import Example
from finetune.errors import TrainingStopped
from finetune.model import family_of, score
from finetune.plan import Plan
from finetune.recipe import override
from finetune.run import Run, metrics, resume
from finetune.stopping import Stop

KEPT = (
    "loss",
    "aux_loss",
    "grad_norm",
    "learning_rate",
    "epoch",
    "mean_token_accuracy",
    "entropy",
    "router_skew",
    "router_skew_max",
    "router_idle",
)


class Watcher(TrainerCallback):
    """Watches a training from the inside and writes what it sees to metrics.jsonl."""

    def __init__(
        self,
        run: Run,
        plan: Plan,
        held_out: Sequence[Example],
        stop: Stop,
        report: Callable[[dict[str, Any]], None],
    ) -> None:
        self.run, self.plan, self.held_out, self.stop, self.report = run, plan, held_out, stop, report
        self.trainer: Any = None
        self.stopped = False
        self._began = self._seconds = 0.0
        self._tokens = 0.0

    def record(self, **told: Any) -> None:
        """Appends one line to metrics.jsonl and shows it, in the first of several processes."""
        if not self.trainer.processes.first:
            return
        metrics.append(self.run.metrics, told)
        self.report(told)

    def evaluate(self, step: int) -> None:
        """Scores the held-out examples where that is due and not done; draws no random number.

        The state of the step is on the disk by then, so that a stop need not wait for all of them:
        a resumed run begins with those of the step it resumes from.

        Raises:
            Interrupted: a signal came before the last example.
            TrainingStopped: the loss of an example is not finite.
        """
        if not self.held_out or not self._due(step):
            return
        if any(r["step"] == step and "held_out_loss" in r for r in metrics.read(self.run.metrics)):
            return
        found = score(self.trainer.model, self._until_stopped(self.held_out))
        if not math.isfinite(found.loss):
            wrong = [e.place for e, loss in zip(self.held_out, found.losses, strict=True) if not math.isfinite(loss)]
            raise TrainingStopped(
                f"the held-out loss is not finite at step {step}",
                where=", ".join(dict.fromkeys(wrong)),
                why="these held-out rows overflow, or the weights no longer make sense",
                fix="look at the rows",
            )
        self.record(step=step, held_out_loss=found.loss, held_out_tokens=sum(found.tokens))
        if (trainer := self.trainer).args.report_to:
            told = {"held_out_loss": found.loss}
            trainer.callback_handler.on_log(trainer.args, trainer.state, trainer.control, told)

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Scores the base, or what a process that was killed while it scored had left to do."""
        self.evaluate(state.global_step)
        self.trainer.processes.begin_steps()

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Scores what was just saved."""
        self.evaluate(state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Starts the clock of a step."""
        self._began = time.monotonic()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Shows in the first two steps that every family learns.

        An adapter begins with B = 0: the first step moves B only, the second moves A too. PEFT keeps trained routers
        under `modules_to_save`; they move from the first step on.
        """
        if state.global_step == 0:
            routers = ("modules_to_save",) if self.plan.num_routers else ()
            self._show_alive(1, *(("lora_B", *routers) if self.plan.method != "full" else ("",)))
        elif state.global_step == 1 and self.plan.method != "full":
            self._show_alive(2, "lora_A")

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Decides whether to save or stop; transformers saves after this returns."""
        self._seconds = time.monotonic() - self._began
        step = state.global_step
        control.should_save = self._due(step) or step % self.plan.save_every == 0
        asked = [signal for signal in self.trainer.processes.gather(self.stop.signal) if signal]
        if asked and step < self.plan.steps:
            self.stop.signal = asked[0]  # whoever heard it, all of them were asked to stop
            self.stopped = True
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **given: Any) -> None:
        """Writes a step's figures. Those that depend on the clock end in `_seconds` or `_per_second`."""
        if "loss" not in logs:
            return
        new_tokens, self._tokens = logs["num_tokens"] - self._tokens, logs["num_tokens"]
        told = {key: logs[key] for key in KEPT if key in logs}
        rate = new_tokens / self._seconds
        self.record(step=state.global_step, **told, step_seconds=self._seconds, tokens_per_second=rate)

    def _due(self, step: int) -> bool:
        return step % self.plan.steps_per_epoch == 0 or step == self.plan.steps

    def _until_stopped(self, examples: Sequence[Example]) -> Iterator[Example]:
        for example in examples:
            if self.trainer.processes.size == 1:  # several go on together to the end of the step
                self.stop.check(resume(self.run.path))
            yield example

    def _show_alive(self, step: int, *kinds: str) -> None:
        what = " and ".join(kinds).replace("modules_to_save", "routers") or "weights"
        alive: Counter[str] = Counter()
        dead: Counter[str] = Counter()
        for name, moved in self.trainer.gradients(*kinds).items():
            (alive if moved else dead)[family_of(name)] += 1
        if without := [family for family in dead if not alive[family]]:
            raise TrainingStopped(
                f"{what if any(kinds) else 'the weights'} of {', '.join(without)} got no gradient at step {step}",
                where=str(self.run.path),
                why="an adapter without a gradient learns nothing, however many steps follow",
                fix=self._way_out(without, [family for family in alive if family != "router"]),
            )
        self.record(step=step, gradients={"of": what, "alive": dict(alive), "dead": dict(dead)})

    def _way_out(self, dead: list[str], alive: list[str]) -> str:
        if dead == ["router"]:
            return override("lora.router=false")
        return (
            override(f"lora.targets=[{','.join(alive)}]") if alive else "--set train.warmup=0.03   # or a larger rate"
        )

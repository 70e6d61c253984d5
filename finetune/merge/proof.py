"""Proves that a merged model answers as the one that was trained: both are run from disk, and compared.

That one is the base with the adapter beside it, or the weights that method `full` left, in float32. A merged weight is
rounded to bfloat16, so the two can never be equal. What rounding may do is measured, not guessed: the tuning itself
moves the answers by some distance, and a merged model that is 20 times nearer has kept it; where the tuning moved them
by hardly more than rounding does, the weights of the tuned model are moved by a rounding error drawn by chance.

That each weight is right is proven elsewhere (finetune/merge/probing.py and trained.py); this proves that they make a
model: names, places, config and tokens, as transformers' own class puts them together from what lies in the folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from finetune.errors import ProofFailed
from finetune.hardware import detect
from finetune.merge.changes import CPU
from finetune.merge.logits import Comparison, Distance
from finetune.merge.ondisk import Blur, model_on_disk, states
from finetune.merge.prompts import Prompts
from finetune.merge.rounding import unit_in_the_last_place
from finetune.merge.trained import Tuned
from finetune.merge.weights import Weights
from finetune.plan import Plan
from finetune.run import Claim, claim

MOST_SHARE = 0.05
"""Of the tuning's own distance, that the merged model may be away from what was trained: it keeps at least 95 %."""

MOST_ROUNDINGS = 10.0
"""Times the distance that rounding errors drawn by chance make. One draw differs from another, most where a router
chooses between experts that it likes nearly alike: 0.6 to 1.4 were seen."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Proven:
    """What was measured, against the model that was trained."""

    tuned: str
    """What that one is."""
    merged: Distance
    base: Distance
    rounding: Distance | None
    """Of errors drawn by chance; None where the first bound is enough."""

    @property
    def most_kl(self) -> float:
        """What the merged model may be away."""
        by_tuning = MOST_SHARE * self.base.mean_kl
        return by_tuning if self.rounding is None else max(by_tuning, MOST_ROUNDINGS * self.rounding.mean_kl)

    @property
    def share(self) -> float:
        """Of the tuning's own distance, that rounding takes the merged model away."""
        return self.merged.mean_kl / self.base.mean_kl if self.base.mean_kl > 0 else 0.0

    @property
    def holds(self) -> bool:
        """Tells whether it is near enough; of a figure that is not finite it is not."""
        return self.merged.mean_kl <= self.most_kl and math.isfinite(self.merged.max_difference)


@dataclass(frozen=True)
class _Ran:
    """A model that was run."""

    weights: Weights
    states: torch.Tensor
    """(tokens, hidden), what goes into its head."""
    blurred: Blur | None = None
    """Of the head."""


def compare_answers(tuned: Tuned, base: Weights, merged: Weights, plan: Plan, prompts: Prompts, say: Report) -> Proven:
    """Runs base, the tuned model, and merged over the prompts, one matrix after another, in float32.

    Args:
        tuned: as training left it.
        base: of it.
        merged: what came of both.
        plan: of the run.
        prompts: what is asked.
        say: is told which of them runs.
    """
    device = torch.device("cuda", 0) if detect().device == "cuda" else CPU
    ids = torch.tensor(prompts.ids, device=device)

    def run(model: Tuned, blurred: Blur | None = None) -> _Ran:
        say(f"proof: {model.told}{', weights blurred' if blurred else ''}")
        hidden = states(model_on_disk(model.weights, plan, model.beside, blurred, device), ids).cpu()
        return _Ran(model.weights, hidden, None if model.beside else blurred)  # no adapter here is on a head

    wanted = run(tuned)
    found = _distances(wanted, [run(Tuned("merged", merged, None)), run(Tuned("base", base, None))])
    proven = Proven(tuned.told, found[0], found[1], None)
    if not proven.holds:
        (rounding,) = _distances(wanted, [run(tuned, blur(seed=0))])
        proven = Proven(tuned.told, found[0], found[1], rounding)
    return proven


def claims_of(proven: Proven, prompts: Prompts) -> list[Claim]:
    """Writes down what was measured.

    Raises:
        ProofFailed: the merged model is too far from the tuned one.
    """
    merged, base = proven.merged, proven.base
    if not proven.holds:
        why = (
            f"mean KL {merged.mean_kl:.3g} nats a token over {prompts.told}; {proven.most_kl:.3g} is allowed, "
            f"and the base itself is {base.mean_kl:.3g} away"
        )
        raise ProofFailed(f"the merged model does not answer as {proven.tuned} do", why=why)
    beside = f"merged against {proven.tuned}, {prompts.told}"
    told: list[Claim] = [
        {
            "claim": f"mean KL in nats a token, {beside}",
            "measured": merged.mean_kl,
            "tolerance": proven.most_kl,
            "holds": True,
        },
        claim(f"mean KL of the base against {proven.tuned}, for scale", base.mean_kl),
        claim("largest difference of a logit", merged.max_difference),
        claim("share of tokens whose likeliest next token is the same", merged.agreement),
        claim("the same of the base, for scale", base.agreement),
    ]
    if proven.rounding is not None:
        told.append(claim("mean KL that rounding errors by chance make", proven.rounding.mean_kl))
    return told


def blur(seed: int) -> Blur:
    """Gives a function that adds to each weight an error such as rounding it to bfloat16 makes.

    It is drawn evenly from half a unit in the last place below to half a unit above.
    """
    generator = torch.Generator().manual_seed(seed)

    def blurred(rows: torch.Tensor) -> torch.Tensor:
        drawn = torch.rand(rows.shape, generator=generator) - 0.5
        return rows + drawn * unit_in_the_last_place(rows, "BF16")

    return blurred


def _distances(tuned: _Ran, others: list[_Ran]) -> list[Distance]:
    """Passes what goes into the heads through them, and compares each with what the tuned model says."""
    compared = [(Comparison(len(tuned.states)), other) for other in others]
    name = tuned.weights.head
    for first, rows in tuned.weights.rows(name):
        wanted = tuned.states @ rows.T
        for comparison, other in compared:
            own = rows if other.weights is tuned.weights else other.weights.part(name, first, first + len(rows))
            own = other.blurred(own) if other.blurred else own
            comparison.take(first, wanted, other.states @ own.T)
    return [comparison.distance() for comparison, _ in compared]

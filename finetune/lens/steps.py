"""The examples of one optimizer step, as they lie in it: end to end in packs, or side by side, longest first."""

from __future__ import annotations

from dataclasses import dataclass

from finetune.data import Dataset
from finetune.data.batches import longest_first, num_steps, packs, rows_of_step
from finetune.errors import RecipeError
from finetune.lens.choosing import Shown
from finetune.recipe import Recipe


@dataclass(frozen=True)
class Step:
    """What an optimizer step learns."""

    number: int
    """From 1."""
    of: int
    """Steps of the run."""
    epoch: int
    """From 1."""
    packs: tuple[tuple[Shown, ...], ...]
    """Examples end to end; where nothing is packed one, of all examples."""
    packed: bool

    @property
    def examples(self) -> list[Shown]:
        """All its examples, in the order in which they lie."""
        return [shown for pack in self.packs for shown in pack]


def step_of(dataset: Dataset, recipe: Recipe, number: int) -> Step:
    """Finds the examples of a step by the functions by which training does.

    Args:
        dataset: what is trained on.
        recipe: its wishes.
        number: of the step, from 1.

    Raises:
        RecipeError: the run has not so many steps, or nothing to learn.
    """
    examples = dataset.train
    if not examples:
        raise RecipeError("nothing is to be learnt", where=f"--step {number}", fix="--side held-out")
    per_epoch, of = num_steps(recipe, len(examples))
    if number > of:
        steps = f"{len(examples):,} examples, {recipe.train.batch_size:,} a step, make {per_epoch:,} steps an epoch"
        told = "train.max_steps" if recipe.train.max_steps else f"train.epochs {recipe.train.epochs:g}"
        why = f"{steps}, and {told} ends the run after {of:,}"
        raise RecipeError(f"there is no step {number:,}", where=f"--step {number}", why=why, fix=f"--step {of}")
    rows = rows_of_step(len(examples), number, batch_size=recipe.train.batch_size, seed=recipe.train.seed)
    lengths = [len(examples[row]) for row in rows]
    packing = recipe.data.packing
    laid = packs(lengths, recipe.data.max_length) if packing else [longest_first(range(len(rows)), lengths)]
    found = tuple(tuple(Shown(examples[rows[at]], "train", rows[at] + 1) for at in pack) for pack in laid)
    return Step(number, of, (number - 1) // per_epoch + 1, found, packing)

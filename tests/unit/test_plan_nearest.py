"""Recipes that do not fit: each proposal, put on the command line, makes a plan that does."""

import shlex
from itertools import cycle
from pathlib import Path

import pytest
from test_plan import DENSE, MIXTURE, UNKNOWN, written

from finetune.errors import DoesNotFit
from finetune.hardware import wished
from finetune.plan import Plan, check_fits, make_plan
from finetune.plan.nearest import MOST_PROPOSALS, SHORTEST, STEP
from finetune.recipe import load
from finetune.shape import read_shape

CARDS = ("12GB", "16GB", "24GB")
SMALL, NINE = "Qwen/Qwen3.5-0.8B", "Qwen/Qwen3.5-9B"

TOO_MUCH: list[tuple[str, ...]] = [
    # words of recipes of which none fits on any of the cards; each is tried on one, in turn
    ("data.max_length=131072",),
    ("data.max_length=50000", "lora.rank=64"),
    ("method=lora",),
    ("method=lora", "data.max_length=32768", "lora.targets=[mlp]"),
    ("method=full",),
    (f"base={NINE}", "method=full"),
    (f"base={NINE}", "method=lora", "data.max_length=262144"),
    (f"base={MIXTURE}",),
    (f"base={MIXTURE}", "method=lora", "data.max_length=65536"),
    ("data.max_length=65536", "memory.checkpoints=device", "memory.recompute=layer"),
    ("data.max_length=65536", "memory.embeddings=device", "memory.head=full", "memory.optimizer=adamw"),
    ("data.max_length=65536", "memory.micro_batch=16", "train.batch_size=16"),
    (f"base={NINE}", "method=lora", "memory.head=nf4", "memory.micro_batch=4", "data.max_length=100000"),
    (f"base={SMALL}", "method=full", "data.max_length=262144", "memory.micro_batch=16"),
]


def plan_of(folder: Path, words: tuple[str, ...], card: str) -> Plan:
    recipe = written(folder, *words)
    return make_plan(recipe, read_shape(recipe.base, None), wished(card), UNKNOWN)


def words_of(proposal: str) -> list[str]:
    """Splits a proposal as a shell does."""
    parts = shlex.split(proposal)
    assert parts[::2] == ["--set"] * (len(parts) // 2), proposal
    return parts[1::2]


@pytest.mark.parametrize(("words", "card"), list(zip(TOO_MUCH, cycle(CARDS), strict=False)))
def test_every_proposal_applied_fits(words: tuple[str, ...], card: str, tmp_path: Path) -> None:
    made = plan_of(tmp_path, words, card)
    assert not made.fits
    assert 1 <= len(made.proposals) <= MOST_PROPOSALS
    assert len(set(made.proposals)) == len(made.proposals)
    for proposal in made.proposals:
        recipe = load(tmp_path / "legal.yaml", [*words, *words_of(proposal)])
        other = make_plan(recipe, read_shape(recipe.base, None), wished(card), UNKNOWN)
        assert other.fits, proposal
        given = dict(word.split("=", 1) for word in words)
        told = dict(word.split("=", 1) for word in words_of(proposal))
        assert all(given.get(key) != value for key, value in told.items()), f"superfluous: {proposal}"
    with pytest.raises(DoesNotFit) as told:
        check_fits(made, written(tmp_path, *words))
    assert told.value.problems[0].fix == " or ".join(made.proposals)


@pytest.mark.parametrize(("card", "rank"), [("16GB", 64), ("24GB", 16), ("48GB", 64)])
def test_the_proposed_length_is_the_longest_that_fits(card: str, rank: int, tmp_path: Path) -> None:
    words = ("data.max_length=131072", f"lora.rank={rank}")
    made = plan_of(tmp_path, words, card)
    proposal = next(p for p in made.proposals if "data.max_length" in p)
    *kept, word = words_of(proposal)  # on 16 GB a rank of 64 has to be less first
    length = int(word.removeprefix("data.max_length="))
    assert kept in ([], ["lora.rank=32"])
    assert length % STEP == 0
    assert length >= SHORTEST
    longer = plan_of(tmp_path, (*words, *kept, f"data.max_length={length + STEP}"), card)
    assert not longer.fits


def test_a_length_is_proposed_for_a_lever_that_the_recipe_holds_on_to(tmp_path: Path) -> None:
    """The nearest recipe keeps what was forced; only if none fits so are the levers let go."""
    made = plan_of(tmp_path, ("data.max_length=32768", "memory.checkpoints=device"), "24GB")
    first = words_of(made.proposals[0])
    assert [word.split("=")[0] for word in first] == ["data.max_length"]
    assert any("memory.checkpoints=auto" in words_of(proposal) for proposal in made.proposals)


def test_a_base_at_hand_is_not_where_a_smaller_one_would_be_looked_for(tmp_path: Path) -> None:
    made = plan_of(tmp_path, ("base_path=/bases/27b",), "8GB")
    proposal = next(p for p in made.proposals if "base=" in p)
    recipe = load(tmp_path / "legal.yaml", ["base_path=/bases/27b", *words_of(proposal)])
    assert recipe.base != DENSE
    assert (recipe.base_path, recipe.revision) == (None, None)


def test_where_nothing_at_all_fits_nothing_is_proposed(tmp_path: Path) -> None:
    made = plan_of(tmp_path, (), "1GB")
    assert (made.fits, made.proposals) == (False, ())
    with pytest.raises(DoesNotFit) as told:
        check_fits(made, written(tmp_path))
    assert told.value.problems[0].fix

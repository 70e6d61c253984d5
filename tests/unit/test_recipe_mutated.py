"""Recipes that are broken at random: every one is refused in our words, or loads."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.errors import RecipeError
from finetune.recipe import keys, load
from finetune.recipe.foreign_keys import NOBODYS, SAME

RECIPE = """\
# A recipe with a bit of everything.
name: legal-2
base: Qwen/Qwen3.6-27B
revision: 6a9e13bd6fc8f0983b9b99948120bc37f49c13e9
method: qlora
system: "You answer from the clause: nothing else."
data:
  train: ../rows.jsonl
  eval: 0.1          # share
  max_length: 4096
lora: {rank: 16, targets: [attention, mlp]}
train:
  epochs: 3
  learning_rate: 2.0e-4
  report_to:
    - wandb
"""
LINES = RECIPE.splitlines()
JUNK = [
    "\t", "\0", "\x85", "\u2028", "\ufeff", "\ud800", "&a ", "*a", "!!str ", "!x ", "---", "...", "? ", ": ", "- ", "[",
    "]", "{", "}", "'", '"', "|", ">", "%", "@", "`", "#", "<<: ", "null", "~", "yes", "1e999", "-1", ".nan", "0x10",
    "9" * 5000, "é", "𝔘", "  ", "\r", "\n\n", "a\n: b", "hf_" + "a" * 34, "..", "/", "~root/",
]  # fmt: skip
WORDS = [key.rpartition(".")[2] for key in keys()] + keys() + [*SAME, *NOBODYS] + JUNK


@st.composite
def mutants(draw: st.DrawFn) -> str:
    """Takes the recipe and inserts, deletes, swaps, doubles or indents something, up to five times."""
    text = RECIPE
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(text)))
        to = draw(st.integers(at, min(len(text), at + 30)))
        piece = draw(st.sampled_from(WORDS) | st.sampled_from(LINES) | st.text(max_size=6))
        match draw(st.sampled_from(["insert", "delete", "replace", "double", "line", "value"])):
            case "insert":
                text = text[:at] + piece + text[at:]
            case "delete":
                text = text[:at] + text[to:]
            case "replace":
                text = text[:at] + piece + text[to:]
            case "double":
                text = text[:to] + text[at:to] + text[to:]
            case "line":
                lines = text.split("\n")
                lines.insert(at % len(lines), draw(st.sampled_from(["", " ", "  ", "    "])) + f"{piece}: {to}")
                text = "\n".join(lines)
            case _:
                lines = text.split("\n")
                head, colon, _ = lines[at % len(lines)].partition(":")
                lines[at % len(lines)] = f"{head}{colon} {piece}"
                text = "\n".join(lines)
    return text


@settings(max_examples=500, deadline=None, derandomize=True)
@given(text=mutants())
def test_a_mutated_recipe_loads_or_is_told_with_place_and_fix(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "mutant.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load(file)
    except RecipeError as error:
        for problem in error.problems:
            assert problem.where.startswith(f"{file}:")
            assert problem.what
            assert problem.why
            assert problem.fix
            assert "hf_aaaa" not in str(problem)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(words=st.lists(st.builds("{}={}".format, st.sampled_from(WORDS), st.sampled_from(WORDS) | st.text(max_size=9))))
def test_mutated_overrides_load_or_are_told_with_place_and_fix(
    words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "whole.yaml"
    file.write_text(RECIPE)
    try:
        load(file, words)
    except RecipeError as error:
        for problem in error.problems:
            assert problem.where.startswith((f"{file}:", "--set "))
            assert problem.what
            assert problem.why
            assert problem.fix

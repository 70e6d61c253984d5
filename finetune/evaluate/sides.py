"""Who is compared: the base, the tuned model and GGUF files, all asked alike, one in memory at a time."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from finetune import engine
from finetune.data import Example, Renderer
from finetune.errors import ArtifactError, OutsideError
from finetune.evaluate.answering import Answer, answer_all
from finetune.evaluate.gguf_header import check_template, check_tokenizer, read_header
from finetune.generate import Tuned, open_base, open_tuned
from finetune.model import Score, base_alone, compute_device, score
from finetune.plan import Plan
from finetune.run import Run, atomic, manifest, outputs
from finetune.serving import template_as_trained

Tell = Callable[[int], None]
"""Is told the tokens of each item as it is done."""


@dataclass(frozen=True)
class Side:
    """One of those that are compared."""

    name: str
    told: dict[str, Any]
    """Of it for evaluation.json."""
    losses: Callable[[Sequence[Example], Tell], Score]
    answers: Callable[[Sequence[Sequence[int]], int, Tell], list[Answer]]
    """Prompts, and the most tokens of an answer."""


def settings(renderer: Renderer, thinking: bool, max_new_tokens: int) -> dict[str, Any]:
    """Tells how every side is asked."""
    return {
        "template": renderer.template.sha256,
        "tokenizer": renderer.vocabulary.sha256,
        "thinking": thinking,
        "preserve_thinking": renderer.preserve_thinking,
        "system": renderer.system,
        "sampling": {"temperature": 0, "max_new_tokens": max_new_tokens, "seed": 0},
    }


def find_ggufs(
    run: Run, files: Sequence[Path], base: Path, asked: Mapping[str, Any]
) -> list[tuple[Path, dict[str, Any]]]:
    """Makes sure that GGUF files are what an export of the run made, and are asked as it is; tells of each.

    Args:
        run: that they were made of.
        files: the GGUF files.
        base: the folder of the run's tokenizer and template.
        asked: how every side is asked.

    Raises:
        ArtifactError: a file is none, or has another template or tokenizer.
        OutsideError: nothing here can run one.
    """
    if files and engine.answering() is None:
        why = "neither xllamacpp nor llama-cpp-python is installed"
        raise OutsideError("nothing here can run a GGUF file", where="--gguf", why=why, fix=engine.GET_ONE)
    made = outputs.made_by(manifest.read(run.manifest))
    found = []
    for file in files:
        fields = read_header(file)
        check_tokenizer(file, fields, base)
        check_template(file, fields, template_as_trained(run, base))
        digest, fix = atomic.sha256(file), outputs.command("export", run)
        known, _ = made.get(run.named(file), ("", ""))
        if known and known != digest:
            raise ArtifactError("the file is not the one that was proven", where=str(file), why=outputs.STANDS, fix=fix)
        if digest not in {each for each, stage in made.values() if stage == "export"}:
            why = "no export of the run made these bytes"
            raise ArtifactError("the GGUF file is not of this run", where=str(file), why=why, fix=fix)
        told = {"what": file.name, "engine": f"llama.cpp, {engine.answering()}", **asked, "sha256": digest}
        found.append((file, told))
    return found


def sides_of(
    run: Run,
    plan: Plan,
    with_base: bool,
    ggufs: Sequence[tuple[Path, dict[str, Any]]],
    asked: Mapping[str, Any],
    cache: Path | None,
) -> Iterator[Side]:
    """Opens one side after the other.

    Args:
        run: the run.
        plan: of it.
        with_base: whether the base is one of them.
        ggufs: as `find_ggufs` gives them.
        asked: how every side is asked.
        cache: the folder in which quantised bases are kept.

    Raises:
        ArtifactError: the run did not finish, or its plan, base or template is another one now.
    """
    tuned = open_base(run, cache) if with_base and plan.method == "full" else open_tuned(run, cache)
    if with_base:
        yield _in_memory("base", {"what": plan.base}, tuned, plan, asked, as_base=tuned.adapter)
    if with_base and plan.method == "full":
        del tuned
        gc.collect()
        tuned = open_tuned(run, cache)
    yield _in_memory("tuned", {"what": run.name}, tuned, plan, asked, as_base=False)
    del tuned
    gc.collect()
    for file, told in ggufs:
        yield _of_gguf(run, file, told)


def _in_memory(
    name: str, what: dict[str, Any], tuned: Tuned, plan: Plan, asked: Mapping[str, Any], *, as_base: bool
) -> Side:
    device = compute_device(tuned.model)
    dtype = "bfloat16" if device.type == "cuda" else "float32"
    weights = ", base in 4 bits" if plan.method == "qlora" else ""
    told = {**what, "engine": f"transformers {version('transformers')} {device.type} {dtype}{weights}", **asked}

    def losses(examples: Sequence[Example], tell: Tell) -> Score:
        def told() -> Iterator[Example]:
            for example in examples:
                yield example
                tell(len(example))

        with base_alone(tuned.model) if as_base else nullcontext():
            return score(tuned.model, told())

    def answers(prompts: Sequence[Sequence[int]], most: int, tell: Tell) -> list[Answer]:
        torch.manual_seed(asked["sampling"]["seed"])
        with base_alone(tuned.model) if as_base else nullcontext():
            return answer_all(tuned, prompts, most, tell)

    return Side(name, told, losses, answers)


def _of_gguf(run: Run, file: Path, told: dict[str, Any]) -> Side:
    def losses(examples: Sequence[Example], tell: Tell) -> Score:
        costs, likeliest = engine.losses_of(file, [(example.ids, example.learnt) for example in examples])
        for example in examples:
            tell(len(example))
        return Score(tuple(costs), tuple(sum(example.learnt[1:]) for example in examples), tuple(likeliest))

    def answers(prompts: Sequence[Sequence[int]], most: int, tell: Tell) -> list[Answer]:
        return [Answer(*each) for each in engine.answer_all(file, prompts, most, tell)]

    return Side(run.named(file), told, losses, answers)

"""What a task of lm-evaluation-harness asks: its messages rendered as the run is served, its answers to be weighed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data import Example, Renderer
from finetune.data.split import drawn_first
from finetune.errors import DataError, RecipeError
from finetune.evaluate.harness import WHERE, told_wrongs


@dataclass(frozen=True)
class Prompt:
    """What is answered."""

    ids: tuple[int, ...]
    most: int
    """Tokens of the answer, at most."""
    until: tuple[str, ...]
    """Texts at which the answer ends, after its reasoning was cut."""


Request = Prompt | Example
"""An answer is wanted, or how likely one is: its tokens are the learnt ones."""


@dataclass(frozen=True)
class Item:
    """A document of the harness, for a reader."""

    place: str
    """Its task there, and its number."""
    prompt: str
    expected: str
    requests: tuple[Request, ...]
    """In the order that its task made them."""

    @property
    def sha256(self) -> str:
        """Identifies what is asked and what is expected."""
        asked = [
            [each.ids, each.most, each.until] if isinstance(each, Prompt) else [each.ids, sum(each.learnt)]
            for each in self.requests
        ]
        return hashlib.sha256(json.dumps([asked, self.expected], ensure_ascii=False).encode()).hexdigest()[:16]


class Contexts:
    """Renders the messages of the harness, and remembers what each text stands for."""

    def __init__(self, renderer: Renderer, thinking: bool) -> None:
        self.renderer, self.thinking = renderer, thinking
        self.made: dict[str, tuple[tuple[int, ...], str]] = {}
        """Rendered text -> its ids, and the question in it."""

    def render(self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool = True) -> str:
        """Stands in for a tokenizer's `apply_chat_template`.

        Raises:
            RecipeError: the task begins the answer itself where the run thinks first.
        """
        *before, last = [{"role": each["role"], "content": each["content"]} for each in messages]
        begun = "" if add_generation_prompt else str(last["content"])
        if begun and self.thinking:
            why = "the run thinks before it answers, and this would stand in its thought"
            fix = "leave the task out, or train with model_thinking off"
            raise RecipeError(f"the task begins each answer with {begun!r}", where=WHERE, why=why, fix=fix)
        asked = before if begun else [*before, last]
        ids = self.renderer.prompt_ids(asked, (), self.thinking)
        if begun:
            ids = [*ids, *self.renderer.vocabulary.encode_texts([begun])[0]]
        text = self.renderer.vocabulary.decode(ids)
        self.made[text] = tuple(ids), str(asked[-1]["content"])
        return text


def items_of(task: Any, contexts: Contexts, limit: int | None, most: int) -> list[Item]:
    """Lets the harness write the requests of a task, and renders them.

    Raises:
        DataError: it has no documents.
        RecipeError: it asks for what cannot be asked of a served model.
    """
    with told_wrongs(task.task_name):
        docs = list(task.eval_docs)
    if not docs:
        why, fix = "its set is empty", "leave it out"
        raise DataError(f"the task {task.task_name} has no items", where=WHERE, why=why, fix=fix)
    chosen = None
    if limit is not None and limit < len(docs):
        told = [hashlib.sha256(json.dumps(doc, sort_keys=True, default=str).encode()).digest() for doc in docs]
        chosen = sorted(sorted(range(len(docs)), key=lambda i: drawn_first(told[i]))[:limit])
    with told_wrongs(task.task_name):
        task.build_all_requests(
            samples=chosen,
            system_instruction=contexts.renderer.system,
            apply_chat_template=True,
            fewshot_as_multiturn=True,
            chat_template=contexts.render,
        )
    by_doc: dict[int, list[Any]] = {}
    for instance in task.instances:
        by_doc.setdefault(instance.doc_id, []).append(instance)
    items = []
    for number, instances in by_doc.items():
        requests = tuple(_request(each, contexts, most) for each in instances)
        first = instances[0]
        place = f"{task.task_name}:{chosen[number] if chosen else number}"
        _, question = contexts.made[first.args[0]]
        items.append(Item(place, question, _expected(task, first.doc), requests))
    return items


def _request(instance: Any, contexts: Contexts, most: int) -> Request:
    context, *more = instance.args
    known = contexts.made.get(context)
    if instance.request_type not in ("generate_until", "loglikelihood") or known is None or instance.repeats != 1:
        why = {
            "loglikelihood_rolling": "it weighs bare text, which a chat model is not asked for",
            "generate_until": "it asks for several answers to a question" if known else "it writes its prompts itself",
        }.get(instance.request_type, "it weighs answers without their question")
        fix = f"leave {instance.task_name} out" + (", or name another metric" if known is None else "")
        raise RecipeError(f"the task {instance.task_name} cannot be asked", where=WHERE, why=why, fix=fix)
    ids, _ = known
    if instance.request_type == "generate_until":
        kwargs = more[0]
        until = kwargs.get("until") or []
        asked = next((kwargs[key] for key in ("max_gen_toks", "max_new_tokens", "max_tokens") if key in kwargs), 0)
        return Prompt(ids, max(most, int(asked)), (until,) if isinstance(until, str) else tuple(until))
    if contexts.thinking:
        why = "it weighs given answers, and this run thinks before it answers"
        fix = f"take a task that generates in place of {instance.task_name}"
        raise RecipeError(f"the task {instance.task_name} cannot be asked", where=WHERE, why=why, fix=fix)
    (answer,) = contexts.renderer.vocabulary.encode_texts([more[0]])
    return Example(
        [*ids, *answer], [False] * len(ids) + [True] * len(answer), f"{instance.task_name}:{instance.doc_id}"
    )


def _expected(task: Any, doc: Any) -> str:
    """Writes what a document wants, for a reader."""
    target = task.doc_to_target(doc)
    if isinstance(target, int) and task.config.doc_to_choice is not None:
        choices = task.doc_to_choice(doc)
        return str(choices[target]) if 0 <= target < len(choices) else str(target)
    return target if isinstance(target, str) else json.dumps(target, ensure_ascii=False, default=str)

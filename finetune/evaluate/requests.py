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
from finetune.evaluate.harness import WHERE, one_line, told_wrongs

MOST_TOKENS = 1_000_000
"""Of an answer, whatever a task says; as --max-new-tokens allows."""


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
    answerable: bool
    """Whether what is expected is among the choices, where there are any."""

    @property
    def sha256(self) -> str:
        """Identifies what is asked and what is expected."""
        asked = [
            [each.ids, each.most, each.until] if isinstance(each, Prompt) else [each.ids, sum(each.learnt)]
            for each in self.requests
        ]
        return hashlib.sha256(json.dumps([asked, self.expected]).encode()).hexdigest()[:16]


class Contexts:
    """Renders the messages of the harness, and remembers what each text stands for."""

    def __init__(self, renderer: Renderer, thinking: bool, source: str) -> None:
        self.renderer, self.thinking, self.source = renderer, thinking, source
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
            fix = "leave the task out; a run with data.thinking: never could be asked it"
            raise RecipeError(f"the task begins each answer with {begun!r}", where=WHERE, why=why, fix=fix)
        asked = before if begun else [*before, last]
        if any(not each["content"].isascii() and has_half(each["content"]) for each in [*asked, last]):
            why, fix = f"it stands in {one_line(ascii(last['content']))[:80]}", "mend its rows, or leave the task out"
            raise DataError("a task asks with half a character", where=WHERE, why=why, fix=fix)
        ids = self.renderer.prompt_ids(asked, (), self.thinking)
        if begun:
            ids = [*ids, *self.renderer.vocabulary.encode_texts([begun])[0]]
        text = self.renderer.vocabulary.decode(ids)
        self.made[text] = tuple(ids), str(asked[-1]["content"])
        return text


def has_half(text: str) -> bool:
    """Whether a text holds half of a character, which no file in UTF-8 can."""
    return any(0xD800 <= ord(each) < 0xE000 for each in text)


def items_of(task: Any, contexts: Contexts, limit: int | None, most: int) -> list[Item]:
    """Lets the harness write the requests of a task, and renders them.

    Raises:
        DataError: it has no documents.
        RecipeError: it asks for what cannot be asked of a served model.
    """
    with told_wrongs(contexts.source):
        docs = list(task.eval_docs)
    if not docs:
        why, fix = "its set is empty", "leave it out"
        raise DataError(f"the task {task.task_name} has no items", where=WHERE, why=why, fix=fix)
    chosen = None
    if limit is not None and limit < len(docs):
        told = [hashlib.sha256(json.dumps(doc, sort_keys=True, default=str).encode()).digest() for doc in docs]
        chosen = sorted(sorted(range(len(docs)), key=lambda i: drawn_first(told[i]))[:limit])
    with told_wrongs(contexts.source):
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
        with told_wrongs(contexts.source):
            expected, answerable = _expected(task, first.doc)
        items.append(Item(place, question, expected, requests, answerable))
    return items


def _request(instance: Any, contexts: Contexts, most: int) -> Request:
    context, *more = instance.args
    known = contexts.made.get(context) if isinstance(context, str) else None
    if why := _not_askable(instance, known is not None, contexts.thinking):
        fix = f"leave {instance.task_name} out, or take another metric or task"
        raise RecipeError(f"the task {instance.task_name} cannot be asked", where=WHERE, why=why, fix=fix)
    assert known is not None
    ids, _ = known
    if instance.request_type == "generate_until":
        return _prompt(instance, ids, most)
    (answer,) = contexts.renderer.vocabulary.encode_texts([more[0]])
    if not answer:
        why, fix = "an answer of no letters has no likelihood", "mend its choices, or leave the task out"
        what = f"the task {instance.task_name} weighs an empty answer"
        raise DataError(what, where=f"{instance.task_name}:{instance.doc_id}", why=why, fix=fix)
    return Example(
        [*ids, *answer], [False] * len(ids) + [True] * len(answer), f"{instance.task_name}:{instance.doc_id}"
    )


def _not_askable(instance: Any, is_rendered: bool, thinking: bool) -> str:
    """Says why a request cannot be asked of a model that is served; nothing if it can."""
    kind, (_, *more) = instance.request_type, instance.args
    if kind not in ("generate_until", "loglikelihood"):
        return "it weighs bare text, which a chat model is not asked for"
    if len(more) > 1:
        return "it shows pictures or plays sounds, which are left out here"
    if not is_rendered:
        weighs = "it weighs answers without their question"
        return "it writes its prompts itself" if kind == "generate_until" else weighs
    if instance.repeats != 1:
        return "it asks for several answers to a question"
    if kind == "loglikelihood" and thinking:
        return "it weighs given answers, and this run thinks before it answers"
    return ""


def _prompt(instance: Any, ids: tuple[int, ...], most: int) -> Prompt:
    """Reads how an answer is to be generated.

    Raises:
        RecipeError: a wish is none.
    """
    wishes = instance.args[1]
    until = wishes.get("until") or []
    until = [until] if isinstance(until, str) else until
    asked = next((wishes[key] for key in ("max_gen_toks", "max_new_tokens", "max_tokens") if key in wishes), 0)
    if not isinstance(asked, int) or not isinstance(until, list) or not all(isinstance(each, str) for each in until):
        why = f"until is {one_line(ascii(until))}, the most tokens are {one_line(ascii(asked))}"
        fix = 'generation_kwargs: {until: ["\\n"], max_gen_toks: 256}'
        raise RecipeError(f"the task {instance.task_name} is written wrongly", where=WHERE, why=why, fix=fix)
    return Prompt(ids, max(most, min(asked, MOST_TOKENS)), tuple(until))


def _expected(task: Any, doc: Any) -> tuple[str, bool]:
    """Writes what a document wants, for a reader; and whether it is among the choices, where it must be."""
    target = task.doc_to_target(doc)
    choices = task.doc_to_choice(doc) if task.config.doc_to_choice is not None else None
    among = True
    if choices is not None and task.OUTPUT_TYPE == "multiple_choice" and not task.multiple_input:
        each = target if isinstance(target, list) else [target]
        known = {*choices, *range(len(choices))}
        among = all(one in known for one in each)
    if isinstance(target, int) and choices is not None and 0 <= target < len(choices):
        target = choices[target]
    told = target if isinstance(target, str) else json.dumps(target, ensure_ascii=False, default=str)
    return told.encode("utf-8", "replace").decode(), among

"""Computes the value that a key was probably meant to have; none is proposed that the schema would refuse."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from finetune.recipe.schema import FAMILIES, Recipe, Source
from finetune.recipe.section import ROLES, Section
from finetune.recipe.yaml_places import scalar
from finetune.shape import FAMILY_MODULES

EXAMPLES = {
    "name": "my-run",
    "base": "Qwen/Qwen3.6-27B",
    "base_path": "./Qwen3.6-27B",
    "revision": "main",
    "system": "You answer briefly.",
    "data": {"train": "data/train.jsonl"},
    "data.train": "data/train.jsonl",
    "data.train.path": "data/train.jsonl",
    "data.train.hub": "owner/name",
    "data.train.revision": "main",
    "data.train.columns": {"prompt": "question", "completion": "answer"},
    "data.train.share": 0.1,
    "data.train.license": "cc-by-4.0",
    "data.columns": {"prompt": "question", "completion": "answer"},
    "data.group": "customer",
    "lora.alpha": 32,
    "lora.expert_rank": 8,
    "memory.micro_batch": 1,
    "parallel.zero": 1,
    "parallel.expert": 1,
    "card.license": "apache-2.0",
    "card.intended_use": "Drafts that a person reads before they are sent.",
    "card.limits": "It knows nothing that happened after it was tuned.",
    "publish.repo": "owner/name",
    "publish.endpoint": "https://huggingface.co",
    "evaluate.tasks": ["loss", "exact"],
    "train.max_steps": 100,
    "train.save_every": 50,
    "train.router_aux_loss_coef": 0.001,
}
"""For keys without a default that could be shown."""

WORDS: Mapping[str, str] = {
    **{module: family for family, (_, modules) in FAMILY_MODULES.items() for module in modules},
    "raise": "error",
    "skip": "drop",
    "truncation": "truncate",
    "freeze": "lora",
    "none": "full",
    "false": "never",
    "no": "never",
    "off": "never",
    "true": "qlora",
    "4": "qlora",
}
"""What others write, and the choice of ours that says the same where the key offers it."""

_PLAIN = re.compile(r"[\w./~-]+( [\w./~-]+)*")
_HUB_PAGE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/([^/\s]+/[^/\s]+).*")


def propose(key: str, value: Any = None, written: str | None = None) -> str:
    """Writes the value nearest to the given one that the recipe takes for this key.

    Args:
        key: a dotted key, or a section.
        value: what stands there.
        written: how it was written, where YAML has read a number from it.
    """
    field = field_of(key)
    assert field is not None, key
    for candidate in _candidates(key, field, value, written):
        if candidate is None:
            continue  # the schema takes it where a key may be absent; nobody writes a key to have none
        try:
            _schema_of(key).validate_python(candidate)
        except ValidationError:
            continue
        return show(candidate)
    raise AssertionError(f"{key} has neither a default nor an example")


def show(value: Any) -> str:
    """Writes a value as a recipe would, in one line."""
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and not value.startswith("-") and scalar(value) == value
        return value if plain else json.dumps(value, ensure_ascii=not value.isprintable())
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{show(k)}: {show(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)


def field_of(key: str) -> FieldInfo | None:
    """Finds the field of a dotted key or of a section."""
    section, _, name = key.rpartition(".")
    model: Any = Recipe
    if section == "data.train":
        model = Source
    elif section:
        holder = Recipe.model_fields.get(section)
        model = holder.annotation if holder else None
    return model.model_fields.get(name) if isinstance(model, type) and issubclass(model, Section) else None


@cache
def _schema_of(key: str) -> TypeAdapter[Any]:
    field = field_of(key)
    assert field is not None, key
    return TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]


def _candidates(key: str, field: FieldInfo, value: Any, written: str | None) -> Iterator[Any]:
    """Yields values to try, the likeliest first."""
    choices = _choices(field.annotation)
    if key.startswith("evaluate."):  # lists, of which one item is often written without its brackets
        yield [value]
        yield EXAMPLES.get(key)
    if choices and get_origin(field.annotation) is tuple:
        yield _chosen_list(value, choices)
    elif choices and value is not None:
        yield _chosen(value, choices)
    else:
        yield from _repaired(value)
        if written is not None and not isinstance(value, str | None) and "float" not in str(field.annotation):
            yield written  # a commit of digits, a name such as 2026
        if key == "name" and value is not None:
            yield re.sub(r"[^A-Za-z0-9._-]+", "-", str(value)).strip("-._")[:64]
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:  # 0 says that none was meant
        yield from _violated(field, value)
    if isinstance(value, dict) and key.endswith(".columns"):
        close = {name: difflib.get_close_matches(name, ROLES, n=1, cutoff=0.5) for name in value}
        yield {close[name][0]: column for name, column in value.items() if close[name]}
    if value is not None and isinstance(value, str) and key == "data":
        yield {"train": value}
    if not field.is_required() and field.default is not None:
        yield {} if isinstance(field.default, Section) else field.default
    yield EXAMPLES.get(key)


def _repaired(value: Any) -> Iterator[Any]:
    """Yields the value itself, then what it becomes when a usual slip is undone."""
    yield value
    if isinstance(value, str):
        bare = value.strip().replace("_", "").replace("\N{MINUS SIGN}", "-")
        bare = bare.replace(",", "" if re.fullmatch(r"[0-9]{1,3}(,[0-9]{3})+", bare) else ".")
        yield scalar(bare)
        if bare.endswith("%") and isinstance(share := scalar(bare[:-1].strip()), int | float):
            yield share / 100
        yield {"yes": True, "on": True, "y": True, "no": False, "off": False, "n": False}.get(bare.lower())
        if page := _HUB_PAGE.fullmatch(value):
            yield page.group(1)
    elif isinstance(value, float) and value.is_integer():
        yield int(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
        yield -value
    if isinstance(value, list) and value:
        if all(isinstance(item, dict) for item in value):
            yield {k: v for item in value for k, v in item.items()}
        yield from _repaired(value[0])
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        yield value["path"]


def _violated(field: FieldInfo, value: Any) -> Iterator[Any]:
    """Yields the bound that a number is beyond."""
    for limit in field.metadata:
        if (isinstance(limit, Ge) and value < limit.ge) or (isinstance(limit, Le) and value > limit.le):
            yield limit.ge if isinstance(limit, Ge) else limit.le


def _choices(kind: Any) -> tuple[str, ...]:
    """Lists the words of a Literal, or of a tuple of them."""
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    return get_args(kind) if get_origin(kind) is Literal else ()


def _chosen(value: Any, choices: tuple[str, ...]) -> str | None:
    """Finds the choice that a word means."""
    word = str(value).strip().lower()
    if word in choices or WORDS.get(word) in choices:
        return word if word in choices else WORDS[word]
    if longer := [choice for choice in choices if word.startswith(choice)]:
        return longer[0]
    return next(iter(difflib.get_close_matches(word, choices, n=1, cutoff=0.5)), None)


def _chosen_list(value: Any, choices: tuple[str, ...]) -> list[str]:
    """Finds the choices that a list of words means, each once."""
    if value in (True, "all", "all-linear", ["all"], ["all-linear"]) and choices == FAMILIES:
        return list(FAMILIES)
    words = value if isinstance(value, list) else re.split(r"[,\s]+", str(value))
    return [word for word in dict.fromkeys(_chosen(word, choices) for word in words) if word]

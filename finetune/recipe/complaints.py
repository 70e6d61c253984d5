"""Turns what pydantic found into errors that name file and line, the rule, and a line to copy."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from finetune.errors import Problem
from finetune.recipe.schema import Recipe, Section, keys

EXAMPLES = {
    "base": "Qwen/Qwen3.6-27B",
    "name": "my-run",
    "data": "{train: data.jsonl}",
    "data.train": "data/train.jsonl",
    "revision": "main",
    "base_path": "./Qwen3.6-27B",
    "system": '"You answer briefly."',
    "train.max_steps": "100",
    "train.save_every": "50",
    "lora.alpha": "32",
}


def explain(error: ValidationError, places: Mapping[str, str]) -> list[Problem]:
    """Turns each finding of pydantic into a Problem, one for each key, in the order of the file."""
    problems: dict[str, Problem] = {}
    for finding in error.errors(include_url=False):
        key = _key(finding["loc"])
        if key not in problems:
            problems[key] = _problem(key, finding["type"], finding["input"], finding.get("ctx", {}), places)
    return list(problems.values())


def unknown_key(key: str, value: Any, place: str) -> Problem:
    """Says which key was probably meant, with the user's own value."""
    meant = nearest_key(key)
    fix = f"did you mean {meant}: {show(value)}" if meant else f"the keys are: finetune recipe schema  # not {key}"
    return Problem(f"the recipe has no key {key}", place, "unknown keys are errors, not comments", fix)


def nearest_key(key: str) -> str | None:
    """Finds the dotted key that a misspelt or misplaced one probably meant."""
    known = keys()
    leaf = key.rsplit(".", 1)[-1]
    leaves = {k.rsplit(".", 1)[-1]: k for k in reversed(known)}
    if leaf in leaves:
        return leaves[leaf]
    if close := difflib.get_close_matches(key, known, n=1, cutoff=0.75):
        return close[0]
    if close := difflib.get_close_matches(leaf, list(leaves), n=1, cutoff=0.7):
        return leaves[close[0]]
    aliases = {
        "model": "base",
        "model_name_or_path": "base",
        "base_model": "base",
        "lr": "train.learning_rate",
    }
    aliases |= {"num_train_epochs": "train.epochs", "dataset": "data.train", "datasets": "data.train"}
    aliases |= {
        "r": "lora.rank",
        "lora_r": "lora.rank",
        "lora_alpha": "lora.alpha",
        "cutoff_len": "data.max_length",
    }
    aliases |= {"sequence_len": "data.max_length", "max_seq_length": "data.max_length", "optimizer": "method"}
    aliases |= {"micro_batch_size": "train.batch_size", "per_device_train_batch_size": "train.batch_size"}
    return aliases.get(leaf)


def show(value: Any) -> str:
    """Writes a value as a recipe would."""
    if isinstance(value, bool) or value is None or isinstance(value, int | float):
        return json.dumps(value)
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, default=str)
    return str(value)


def _problem(key: str, kind: str, value: Any, context: Mapping[str, Any], places: Mapping[str, str]) -> Problem:
    place = places.get(key) or places.get(key.rpartition(".")[0]) or places[""]
    if kind == "extra_forbidden":
        return unknown_key(key, value, place)
    if kind == "missing":
        place = places.get(key.rpartition(".")[0], places[""])
        return Problem(f"{key} is missing", place, f"{_doc(key)}", f"{key}: {EXAMPLES.get(key, '...')}")
    if value is None and key in places:
        why = "the key stands there with nothing after it"
        return Problem(f"{key} is empty", place, why, f"{key}: {_proposal(key, '', context)}")
    what = f"{key} cannot be {_shorten(show(value))}"
    return Problem(what, place, _rule(kind, context, key), f"{key}: {_proposal(key, kind, context, value)}")


def _rule(kind: str, context: Mapping[str, Any], key: str) -> str:
    """Says in words which rule was broken."""
    match kind:
        case "literal_error":
            return f"it is one of {context['expected']}"
        case "greater_than" | "greater_than_equal":
            return f"it must be {'more than' if kind == 'greater_than' else 'at least'} {_bound(context)}"
        case "less_than" | "less_than_equal":
            return f"it must be {'less than' if kind == 'less_than' else 'at most'} {_bound(context)}"
        case "int_type" | "int_parsing" | "int_from_float":
            return f"it must be a whole number. {_doc(key)}"
        case "float_type" | "float_parsing" | "finite_number":
            return f"it must be a number. {_doc(key)}"
        case "bool_type":
            return "it must be true or false"
        case "string_type" | "path_type":
            return f"it must be text. {_doc(key)}"
        case "tuple_type":
            return f"it must be a list. {_doc(key)}"
        case "too_short" | "string_too_short":
            return "it must not be empty"
        case "string_pattern_mismatch":
            return f"it must match {context['pattern']}"
        case "model_type":
            return "it must be a section of `key: value` lines"
        case _:
            return f"{kind.replace('_', ' ')}. {_doc(key)}"


def _bound(context: Mapping[str, Any]) -> str:
    return show(next(context[name] for name in ("ge", "gt", "le", "lt") if name in context))


def _proposal(key: str, kind: str, context: Mapping[str, Any], value: Any = None) -> str:
    """Computes a value that would be accepted: the nearest allowed one, else the default, else an example."""
    if kind == "literal_error":
        allowed = [word.strip(" '") for word in context["expected"].replace(" or ", ", ").split(",")]
        close = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.3)
        word = (close or allowed)[0]
        return f"[{word}]" if key.endswith((".targets", ".report_to")) else word
    for bound in ("ge", "le"):
        if bound in context:
            return show(context[bound])
    if kind == "model_type" and key in Recipe.model_fields:
        return "{}" if key != "data" else EXAMPLES["data"]
    default = _field(key).default if _field(key) is not None else PydanticUndefined
    if default in (PydanticUndefined, None):
        return EXAMPLES.get(key, "...")
    return show(list(default) if isinstance(default, tuple) else default)


def _key(loc: tuple[int | str, ...]) -> str:
    """Gives the dotted key of a pydantic location: list indices and union branches are not part of it."""
    parts: list[str] = []
    model: Any = Recipe
    for part in loc:
        if not isinstance(part, str) or model is None:
            break
        parts.append(part)
        field = model.model_fields.get(part)
        kind = field.annotation if field else None
        model = kind if isinstance(kind, type) and issubclass(kind, Section) else None
    return ".".join(parts)


def _field(key: str) -> Any:
    section, _, name = key.rpartition(".")
    model: Any = Recipe.model_fields[section].annotation if section in Recipe.model_fields else Recipe
    return model.model_fields.get(name) if not section or section in Recipe.model_fields else None


def _doc(key: str) -> str:
    field = _field(key)
    return (field.description or "") if field else ""


def _shorten(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"

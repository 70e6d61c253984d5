"""Turns what pydantic found into errors that name file and line, the rule, and a line to copy."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from finetune.errors import Problem
from finetune.recipe.foreign_keys import NOBODYS, SAME
from finetune.recipe.listing import keys, sections
from finetune.recipe.proposals import field_of, propose, show
from finetune.recipe.schema import SET, Recipe, Source, line
from finetune.recipe.section import Section
from finetune.recipe.task_complaints import of_tasks
from finetune.recipe.yaml_places import Parsed

PATTERNS = {
    "name": "it has letters, digits and . _ - only, begins with a letter or a digit, and has 64 characters at most",
    "base": "a Hub id is owner/name; a folder is there already, or begins with . or / or ~",
    "revision": "it is a commit, a tag or a branch: letters, digits and . _ / - only",
    "data.train.revision": "it is a commit, a tag or a branch: letters, digits and . _ / - only",
    "data.train.hub": "a data set of the Hub is owner/name",
    "data.train.split": "it is the name of a split: letters, digits and . _ - only",
}
"""The patterns of the schema in words."""


def explain(error: ValidationError, values: Any, parsed: Parsed, places: Mapping[str, str]) -> list[Problem]:
    """Turns the findings of pydantic into Problems, one for each key.

    Args:
        error: what pydantic found.
        values: what it was given.
        parsed: where the values came from; what it refused already is not told twice.
        places: dotted key to where it was written.
    """
    findings: dict[tuple[str, ...], ErrorDetails] = {}
    sources, told = of_sources(error.errors(include_url=False), parsed, places)
    tasks, told = of_tasks(
        told, lambda path: _place(path, places), lambda kind, context: _rule(kind, context, "evaluate.tasks")
    )
    for finding in told:
        path = _path(finding["loc"])
        in_list = isinstance(finding["loc"][-1], int)
        if not (in_list and path in findings):  # of a list the first; of a union's branches the last, the number
            findings[path] = finding
    unknown = [".".join(path) for path, finding in findings.items() if finding["type"] == "extra_forbidden"]
    meant = {".".join(nearest.split(".")[:n]) for key in unknown if (nearest := nearest_key(key)) for n in (1, 2)}
    return (
        sources
        + tasks
        + [
            _problem(path, finding, values, parsed, places)
            for path, finding in findings.items()
            if not any(".".join(path[: n + 1]) in parsed.refused for n in range(len(path)))
            and not (finding["type"] == "missing" and ".".join(path) in meant)
        ]
    )


def unknown_key(key: str, value: Any, place: str) -> Problem:
    """Says which key was probably meant, with the user's own value if it can be kept."""
    what, why, leaf = f"the recipe has no key {key}", "unknown keys are errors, not comments", key.rpartition(".")[2]
    if key in keys() and not place.startswith(SET):
        section, _, name = key.partition(".")
        why = "a dot nests in --set only; in the file a section's keys stand under its name"
        return Problem(f"{key} is not a key of a file", place, why, f"{section}: {{{name}: {propose(key, value)}}}")
    meant = nearest_key(key, isinstance(value, dict))
    if meant is None:
        return Problem(what, place, NOBODYS.get(leaf, why), _without(place))
    if SAME.get(leaf) == meant:
        why = f"what other tools call {leaf} is {meant} here"
    elif meant.rpartition(".")[2] == leaf:
        why = f"{leaf} stands in the section {meant.partition('.')[0]}" if "." in meant else f"{leaf} stands at the top"
    return Problem(what, place, why, line(meant, propose(meant, value), place))


@cache
def nearest_key(key: str, section: bool = False) -> str | None:
    """Finds the dotted key, or the section, that a misspelt, misplaced or foreign one probably meant."""
    leaf = key.rpartition(".")[2]
    if section and (close := difflib.get_close_matches(leaf, sections(), n=1, cutoff=0.6)):
        return close[0]
    leaves = {k.rpartition(".")[2]: k for k in reversed(keys())}
    if leaf in leaves:
        return leaves[leaf]
    if leaf in SAME or leaf in NOBODYS:
        return SAME.get(leaf)
    lowered = leaf.lower().replace("-", "_")
    if lowered != leaf and (found := nearest_key(lowered)):
        return found
    if close := difflib.get_close_matches(key, keys(), n=1, cutoff=0.75):
        return close[0]
    if close := difflib.get_close_matches(leaf, list(leaves), n=1, cutoff=0.7):
        return leaves[close[0]]
    return None


def _without(place: str) -> str:
    return f"leave out {place}" if place.startswith(SET) else "delete the line; finetune recipe schema lists the keys"


def _problem(
    path: tuple[str, ...], finding: ErrorDetails, values: Any, parsed: Parsed, places: Mapping[str, str]
) -> Problem:
    """Tells one finding: what, where, the rule, and a value that the recipe takes."""
    key, kind, given = ".".join(path), finding["type"], finding["input"]
    place = _place([*path, *map(str, finding["loc"][len(path) :])], places)
    if kind == "extra_forbidden":
        return unknown_key(key, given, place)
    if kind == "missing":
        return Problem(f"{key} is missing", place, _doc(key), line(key, propose(key), place))
    whole = _value(values, path)
    if isinstance(whole, str):
        whole = parsed.written.get(key, whole)  # a path as it was typed
    fix = line(key, propose(key, whole, parsed.written.get(key)), place)
    if whole is None:
        return Problem(f"{key} is empty", place, "the key stands there with nothing after it", fix)
    told = show(whole) if isinstance(whole, str) else parsed.written.get(key) or show(given)
    what = f"{key} cannot be {_shorten(told)}"
    return Problem(what, place, _rule(kind, finding.get("ctx", {}), key), fix)


def of_sources(
    findings: list[ErrorDetails], parsed: Parsed, places: Mapping[str, str]
) -> tuple[list[Problem], list[ErrorDetails]]:
    """Tells what is wrong inside the sources of data.train; gives the other findings back."""
    inside = [f for f in findings if f["loc"][:2] == ("data", "train") and ("source" in f["loc"] or len(f["loc"]) > 4)]
    shadows = [f for f in findings if inside and f["loc"] == ("data", "train", "list")]  # the list lost its items
    return [_in_source(f, parsed, places) for f in inside], [f for f in findings if f not in inside + shadows]


def _in_source(finding: ErrorDetails, parsed: Parsed, places: Mapping[str, str]) -> Problem:
    """Tells one finding inside a source."""
    inner = [part for part in finding["loc"][2:] if part not in ("list", "source", "file")]
    number = next((str(part) for part in inner if isinstance(part, int)), "")
    names = [part for part in inner if isinstance(part, str)]
    shown = f"data.train[{number}]" if number else "data.train"
    name = names[0] if names else "path"
    place = _place(["data", "train", *filter(None, [number]), *names[:1]], places)
    match finding["type"]:
        case "one_place":
            return Problem(f"{shown} names no one place", place, finding["msg"], "path: data/train.jsonl")
        case "one_measure":
            return Problem(f"{shown} has a weight and a share", place, f"{finding['msg']}, not both", "share: 0.1")
        case "extra_forbidden":
            close = difflib.get_close_matches(name, Source.model_fields, n=1, cutoff=0.4) or ["path"]
            why = f"a source has {', '.join(Source.model_fields)}"
            fix = f"{close[0]}: {propose(f'data.train.{close[0]}', finding['input'])}"
            return Problem(f"{shown} has no key {name}", place, why, fix)
    written = parsed.written.get(".".join(filter(None, ["data.train", number, name])))
    given, key = finding["input"], f"data.train.{name}"
    whole = given if name != "columns" else _columns_of(parsed.value, number)
    told = show(given) if isinstance(given, str) else written or show(given)
    why = _rule(finding["type"], finding.get("ctx", {}), key)
    return Problem(f"{shown}.{name} cannot be {_shorten(told)}", place, why, f"{name}: {propose(key, whole, written)}")


def _columns_of(values: Any, number: str) -> Any:
    """Gives the columns of a source as they were written: of one of a list, or of the only one."""
    sources = _value(values, ("data", "train"))
    source = sources[int(number)] if number and isinstance(sources, list) else sources
    return _value(source, ("columns",))


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
        case "too_short" if context.get("min_length", 1) > 1:
            return f"it has {context['min_length']} or more"
        case "too_short" | "string_too_short":
            return "it must not be empty"
        case "string_pattern_mismatch":
            return PATTERNS.get(key, "it has letters, digits, spaces and . _ - only")
        case "model_type" | "dict_type":
            return "it must be a section of `key: value` lines"
        case "columns":
            return "it names `messages`, or `text`, or `prompt` and `completion`"
        case _:
            return f"{kind.replace('_', ' ')}. {_doc(key)}"


def _bound(context: Mapping[str, Any]) -> str:
    return f"{next(context[name] for name in ('ge', 'gt', 'le', 'lt') if name in context):,.12g}"


def _path(loc: tuple[int | str, ...]) -> tuple[str, ...]:
    """Gives the keys of a pydantic location: indices of a list and branches of a union are not among them."""
    path: list[str] = []
    model: Any = Recipe
    for part in loc:
        if not isinstance(part, str) or model is None:
            break
        path.append(part)
        field = model.model_fields.get(part)
        kind = field.annotation if field else None
        model = kind if isinstance(kind, type) and issubclass(kind, Section) else None
    return tuple(path)


def _place(path: list[str], places: Mapping[str, str]) -> str:
    """Finds the most exact place that is known on the way to a key."""
    dotted = [".".join(path[:n]) for n in range(len(path), 0, -1)]
    return next((places[key] for key in dotted if key in places), places[""])


def _value(values: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _doc(key: str) -> str:
    field = field_of(key)
    return (field.description or field.annotation.__doc__ or "") if field and field.annotation else ""


def _shorten(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"

"""Calls of tools against the JSON Schema that their row gives, by the `jsonschema` library.

Types that others write are read as what they mean: dict, float, any, tuple. An argument that the schema does not name
is told even where the schema would let it pass: a program that is called so fails.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, cast

import referencing
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.protocols import Validator

from finetune.check.finding import Finding, snippet
from finetune.check.saying import field_of
from finetune.data import Row

TYPES = {
    "dict": "object", "float": "number", "double": "number", "tuple": "array", "list": "array", "int": "integer",
    "long": "integer", "str": "string", "bool": "boolean", "HashMap": "object", "ArrayList": "array", "Array": "array",
    "String": "string", "Boolean": "boolean", "char": "string", "byte": "integer",
}  # fmt: skip
"""Other languages' names of types -> JSON Schema's. Source: the schemas of BFCL v4, gorilla@6ea57973."""

MOST_SCHEMAS = 10_000
"""That are held compiled; rows that each bring their own tools would fill memory."""

DEEPEST = 32
"""Levels of a schema that are read; deeper ones are taken for wrong."""

_NOWHERE: Any = referencing.Registry()
"""Knows no document, so that a `$ref` to another one is an error and nothing is fetched."""


class ToolSchemas:
    """Sees rows in any order; a schema that is wrong is told once."""

    def __init__(self) -> None:
        self._known: dict[str, Validator | str] = {}
        self._told: set[int] = set()

    def see(self, row: Row) -> Iterator[Finding]:
        """Yields the schemas and the calls of a row that are wrong."""
        checkers: dict[str, Validator] = {}
        for i, tool in enumerate(row.tools):
            function = tool["function"]
            made = self._checker(function.get("parameters") or {})
            if not isinstance(made, str):
                checkers[function["name"]] = made
            elif hash(made) not in self._told:
                self._told.add(hash(made))
                what, fix = (
                    f"the parameters of {function['name']} are not a JSON Schema",
                    '"parameters": {"type": "object"}',
                )
                shown = snippet(json.dumps(function.get("parameters"), ensure_ascii=False))
                place = f"tools[{i}].function.parameters"
                yield Finding(
                    "tool-schema-invalid", "warning", row.place, place, what, made.partition("\n")[0], fix, shown
                )
        for i, message in enumerate(row.messages):
            for j, call in enumerate(message.get("tool_calls", ())):
                field = f"{field_of(row, i)}.tool_calls[{j}].function"
                yield from self._check(row, field, call["function"], checkers)

    def _checker(self, schema: Any) -> Validator | str:
        """Compiles a schema, or says why it is none; after a line break stands the schema itself."""
        told = json.dumps(schema, sort_keys=True)
        if told not in self._known:
            if len(self._known) >= MOST_SCHEMAS:
                self._known.clear()
            self._known[told] = _compiled(schema, told)
        return self._known[told]

    def _check(self, row: Row, field: str, call: dict[str, Any], checkers: dict[str, Validator]) -> Iterator[Finding]:
        name, arguments = call["name"], call["arguments"]
        shown = snippet(json.dumps(arguments, ensure_ascii=False))
        if not row.tools:
            what, why = (
                f"{name} is called, and the row offers no tools",
                "the model learns to call what it was not given",
            )
            fix = '"tools": [{"type": "function", "function": {"name": ' + json.dumps(name) + ', "parameters": {}}}]'
            yield Finding("tool-without-schema", "warning", row.place, f"{field}.name", what, why, fix, shown)
        if name not in checkers:
            return
        schema, field = checkers[name].schema, f"{field}.arguments"
        named = schema.get("properties", {}) if isinstance(schema, dict) else {}
        more = schema.get("additionalProperties", False) if isinstance(schema, dict) else True
        unknown = sorted(set(arguments) - set(named)) if named and more is False else []
        for key in unknown:
            close = difflib.get_close_matches(key, named, n=1, cutoff=0)
            why = f"{name} has {', '.join(list(named)[:8])}"
            fix = f'rename "{key}" to "{close[0]}"'
            what = f"{name} has no argument {key}"
            yield Finding("tool-argument-unknown", "warning", row.place, f"{field}.{key}", what, why, fix, shown)
        try:
            problems = list(checkers[name].iter_errors(arguments))
        except (referencing.exceptions.Unresolvable, re.error, RecursionError) as error:
            yield from self._broken(row, name, schema, str(error))
            return
        missed: set[str] = set()  # an object without two required arguments is two problems there, one here
        for problem in problems:
            if problem.validator == "required":
                if problem.json_path in missed:
                    continue
                missed.add(problem.json_path)
            if problem.validator not in ("additionalProperties", "unevaluatedProperties"):
                yield _wrong(row, field, name, problem, shown)

    def _broken(self, row: Row, name: str, schema: Any, why: str) -> Iterator[Finding]:
        """Tells once of a schema that fails only where it is used."""
        mark = hash(json.dumps(schema, sort_keys=True))
        if mark not in self._told:
            self._told.add(mark)
            what, fix = f"the parameters of {name} cannot be checked", "write out what $ref or pattern stands for"
            yield Finding("tool-schema-invalid", "warning", row.place, "tools", what, snippet(why), fix)


def _compiled(schema: Any, told: str) -> Validator | str:
    try:
        read = standard(schema)
        Draft202012Validator.check_schema(read)
    except SchemaError as error:
        where = ".".join(map(str, error.absolute_path))
        return f"{where + ': ' if where else ''}{snippet(error.message)}\n{told}"
    except ValueError as error:
        return f"{error}\n{told}"
    return Draft202012Validator(read, registry=_NOWHERE)


def standard(schema: Any, depth: int = 0) -> Any:
    """Writes a schema in the words of JSON Schema.

    Raises:
        ValueError: it is nested too deep.
    """
    if depth > DEEPEST:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels")
    if not isinstance(schema, dict):
        return schema
    told: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "type":
            names = [TYPES.get(name, name) if isinstance(name, str) else name for name in _listed(value)]
            if not any(str(name).lower() == "any" for name in names):
                told[key] = names if isinstance(value, list) else names[0]
        elif key in ("properties", "$defs", "definitions", "patternProperties") and isinstance(value, dict):
            told[key] = {name: standard(inner, depth + 1) for name, inner in value.items()}
        elif key == "required" and isinstance(value, bool):
            continue  # on a property: an old form, which says nothing about the property's value
        elif key in ("items", "additionalProperties", "not", "if", "then", "else", "contains"):
            told[key] = standard(value, depth + 1)
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(value, list):
            told[key] = [standard(inner, depth + 1) for inner in value]
        else:
            told[key] = value
    return told


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [value]


def _wrong(row: Row, field: str, name: str, problem: ValidationError, shown: str) -> Finding:
    """Says in our words what a call breaks."""
    path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in problem.absolute_path)
    argument = path.lstrip(".") or "the arguments"
    code, fix = "tool-argument-wrong", "correct the call, or the tool's schema"
    rule = json.dumps(problem.validator_value, ensure_ascii=False)
    value, allowed = snippet(json.dumps(problem.instance, ensure_ascii=False)), cast(list[Any], problem.validator_value)
    if problem.validator == "required":
        code = "tool-argument-missing"
        missing = [key for key in allowed if key not in cast(dict[str, Any], problem.instance)]
        what, why = f"{name} is called without {', '.join(missing)}", f"it requires {rule}"
        fix = f'"{missing[0]}": …'
    elif problem.validator == "type":
        what, why = f"{argument} of {name} is not of type {rule}", f"it is {value}"
    elif problem.validator == "enum":
        close = difflib.get_close_matches(str(problem.instance), map(str, allowed), n=1, cutoff=0)
        what, why = f"{argument} of {name} is none of its values", f"it is {value}; allowed are {snippet(rule)}"
        fix = f"write {json.dumps(close[0], ensure_ascii=False)}" if close else fix
    else:
        what, why = f"{argument} of {name} breaks {problem.validator}: {snippet(rule)}", f"it is {value}"
    return Finding(code, "warning", row.place, field + path, what, why, fix, shown)

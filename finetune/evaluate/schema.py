"""JSON Schema, by the `jsonschema` library; nothing is fetched for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import referencing
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for

from finetune.errors import RecipeError
from finetune.shards import read_json

Check = Callable[[Any], str]
"""Says in a few words what is wrong with a value; nothing where it keeps the schema."""


def validator(file: Path) -> Check:
    """Reads a schema.

    Raises:
        ArtifactError: the file cannot be read.
        RecipeError: it is no JSON Schema.
    """
    schema = read_json(file, "the JSON Schema")
    kind = validator_for(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        where, fix = str(file), '{"type": "object"}'
        raise RecipeError("this is no JSON Schema", where=where, why=error.message, fix=fix) from None
    nowhere: Any = referencing.Registry()  # knows no other document
    checker = kind(schema, registry=nowhere)

    def check(value: Any) -> str:
        wrong = next(iter(checker.iter_errors(value)), None)
        return "" if wrong is None else f"{wrong.json_path} {wrong.message}"[:120]

    return check

"""Words of the form `section.key=value`, laid over what the file says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.errors import Problem, RecipeError
from finetune.recipe import yaml_places
from finetune.recipe.complaints import unknown_key
from finetune.recipe.listing import keys, sections
from finetune.recipe.paths import anchor_paths
from finetune.recipe.proposals import propose
from finetune.recipe.schema import SET


def override(
    values: dict[str, Any],
    overrides: Sequence[str],
    places: dict[str, str],
    typed: dict[str, str],
    parsed: yaml_places.Parsed,
) -> list[Problem]:
    """Lays `key=value` words over the values, in order; returns what was wrong with them."""
    problems: list[Problem] = []
    for word in overrides:
        key, equals, text = word.partition("=")
        key, place = key.strip(), SET + (word or "''")
        if not equals or not key:
            why = "the word has no = sign" if key else "there is no key before the = sign"
            problems.append(Problem("an override is `key=value`", place, why, f"{SET}train.epochs=3"))
        elif key in sections():
            inner = next(k for k in keys() if k.startswith(f"{key}."))
            fix = f"{SET}{inner}={propose(inner)}"
            problems.append(Problem(f"{key} is a section", place, "an override names one key of it", fix))
        elif key not in keys():
            problems.append(unknown_key(key, yaml_places.scalar(text), place))
        else:
            problems += _lay(values, key, text, place, typed, parsed)
            for told in [k for k in places if k == key or k.startswith(f"{key}.")]:
                del places[told]
            places[key] = place
    return problems


def _lay(
    values: dict[str, Any], key: str, text: str, place: str, typed: dict[str, str], parsed: yaml_places.Parsed
) -> list[Problem]:
    """Lays one value over the others; what the file says of this key is forgotten."""
    try:
        given = _read_word(text.strip())
    except RecipeError as error:
        return [replace(problem, what="the override is not YAML", where=place) for problem in error.problems]
    section, _, name = key.rpartition(".")
    alone = {section: {name: given.value}} if section else {name: given.value}
    typed.pop(key, None)
    typed |= anchor_paths(alone, Path.cwd())
    parsed.written.pop(key, None)
    if "" in given.written:
        parsed.written[key] = given.written[""]
    if not section:
        values |= alone
    elif isinstance(values.setdefault(section, {}), dict):
        values[section] |= alone[section]
    elif values[section] is None:
        values[section] = alone[section]
    return [replace(problem, where=place) for problem in given.problems]


def _read_word(text: str) -> yaml_places.Parsed:
    """Reads the value of an override: the shell has taken its quotes, so only brackets and quotes are YAML's."""
    if text.startswith(("[", "{", '"', "'")):
        return yaml_places.parse(text, "")
    if found := yaml_places.UNPRINTABLE.search(text):
        raise RecipeError("", why=f"it holds the character U+{ord(found.group()):04X}", fix="delete that character")
    return yaml_places.Parsed("", yaml_places.scalar(text), written={"": text})

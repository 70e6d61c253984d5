"""From a file and a few words on the command line to a Recipe, or to every mistake in them at once."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from finetune import shipped
from finetune.errors import RecipeError
from finetune.recipe import yaml_places
from finetune.recipe.complaints import explain
from finetune.recipe.encodings import guess_encoding
from finetune.recipe.overrides import override
from finetune.recipe.paths import anchor_paths, detach_paths, is_folder, relative
from finetune.recipe.schema import Recipe
from finetune.recipe.secrets import find_secrets, without_secrets

MAX_BYTES = 2**20
"""Of a recipe's file; a long one has a few thousand."""

RECIPES = (".yaml", ".yml")
"""Suffixes of recipes; what is called otherwise holds rows."""

USUAL_BASE = "Qwen/Qwen3.6-27B"

NAME_ONE = "name the YAML file: finetune init legal writes one"
"""The cure where what was named cannot be a recipe."""


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Loads a recipe.

    Relative paths in the file are taken from the file's folder, those in overrides from the working folder.

    Args:
        path: the YAML file.
        overrides: words of the form `section.key=value`.

    Raises:
        RecipeError: with every mistake of the file and of the overrides, each with file and line.
    """
    shown, file = str(path), Path(path)
    try:
        return _made(yaml_places.parse(read_text(file, shown), shown), file, overrides)
    except RecipeError as error:
        raise RecipeError.of([without_secrets(problem) for problem in error.problems]) from None


def load_or_rows(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Loads a recipe or, of a file or folder of rows, makes the one that has nothing but these, to look at them.

    Raises:
        RecipeError: as `load` does.
    """
    is_rows = os.path.isdir(path) or (os.path.isfile(path) and path.suffix.lower() not in RECIPES)
    if not is_rows and path.suffix.lower() not in ("", *RECIPES) and not os.path.exists(path):
        raise RecipeError("there is no such file", where=str(path), why="nothing has this name", fix=_nearest(path))
    if not is_rows:
        return load(path, overrides)
    parsed = yaml_places.parse(f"base: {USUAL_BASE}\ndata: {{train: rows, eval: 0}}\n", str(path))
    parsed.value["data"]["train"] = Path(os.path.abspath(path))  # not as YAML: a file may be called by any bytes
    return _made(parsed, path, overrides)


def _made(parsed: yaml_places.Parsed, file: Path, overrides: Sequence[str]) -> Recipe:
    """Makes a recipe of what its file says, and of the words laid over it."""
    values = {} if parsed.value is None else parsed.value
    if not isinstance(values, dict):
        raise RecipeError(
            "the recipe is not made of `key: value` lines",
            where=parsed.where(1),
            why=f"it holds {'a list' if isinstance(values, list) else 'text'}",
            fix="finetune init legal   # writes one to start from",
        )
    places = {key: parsed.where(line, yaml_places.without_index(key)) for key, line in parsed.lines.items()}
    places[""] = parsed.where(1)
    typed = anchor_paths(values, file.parent)
    problems = list(parsed.problems)
    problems += override(values, overrides, places, typed, parsed)
    parsed.written |= typed
    values.setdefault("name", re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-._")[:64] or "run")
    problems += find_secrets(values, places)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        problems += explain(error, values, parsed, places)
    if problems:
        raise RecipeError.of(problems)
    recipe._places, recipe._typed = places, typed
    return recipe


def read_text(file: Path, shown: str) -> str:
    """Reads a recipe's text.

    Raises:
        RecipeError: there is no such file, it is a folder, a pipe or a device, too long, or not UTF-8.
    """
    if os.path.isdir(file):
        raise RecipeError("this is a folder, not a recipe", where=shown, fix=_nearest(file / "recipe.yaml"))
    if os.path.exists(file) and not os.path.isfile(file):
        why = "it is a pipe or a device, which may never end"
        raise RecipeError("this is not a regular file", where=shown, why=why, fix=NAME_ONE)
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            why = f"a recipe has at most {MAX_BYTES:,} bytes"
            raise RecipeError("the file is too long for a recipe", where=shown, why=why, fix=NAME_ONE)
        return raw.decode("utf-8-sig")
    except FileNotFoundError:
        raise RecipeError("there is no such recipe", where=shown, fix=_nearest(file)) from None
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        why = f"byte {error.start} of the file is 0x{error.object[error.start]:02x}"
        if b"\0" in raw and not raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            why, fix = "it holds bytes that no text has", NAME_ONE
        else:
            fix = f"iconv -f {guess_encoding(raw)} -t utf-8 {shown} > {file.stem}.utf8.yaml"
        raise RecipeError("the recipe is not UTF-8 text", where=f"{shown}:{line}", why=why, fix=fix) from None
    except OSError as error:
        why = error.strerror or str(error)
        raise RecipeError("the recipe cannot be read", where=shown, why=why, fix=f"ls -l {shown}") from None


def dump(recipe: Recipe, folder: Path) -> str:
    """Writes the recipe out with all defaults, paths relative to `folder`, as YAML that `load` reads."""
    values = recipe.model_dump(mode="json")
    detach_paths(values, folder)
    if is_folder(recipe.base):
        path = relative(recipe.base, folder)
        values["base"] = path if is_folder(path) else f"./{path}"
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 takes for text and YAML 1.2 for a number: `1e5`, `08`."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if isinstance(yaml_places.scalar(text), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _nearest(file: Path) -> str:
    """Proposes the recipe that was probably meant."""
    usual = file.parent / "recipes" / file.name
    if os.path.isfile(usual):
        return f"did you mean {usual}?"
    beside = file.parent.glob("*.y*ml") if os.path.isdir(file.parent) else ()
    names = sorted(path.name for path in beside if os.path.isfile(path))
    close = difflib.get_close_matches(file.name, names, n=1, cutoff=0.4)
    if close or names:
        return f"did you mean {file.parent / (close or names)[0]}?"
    name = file.stem if file.stem in shipped.recipes() else "legal"
    return f"finetune init {name}   # writes recipes/{name}.yaml and its data to start from"

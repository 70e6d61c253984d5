"""From a file and a few words on the command line to a Recipe, or to every mistake in them at once."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune.errors import Problem, RecipeError
from finetune.recipe import yaml_places
from finetune.recipe.complaints import explain, unknown_key
from finetune.recipe.schema import Recipe, keys

PATH_KEYS = ("data.train", "data.eval", "base_path")
_SECRET = re.compile(r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|AKIA[A-Z0-9]{16})\b")


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
    parsed = yaml_places.parse(read_text(file, shown), shown)
    values = parsed.value if parsed.value is not None else {}
    problems = list(parsed.problems)
    if not isinstance(values, dict):
        raise RecipeError(
            "the recipe is not a list of `key: value` lines",
            where=f"{shown}:1",
            why=f"it holds a {type(values).__name__}",
            fix="finetune init legal   # writes one to start from",
        )
    places = {key: parsed.where(line, key) for key, line in parsed.lines.items() if key}
    places[""] = f"{shown}:1"
    _anchor_paths(values, file.parent)
    problems += _override(values, overrides, places)
    values.setdefault("name", re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-._") or "run")
    problems += _secrets(values, places)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        problems += explain(error, places)
        raise RecipeError.of(problems) from None
    if problems:
        raise RecipeError.of(problems)
    recipe._places = places
    return recipe


def read_text(file: Path, shown: str) -> str:
    """Reads a recipe's text.

    Raises:
        RecipeError: there is no such file, it is a folder, or it is not UTF-8.
    """
    if file.is_dir():
        raise RecipeError("this is a folder, not a recipe", where=shown, fix=_nearest(file / "recipe.yaml"))
    try:
        return file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise RecipeError("there is no such recipe", where=shown, fix=_nearest(file)) from None
    except UnicodeDecodeError as error:
        raise RecipeError(
            "the recipe is not UTF-8 text",
            where=shown,
            why=f"byte {error.start} is 0x{error.object[error.start]:02x}",
            fix=f"iconv -f latin1 -t utf-8 {shown} > fixed.yaml",
        ) from None
    except OSError as error:
        raise RecipeError(
            "the recipe cannot be read",
            where=shown,
            why=error.strerror or str(error),
            fix=f"ls -l {shown}",
        ) from None


def dump(recipe: Recipe, folder: Path) -> str:
    """Writes the recipe out with all defaults, paths relative to `folder`, as YAML that `load` reads."""
    import yaml

    values = recipe.model_dump(mode="json")
    for key in PATH_KEYS:
        section, name = _locate(values, key)
        if isinstance(section.get(name), str):
            section[name] = os.path.relpath(section[name], folder)
    if is_folder(recipe.base):
        values["base"] = _explicit(os.path.relpath(recipe.base, folder))
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)


def is_folder(base: str) -> bool:
    """Tells whether a base is a local folder; a Hub id never starts with a dot, a slash or a tilde."""
    return base.startswith((".", "/", "~"))


def _anchor_paths(values: dict[str, Any], folder: Path) -> None:
    """Makes the paths among the values absolute, seen from `folder`."""
    for key in PATH_KEYS:
        section, name = _locate(values, key)
        if isinstance(section.get(name), str):
            section[name] = Path(os.path.abspath(folder / Path(section[name]).expanduser()))
    base = values.get("base")
    if isinstance(base, str) and base and (is_folder(base) or (folder / base).is_dir()):
        values["base"] = os.path.abspath(folder / Path(base).expanduser())


def _override(values: dict[str, Any], overrides: Sequence[str], places: dict[str, str]) -> list[Problem]:
    """Lays `key=value` words over the values, in order; returns what was wrong with them."""
    problems: list[Problem] = []
    for word in overrides:
        key, equals, text = word.partition("=")
        key, place = key.strip(), f"--set {word}"
        if not equals or not key:
            problems.append(Problem("an override is `key=value`", place, fix="--set train.epochs=3"))
            continue
        if key not in keys():
            problems.append(unknown_key(key, text, place))
            continue
        parsed = yaml_places.parse(text, place)
        problems += parsed.problems
        given: dict[str, Any] = {}
        section, name = _locate(given, key)
        section[name] = parsed.value
        _anchor_paths(given, Path.cwd())
        target, name = _locate(values, key)
        if isinstance(target, dict):
            target[name] = section[name]
        places[key] = place
        for deeper in [k for k in places if k.startswith(f"{key}.")]:
            del places[deeper]
    return problems


def _locate(values: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Finds the mapping that holds a dotted key, making it where it is absent."""
    section, _, name = key.rpartition(".")
    if not section:
        return values, name
    inner = values.get(section)
    if inner is None:
        inner = {}
        if section not in values or values[section] is None:
            values[section] = inner
    return (inner if isinstance(inner, dict) else {}), name


def _secrets(values: Any, places: Mapping[str, str], key: str = "") -> list[Problem]:
    """Refuses values that look like an access token: a recipe is shared, a secret is not."""
    if isinstance(values, dict):
        return [p for k, v in values.items() for p in _secrets(v, places, f"{key}.{k}".lstrip("."))]
    if isinstance(values, str) and _SECRET.search(values):
        what = "this looks like a secret"
        fix = f"remove it, revoke it, and use `hf auth login` or an environment variable instead of {key}"
        return [Problem(what, places.get(key, key), "a recipe is copied into every run and published", fix)]
    return []


def _explicit(path: str) -> str:
    return path if is_folder(path) else f"./{path}"


def _nearest(file: Path) -> str:
    """Proposes the recipe that was probably meant."""
    names = sorted(p.name for p in file.parent.glob("*.y*ml")) if file.parent.is_dir() else []
    close = difflib.get_close_matches(file.name, names, n=1, cutoff=0.4)
    if close or names:
        return f"did you mean {file.parent / (close or names)[0]}?"
    return "finetune init legal   # writes legal.yaml and its data to start from"

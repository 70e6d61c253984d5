"""Where a base lies on disk. Looking is free; only `fetch` opens the network."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from finetune.errors import ArtifactError, OutsideError
from finetune.shards import check_readable, read_text, shards

WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "LICENSE*"]
"""Files of a base that are ever downloaded: weights, configs, tokenizer. Never pickles, never code."""

REQUIRED = ("config.json", "tokenizer.json")


def home() -> Path:
    """The Hub client's folder. Source: huggingface_hub 2.4, constants.py."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return _expanded(os.environ.get("HF_HOME", os.path.join(cache, "huggingface")))


def bases() -> Path:
    """The folder to which the client downloads bases. Source: the same."""
    named = os.environ.get("HF_HUB_CACHE", os.environ.get("HUGGINGFACE_HUB_CACHE"))
    return home() / "hub" if named is None else _expanded(named)


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(path)))


def locate(base: str, base_path: Path | None, revision: str | None) -> Path | None:
    """Finds a base that is already on disk: a folder, a named path, or the Hub's cache.

    Raises:
        ArtifactError: the folder that was named is not a base, or what the cache holds of it is damaged.
    """
    if base_path is not None or base.startswith((".", "/", "~")):
        return _checked(Path(base_path or base))
    return _cached(base, revision)


def fetch(base: str, base_path: Path | None, revision: str | None) -> Path:
    """Finds a base on disk or downloads it from the Hub, resuming what was begun.

    Raises:
        ArtifactError: the folder that was named is not a base.
        OutsideError: the Hub cannot be reached, or does not give the base out.
    """
    found = locate(base, base_path, revision)
    if found is not None:
        return found
    return _download(base, revision, WANTED)


def fetch_config(base: str, revision: str | None) -> Path:
    """Downloads a base's config.json alone, which says whether the rest is wanted; gives the folder that it is in.

    Raises:
        OutsideError: the Hub cannot be reached, or does not give the base out.
    """
    return _download(base, revision, ["config.json"])


def fetch_repository(repository: str) -> Path:
    """Downloads all of a model's repository, of a revision after an @ where one is named; gives its folder.

    Raises:
        OutsideError: the Hub cannot be reached, or does not give it out.
    """
    name, _, revision = repository.partition("@")
    return _download(name, revision or None, None)


def _download(base: str, revision: str | None, patterns: list[str] | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(base, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise OutsideError(
            f"{base} cannot be downloaded",
            where=f"revision {revision or 'main'}",
            why=str(error).splitlines()[0],
            fix=f"hf download {base}" + (f" --revision {revision}" if revision else ""),
        ) from None


def _checked(folder: Path) -> Path:
    folder = folder.expanduser()
    check_readable(folder)
    if os.path.lexists(folder) and not os.path.isdir(folder):
        why = "a base is a folder of config.json, tokenizer.json and *.safetensors"
        fix = "--set base=Qwen/Qwen3.6-27B   # or the folder of one"
        raise ArtifactError("this is a file and no base", where=str(folder), why=why, fix=fix)
    if not os.path.isdir(folder):
        place = shlex.quote(str(folder))
        raise ArtifactError(
            "there is no such base",
            where=str(folder),
            why="base names a local folder, since it starts with a dot, a slash or a tilde",
            fix=f"finetune demo-base {place}   # makes a toy; or name a Hub id such as Qwen/Qwen3.6-27B",
        )
    missing = [name for name in REQUIRED if not os.path.isfile(folder / name)]
    if missing or not any(folder.glob("*.safetensors")):
        missing = missing or ["*.safetensors"]
        raise ArtifactError(
            "the folder is not a whole base",
            where=str(folder),
            why=f"it has no {' and no '.join(missing)}",
            fix=f"ls {shlex.quote(str(folder))}   # a base has config.json, tokenizer.json and *.safetensors",
        )
    return folder


def _cached(base: str, revision: str | None) -> Path | None:
    """Reads the Hub cache's layout: models--org--name/{refs/<revision>, snapshots/<commit>}."""
    root = bases() / f"models--{base.replace('/', '--')}"
    ref = root / "refs" / (revision or "main")
    commit = read_text(ref, "the commit in the Hub's cache").strip() if os.path.isfile(ref) else revision
    if commit is None:
        return None
    snapshot = root / "snapshots" / commit
    check_readable(snapshot)
    whole = all(os.path.isfile(snapshot / name) for name in REQUIRED)
    return snapshot if whole and all(map(os.path.isfile, shards(snapshot))) else None

"""Where a base lies on disk. Looking is free; only `fetch` opens the network."""

from __future__ import annotations

import json
import os
from pathlib import Path

from finetune.errors import ArtifactError, OutsideError

WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "LICENSE*"]
"""Files of a base that are ever downloaded: weights, configs, tokenizer. Never pickles, never code."""

REQUIRED = ("config.json", "tokenizer.json")


def locate(base: str, base_path: Path | None, revision: str | None) -> Path | None:
    """Finds a base that is already on disk: a folder, a named path, or the Hub's cache.

    Raises:
        ArtifactError: the folder that was named is not a base.
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
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(base, revision=revision, allow_patterns=WANTED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise OutsideError(
            f"{base} cannot be downloaded",
            where=f"revision {revision or 'main'}",
            why=str(error).splitlines()[0],
            fix=f"hf download {base}" + (f" --revision {revision}" if revision else ""),
        ) from None


def _checked(folder: Path) -> Path:
    folder = folder.expanduser()
    if not folder.is_dir():
        raise ArtifactError(
            "there is no such base",
            where=str(folder),
            why="base names a local folder, since it starts with a dot, a slash or a tilde",
            fix=f"finetune demo-base {folder}   # makes a toy; or name a Hub id such as Qwen/Qwen3.6-27B",
        )
    missing = [name for name in REQUIRED if not (folder / name).is_file()]
    if missing or not any(folder.glob("*.safetensors")):
        missing = missing or ["*.safetensors"]
        raise ArtifactError(
            "the folder is not a whole base",
            where=str(folder),
            why=f"it has no {' and no '.join(missing)}",
            fix=f"ls {folder}   # a base has config.json, tokenizer.json and *.safetensors",
        )
    return folder


def _cached(base: str, revision: str | None) -> Path | None:
    """Reads the Hub cache's layout: models--org--name/{refs/<revision>, snapshots/<commit>}."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    root = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{base.replace('/', '--')}"
    ref = root / "refs" / (revision or "main")
    commit = ref.read_text().strip() if ref.is_file() else revision
    if commit is None:
        return None
    snapshot = root / "snapshots" / commit
    whole = all((snapshot / name).is_file() for name in REQUIRED) and _all_shards(snapshot)
    return snapshot if whole else None


def _all_shards(snapshot: Path) -> bool:
    index = snapshot / "model.safetensors.index.json"
    if not index.is_file():
        return (snapshot / "model.safetensors").is_file()
    shards = set(json.loads(index.read_text())["weight_map"].values())
    return all((snapshot / Path(shard).name).is_file() for shard in shards)

"""The files of a data set of the Hub: those of one split, at one commit, downloaded once.

Which files are a split's stands in the `configs` of its card or, without them, in their names, as `datasets` reads
them: a folder or a part of the name is the split's. Source: hub docs, "Data files configuration".
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from finetune.errors import DataError, OutsideError
from finetune.recipe import Source

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".md", ".xlsx", ".xml", ".gz")
CARD = "README.md"

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""What files of a split are called."""


def fetch_files(source: Source) -> list[Path]:
    """Downloads the files of a split, or finds them in the Hub client's cache.

    Raises:
        DataError: the data set has no such split.
        OutsideError: the Hub cannot be reached, or does not give the data set out.
    """
    import httpx2
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    assert source.hub is not None
    try:
        info = HfApi().dataset_info(source.hub, revision=source.revision)
        names = [file.rfilename for file in info.siblings or []]
        chosen = files_of(source.split, names, _configs(info.card_data))
        if not chosen:
            raise _no_split(source, names)
        folder = Path(
            snapshot_download(source.hub, repo_type="dataset", revision=source.revision, allow_patterns=[*chosen, CARD])
        )
    except (LocalEntryNotFoundError, httpx2.TransportError, ConnectionError) as error:
        return _cached(source, source.hub, error)
    except (HfHubHTTPError, OSError) as error:
        raise _unreachable(source, error) from None
    return [folder / name for name in chosen]


def files_of(split: str, names: Iterable[str], configs: Iterable[dict[str, Any]]) -> list[str]:
    """Chooses the files of a split.

    Args:
        split: such as train.
        names: of all files of the data set.
        configs: of its card.
    """
    data = sorted(
        name for name in names if name.endswith(SUFFIXES) and not re.search(r"(^|/)(README|LICENSE|\.)", name)
    )
    if patterns := list(_patterns(split, configs)):
        return [name for name in data if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    words = SPLITS.get(split, (split,))
    named = [name for name in data if set(re.split(r"[^a-z0-9]+", name.lower())) & set(words)]
    others = {word for words in SPLITS.values() for word in words}
    if named or split != "train":
        return named
    return [name for name in data if not set(re.split(r"[^a-z0-9]+", name.lower())) & others]


def _configs(card: Any) -> list[dict[str, Any]]:
    """Reads the configurations of a card; few have them."""
    told = card.to_dict().get("configs") if card is not None else None
    return [each for each in told or [] if isinstance(each, dict)]


def _patterns(split: str, configs: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yields the patterns that the card names for a split, of its default configuration or its first."""
    listed = list(configs)
    chosen = next((each for each in listed if each.get("default")), listed[0] if listed else {})
    files = chosen.get("data_files", [])
    for entry in [{"split": "train", "path": files}] if isinstance(files, str) else files:
        if isinstance(entry, dict) and entry.get("split") == split:
            paths: str | list[str] = entry.get("path", [])
            yield from [paths] if isinstance(paths, str) else paths


def _cached(source: Source, hub: str, error: Exception) -> list[Path]:
    """Finds the files of a split where an earlier download left them, all of them or none."""
    from huggingface_hub import DatasetCard, get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    def found(*patterns: str) -> Path:
        return Path(
            snapshot_download(
                hub, repo_type="dataset", revision=source.revision, local_files_only=True, allow_patterns=list(patterns)
            )
        )

    try:
        names = [file.path for file in get_cached_repo_tree(hub, repo_type="dataset", revision=source.revision)]
        card = DatasetCard.load(found(CARD) / CARD).data if CARD in names else None
        chosen = files_of(source.split, names, _configs(card))
        if not chosen:
            raise _no_split(source, names)
        folder = found(*chosen)
    except (CachedRepoTreeNotFoundError, LocalEntryNotFoundError):
        raise _unreachable(source, error) from None
    return [folder / name for name in chosen]


def _unreachable(source: Source, error: Exception) -> OutsideError:
    fix = f"hf download {source.hub} --repo-type dataset" + (
        f" --revision {source.revision}" if source.revision else ""
    )
    where, why = f"revision {source.revision or 'main'}", str(error).splitlines()[0]
    return OutsideError(f"the data set {source.hub} cannot be downloaded", where=where, why=why, fix=fix)


def _no_split(source: Source, names: list[str]) -> DataError:
    there = [split for split in SPLITS if split != source.split and files_of(split, names, [])]
    why, fix = f"it holds {', '.join(sorted(names)[:6])}", f"split: {there[0]}" if there else "name the files by path"
    return DataError(f"{source.hub} has no split {source.split}", where=str(source.hub), why=why, fix=fix)

"""Reads back what lies in a repository: every file's size and hash, and the small ones byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from finetune.errors import ProofFailed
from finetune.publish.server import Hub, check_words, told
from finetune.publish.staging import File, Staged, git_sha1
from finetune.run import Claim, atomic, claim

SMALL_BYTES = 10 * 2**20
"""Up to here a file is downloaded again."""

SERVERS = (".gitattributes",)
"""Files that the Hub writes itself."""


@dataclass(frozen=True)
class Away:
    """In what a repository is another than the folder."""

    wrong: tuple[str, ...]
    """What is missing or another, in words."""
    others: tuple[str, ...]
    """Files that are only there."""


def differences(hub: Hub, repo: str, commit: str, files: Sequence[File]) -> Away:
    """Compares sizes and hashes of a commit's files with the local ones: sha256 of LFS files, git's own of others.

    Raises:
        OutsideError: the list is none of a Hub.
    """
    from huggingface_hub.hf_api import RepoFile

    listed = hub.api.list_repo_tree(repo, recursive=True, revision=commit) if commit else ()
    entries = [entry for entry in listed if isinstance(entry, RepoFile)]
    check_words(hub, repo, f"{repo} cannot be read", (entry.path for entry in entries))
    there = {entry.path: entry for entry in entries}
    wrong = []
    for file in files:
        found = there.pop(file.name, None)
        if found is None:
            wrong.append(f"{file.name} is not there")
        elif found.size != file.num_bytes:
            wrong.append(f"{file.name} has {found.size} bytes, not {file.num_bytes}")
        elif (found.lfs.sha256 != file.sha256) if found.lfs else (found.blob_id != git_sha1(file.path)):
            wrong.append(f"{file.name} has another hash")
    return Away(tuple(wrong), tuple(sorted(name for name in there if name not in SERVERS)))


def read_back(hub: Hub, staged: Staged, commit: str) -> list[Claim]:
    """Proves that a commit holds what was staged.

    Raises:
        OutsideError: the Hub cannot be read.
        ProofFailed: something is missing, or another.
    """
    from huggingface_hub import ModelCard

    repo = staged.artifact.repo
    with told(hub, repo, f"{repo} cannot be read back"):
        away = differences(hub, repo, commit, staged.files)
        wrong = list(away.wrong)
        small = [file for file in staged.files if file.num_bytes <= SMALL_BYTES]
        with TemporaryDirectory(prefix="finetune-read-back-") as folder:
            for file in small if not wrong else ():
                got = Path(hub.api.hf_hub_download(repo, file.name, revision=commit, local_dir=folder))
                if atomic.sha256(got) != file.sha256:
                    wrong.append(f"{file.name}, downloaded, is another")
            if not wrong:
                card = ModelCard.load(Path(folder) / "README.md")
    if wrong:
        why = "; ".join(wrong[:5])
        where = f"{hub.endpoint}/{repo}/tree/{commit}"
        raise ProofFailed("what lies there is not what was sent", where=where, why=why, fix="give the command again")
    return [
        claim("files in the repository with the size and hash of the local ones", len(staged.files)),
        claim("small files downloaded again, byte for byte", len(small)),
        claim("the card is read by the Hub's client, its base", str(card.data.get("base_model") or "none")),
    ]

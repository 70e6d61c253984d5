"""Brings a staged folder into its repository: never over a commit of somebody else's, and again until it is there."""

from __future__ import annotations

import glob
import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from finetune.errors import OutsideError
from finetune.publish.readback import differences
from finetune.publish.server import Hub, check_words, is_stale, is_transient, told
from finetune.publish.staging import Staged
from finetune.run import Run, manifest, outputs

WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further try of an upload that failed for a reason that may pass."""

INITIAL = ".gitattributes"
"""All that a repository holds that nobody wrote to."""


@dataclass(frozen=True)
class Wish:
    """Onto what may be committed, beside commits of this run's own."""

    parent: str | None = None
    """A commit that must be the head; begins with these digits."""
    onto_head: bool = False
    """Whether any head will do."""


@dataclass(frozen=True)
class Uploaded:
    """What became of an upload."""

    commit: str
    parent: str
    changed: bool
    """Whether anything was sent."""
    others: tuple[str, ...]
    """Files of the repository that are not this publication's."""


Before = Sequence[dict[str, Any]]
"""The manifest's entries of the run's publications in a repository, the last one last."""


def upload(hub: Hub, run: Run, staged: Staged, before: Before, wish: Wish, tag: str | None) -> Uploaded:
    """Uploads what differs, in one commit or a few, and gives the last.

    Args:
        hub: where.
        run: whose.
        staged: what.
        before: what the run published there.
        wish: onto which other heads it may be committed.
        tag: that the commit is to get; one that is there already has its commit for ever.

    Raises:
        OutsideError: the Hub refused or failed, or another's commit would be built upon unseen.
    """
    import httpx2

    repo = staged.artifact.repo
    head = parent = check_head(hub, run, repo, before, wish)
    forget = _names(before) - {file.name for file in staged.files}
    changed = False
    for wait in (*WAITS, None):
        with told(hub, repo, f"{repo} cannot be read"):
            away = differences(hub, repo, head, staged.files)
            there = {file for file in away.others if file in forget}
        if not away.wrong and not there:
            return Uploaded(head, parent, changed, away.others)
        if not changed:
            check_tag(hub, repo, tag, "")
        changed = True
        with told(hub, repo, f"{repo} was not published"):
            try:
                hub.api.upload_folder(
                    repo_id=repo,
                    folder_path=staged.folder,
                    commit_message=_message(run, staged.artifact.kind),
                    parent_commit=head or None,
                    delete_patterns=[glob.escape(name) for name in sorted(there)] or None,
                )
            except (httpx2.HTTPError, RuntimeError, OSError) as error:  # the client wraps what its threads meet
                if wait is None or not (is_transient(error) or is_stale(error)):
                    raise
                hub.say(f"{repo}: the upload broke off; again in {wait:.0f} s")
                time.sleep(wait)
        head = check_head(hub, run, repo, before, Wish(parent=head) if wish.parent or wish.onto_head else wish)
    raise OutsideError(
        f"{repo} does not become what was sent",
        where=f"{hub.endpoint}/{repo}",
        why=f"after {len(WAITS) + 1} uploads {away.wrong[0]}",
        fix="give the same command again",
    )


def check_head(hub: Hub, run: Run, repo: str, before: Before, wish: Wish) -> str:
    """Finds the commit to build upon: one that the run's manifest lists, or that was wished for.

    Upon a listed one there may lie such as this very folder made before it was killed, which their titles tell.

    Raises:
        OutsideError: somebody else committed since, or before.
    """
    with told(hub, repo, f"{repo} cannot be read"):
        history = hub.api.list_repo_commits(repo)
        check_words(hub, repo, f"{repo} cannot be read", (commit.commit_id for commit in history))
    if not history:
        return ""
    head = history[0].commit_id
    if wish.onto_head or (wish.parent and head.startswith(wish.parent)):
        return head
    listed = [entry["inputs"]["commit"] for entry in before]
    known = listed[-1] if listed else None
    for commit in history:
        if commit.commit_id in listed or (wish.parent and commit.commit_id.startswith(wish.parent)):
            return head
        if not _is_ours(run, commit.title):
            if known is None and commit is history[-1] and _is_empty(hub, repo, commit.commit_id):
                return head
            raise _somebodys(hub, repo, head, commit.commit_id, commit.title, known)
    raise _somebodys(hub, repo, head, head, "its history is another", known)


def check_tag(hub: Hub, repo: str, tag: str | None, commit: str) -> bool:
    """Tells whether a tag is there, on this commit.

    Raises:
        OutsideError: it is on another commit.
    """
    with told(hub, repo, f"the tags of {repo} cannot be read"):
        there = {ref.name: ref.target_commit for ref in hub.api.list_repo_refs(repo).tags} if tag else {}
        check_words(hub, repo, f"the tags of {repo} cannot be read", chain.from_iterable(there.items()))
    if tag in there and there[tag] != commit:
        why = f"it names {there[tag][:12]}, and a tag is never moved"
        raise OutsideError(f"the tag {tag} is taken", where=f"{hub.endpoint}/{repo}", why=why, fix="--tag ANOTHER")
    return tag in there


def _names(before: Before) -> set[str]:
    """Lists the files that the last publication brought."""
    return set(before[-1]["inputs"]["files"]) if before else set()


def _is_empty(hub: Hub, repo: str, commit: str) -> bool:
    with told(hub, repo, f"{repo} cannot be read"):
        return {entry.path for entry in hub.api.list_repo_tree(repo, recursive=True, revision=commit)} <= {INITIAL}


def _message(run: Run, kind: str) -> str:
    return f"{run.name}: {kind} ({_mark(run)})"


def _mark(run: Run) -> str:
    """Identifies the run by when it began and by what its training made, and its folder: a copy is another one's."""
    told = manifest.read(run.manifest)
    trained = outputs.last(told, "train")
    made = trained["outputs"] if trained else {}
    identity = json.dumps([run.name, told["created"], made, run.path.stat().st_ino], sort_keys=True)
    return f"finetune {hashlib.sha256(identity.encode() + run.plan.read_bytes()).hexdigest()[:12]}"


def _is_ours(run: Run, title: str) -> bool:
    pattern = rf"{re.escape(run.name)}: (?:adapter|merged|gguf) \({re.escape(_mark(run))}\)(?: \(part \d+\))?"
    return re.fullmatch(pattern, str(title)) is not None


def _somebodys(hub: Hub, repo: str, head: str, commit: str, title: str, known: str | None) -> OutsideError:
    since = f"since {known[:12]}, which this run published" if known else "and this run published nothing there yet"
    return OutsideError(
        f"somebody else's commit is in {repo}",
        where=f"{hub.endpoint}/{repo}/commit/{commit}",
        why=f"{commit[:12]} {title!a:.60}, {since}",
        fix=f"look at it; then --parent {head[:12]}   # or --onto-head, whatever is there",
    )

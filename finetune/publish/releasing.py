"""A repository around its files: it is made before them, private; who may see it, its tag and collection come after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from finetune.errors import OutsideError, ProofFailed
from finetune.publish.server import Hub, told
from finetune.publish.uploading import check_tag
from finetune.run import Claim, claim

Gated = Literal["auto", "manual"]


@dataclass(frozen=True)
class Release:
    """How repositories are to be seen."""

    private: bool
    gated: Gated | None = None
    """Who asks gets in at once, or once somebody agreed."""
    tag: str | None = None
    collection: str | None = None
    """Its title."""


def open_repo(hub: Hub, repo: str, release: Release) -> None:
    """Makes a repository unless it is there: a private one, that nobody sees half of what is to be public.

    Raises:
        OutsideError: nobody is logged in, or may not write there; or it is public, and should not be.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    with told(hub, repo, "the Hub does not know you"):
        hub.api.whoami()
    with told(hub, repo, f"{repo} cannot be made"):
        try:
            there = hub.api.model_info(repo)
        except RepositoryNotFoundError:
            hub.api.create_repo(repo, private=True, exist_ok=True)
            return
    if release.private and not there.private:
        why = "what is wished private would be seen by everybody"
        where = f"{hub.endpoint}/{repo}"
        raise OutsideError(f"{repo} is public", where=where, why=why, fix="--public   # or another --repo")


def finish(hub: Hub, repo: str, commit: str, release: Release) -> list[Claim]:
    """Sets tag, gate and visibility, and reads them back.

    Raises:
        OutsideError: the Hub refused.
        ProofFailed: it took them, and has others.
    """
    if release.tag and not check_tag(hub, repo, release.tag, commit):
        with told(hub, repo, f"{repo} cannot be tagged"):
            hub.api.create_tag(repo, tag=release.tag, revision=commit)
        if not check_tag(hub, repo, release.tag, commit):
            raise ProofFailed(f"{repo} has no tag {release.tag}", where=f"{hub.endpoint}/{repo}")
    with told(hub, repo, f"the settings of {repo} cannot be changed"):
        there = hub.api.model_info(repo)
        opened = True if there.private and not release.private else None
        gated = release.gated if release.gated and there.gated != release.gated else None
        if opened or gated:
            hub.api.update_repo_settings(repo, private=False if opened else None, gated=gated)
            there = hub.api.model_info(repo)
    wanted = (release.private, release.gated or there.gated)
    if (there.private, there.gated) != wanted:
        why = f"private {there.private}, gated {there.gated}"
        raise ProofFailed("the settings are not those that were asked for", where=f"{hub.endpoint}/{repo}", why=why)
    claims = [claim("seen by", "its owner" if there.private else "everybody")]
    claims += [claim("gated", str(there.gated))] if release.gated else []
    return claims + ([claim("tag", release.tag)] if release.tag else [])


def collect(hub: Hub, repos: list[str], release: Release) -> str:
    """Puts repositories into a collection of their owner's, and gives its address.

    Raises:
        OutsideError: the Hub refused.
    """
    assert release.collection is not None
    owner = repos[0].partition("/")[0]
    with told(hub, repos[0], f"the collection {release.collection!a:.60} cannot be made"):
        made = hub.api.create_collection(release.collection, namespace=owner, private=release.private, exists_ok=True)
        for repo in repos:
            made = hub.api.add_collection_item(made.slug, repo, "model", exists_ok=True)
    return str(made.url)

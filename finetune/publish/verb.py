"""`finetune publish`: from a run to repositories whose every byte was read back."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune import __version__, hub
from finetune.errors import ArtifactError, ProofFailed, RecipeError
from finetune.licences import Verdict
from finetune.provenance import Artifact as Kind
from finetune.provenance import Facts, read_facts
from finetune.publish.artifacts import Artifact, find, making
from finetune.publish.beside import check_beside
from finetune.publish.private import privates_of
from finetune.publish.readback import read_back
from finetune.publish.releasing import Gated, Release, collect, finish, open_repo
from finetune.publish.scan import check_contents, check_names, check_rows
from finetune.publish.server import Hub, connect
from finetune.publish.staging import Staged, stage
from finetune.publish.uploading import Uploaded, Wish, upload
from finetune.recipe import Recipe, is_folder, load
from finetune.run import Claim, Entry, Run, claim, locked, manifest, outputs

Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    repo: str | None = None
    """Default: the recipe's."""
    kinds: tuple[Kind, ...] = ()
    """All that are there if none is named."""
    private: bool | None = None
    """Default: the recipe's."""
    endpoint: str | None = None
    base: str | None = None
    """Id of the base at the Hub, where the recipe names a folder."""
    gated: Gated | None = None
    tag: str | None = None
    collection: str | None = None
    with_examples: bool = False
    key: Path | None = None
    """A private key with which each repository is signed."""
    forced: str = ""
    """Why it is published although a licence, a failed gate or missing rows speak against it."""
    wish: Wish = field(default_factory=Wish)


def prepare(run: Run, asked: Asked, place: Path, say: Say) -> list[Staged]:
    """Lays out what would go up, once it was compared with the manifest and searched for what is private.

    Args:
        run: that finished.
        asked: what is wished.
        place: an empty folder.
        say: takes a line for the user.

    Raises:
        ArtifactError: a file is not the one that was proven, or there is none.
        DataError: the rows are not to be had, with which files are compared.
        DoesNotFit: the disk is full.
        ProofFailed: something must not go up, or not to everybody.
        RecipeError: no repository is named, or the base has no id.
    """
    told, recipe = manifest.read_begun(run.manifest), load(run.recipe)
    artifacts = find(run, recipe.method, told, asked.kinds, repo_of(recipe, asked), _base_id(recipe, asked))
    facts = read_facts(run, base_id=asked.base)
    check_license(facts.verdict(), recipe, _private(recipe, asked), asked.forced)
    check_gate(facts, asked.forced, say)
    base = _base_here(recipe)
    check_beside(run, told)
    staged = []
    for artifact in artifacts:
        check_names(run, artifact)
        _check_proven(run, artifact)
        staged.append(stage(facts, artifact, base, place, asked.with_examples, asked.key, asked.forced))
        check_contents(staged[-1], privates_of(run, recipe, artifact.repo))
        found = check_rows(staged[-1], run, recipe, asked.with_examples, asked.forced)
        say(
            f"{artifact.repo}: {len(staged[-1].files)} files, {staged[-1].num_bytes:,} bytes; rows of the data: {found}"
        )
    return staged


def publish(run: Run, asked: Asked, say: Say) -> list[dict[str, Any]]:
    """Publishes forms of a run's model, and gives the manifest's entry of each, which is added once it was read back.

    Raises:
        OutsideError: the Hub refused or failed; what is there already is not sent again by the next try.
        FinetuneError: as `prepare` does.
    """
    recipe = load(run.recipe)
    release = Release(_private(recipe, asked), asked.gated, asked.tag, asked.collection)
    server = connect(asked.endpoint, recipe.publish.endpoint, say)
    entries = []
    with locked(run), staging(run) as place:
        all_staged = prepare(run, asked, place, say)
        facts = read_facts(run, base_id=asked.base)
        for staged in all_staged:
            entries.append(_publish(server, facts, staged, asked, release))
        if release.collection:
            repos = [staged.artifact.repo for staged in all_staged]
            say(f"collection {collect(server, repos, release)}")
    return entries


@contextmanager
def staging(run: Run) -> Iterator[Path]:
    """Gives a folder beside the run's files, on the same disk, that files can be linked into; it is gone afterwards."""
    place = run.path / ".publish"
    shutil.rmtree(place, ignore_errors=True)  # what a kill left
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def repo_of(recipe: Recipe, asked: Asked) -> str:
    """Gives the repository of the merged model.

    Raises:
        RecipeError: none is named.
    """
    repo = asked.repo or recipe.publish.repo
    if repo is None:
        why = "neither the recipe nor the command says where to"
        raise RecipeError("no repository is named", where="publish.repo", why=why, fix=f"--repo OWNER/{recipe.name}")
    return repo


def check_license(verdict: Verdict, recipe: Recipe, private: bool, forced: str) -> None:
    """Refuses to give to everybody what a licence keeps from them.

    Raises:
        ProofFailed: it does.
    """
    if private or verdict.publishable == "yes" or (verdict.publishable == "only forced" and forced):
        return
    fix = "--private" + (" or --force REASON" if verdict.publishable == "only forced" else "")
    what = "a licence speaks against publishing it to everybody"
    where = "; ".join(dict.fromkeys(map(recipe.where, verdict.where)))
    raise ProofFailed(what, where=where, why="; ".join(verdict.why), fix=fix)


def check_gate(facts: Facts, forced: str, say: Say) -> None:
    """Refuses a model whose newest evaluation broke a rule of its gate; says which rules were not asked at all.

    Raises:
        ProofFailed: a rule failed, and nobody gave a reason to publish it all the same.
    """
    run, rules = facts.run, facts.recipe.evaluate.fail_if
    gate = facts.evaluation["gate"] if facts.evaluation else {"failed": [], "not_asked": rules}
    if failed := gate["failed"]:
        if not forced:
            what, fix = "the gate failed", "--force REASON   # or train again, and evaluate that"
            raise ProofFailed(what, where=str(run.evaluation), why="; ".join(failed), fix=fix)
        say(f"the gate failed, published all the same ({forced}): {'; '.join(failed)}")
    if not_asked := gate.get("not_asked", ()):
        by = "the newest evaluation did not ask" if facts.evaluation else "no evaluation asked"
        asks = outputs.command("evaluate", run)
        say(f"rules of the gate that {by}: {'; '.join(not_asked)}; {asks} asks them")


def _publish(server: Hub, facts: Facts, staged: Staged, asked: Asked, release: Release) -> dict[str, Any]:
    run = facts.run
    began, repo = time.monotonic(), staged.artifact.repo
    told = manifest.read(run.manifest)
    there = {"repo": repo, "endpoint": server.endpoint}
    published = [stage for stage in told["stages"] if stage["stage"] == "publish"]
    before: list[dict[str, Any]] = [stage for stage in published if there.items() <= stage["inputs"].items()]
    open_repo(server, repo, release)
    uploaded = upload(server, run, staged, before, asked.wish, release.tag)
    claims = read_back(server, staged, uploaded.commit)
    claims += finish(server, repo, uploaded.commit, release)
    if uploaded.others:
        claims.append(claim("other files lie there", ", ".join(uploaded.others[:10])))
    server.say(f"{repo}: {'published' if uploaded.changed else 'nothing had changed'}, read back: {uploaded.commit}")
    entry = _entry(server, facts, staged, asked, uploaded, claims, began)
    if before and {**before[-1], "seconds": 0, "finished": ""} == {**entry.__dict__, "seconds": 0, "finished": ""}:
        return before[-1]
    manifest.add(run.manifest, entry)
    return dict(entry.__dict__)


def _entry(
    server: Hub, facts: Facts, staged: Staged, asked: Asked, uploaded: Uploaded, claims: list[Claim], began: float
) -> Entry:
    files = {file.name: file.sha256 for file in staged.files}
    address = f"{server.endpoint}/{staged.artifact.repo}"
    verdict = facts.verdict()
    return Entry(
        stage="publish",
        inputs={
            "artifact": staged.artifact.kind,
            "repo": staged.artifact.repo,
            "endpoint": server.endpoint,
            "commit": uploaded.commit,
            "made of": list(staged.artifact.chain),
            "license": verdict.license_name or verdict.license,
            "forced": asked.forced or None,
            "files": files,
        },
        outputs={f"{address}/resolve/{uploaded.commit}/{name}": digest for name, digest in files.items()},
        claims=claims,
        versions={"finetune": __version__, "huggingface_hub": version("huggingface_hub")},
        seconds=round(time.monotonic() - began, 1),
        finished=manifest.now(),
    )


def _check_proven(run: Run, artifact: Artifact) -> None:
    outputs.check(run, artifact.proven, making(run, artifact.kind))


def _private(recipe: Recipe, asked: Asked) -> bool:
    return recipe.publish.private if asked.private is None else asked.private


def _base_id(recipe: Recipe, asked: Asked) -> str | None:
    """Gives the base's id at the Hub.

    Raises:
        RecipeError: the recipe names a folder, which nobody else has.
    """
    if asked.base or not is_folder(recipe.base):
        return asked.base or recipe.base
    why = "a path means nothing to who downloads it, and the Hub rejects a card with one"
    fix = "--base-model OWNER/NAME   # what the folder holds; next time base: OWNER/NAME and base_path: FOLDER"
    raise RecipeError("the base has no name at the Hub", where=recipe.where("base"), why=why, fix=fix)


def _base_here(recipe: Recipe) -> Path | None:
    """Finds the base, whose licence goes along; None where it is not on this disk any more."""
    try:
        return hub.locate(recipe.base, recipe.base_path, recipe.revision)
    except ArtifactError:
        return None

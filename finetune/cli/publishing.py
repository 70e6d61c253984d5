"""`finetune publish`."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from finetune import stopping
from finetune.cli.bar import Bar
from finetune.cli.quiet import quiet_libraries
from finetune.errors import RecipeError

if TYPE_CHECKING:
    from finetune.publish import Gated, Staged

REPO = typer.Option(None, "--repo", metavar="OWNER/NAME", help="The merged model's repository. Default: the recipe's.")
PRIVATE = typer.Option(None, "--private/--public", help="Who sees it. Default: the recipe's, which is private.")
COLLECTION = typer.Option(None, "--collection", metavar="TITLE", help="Put all into a collection of the owner's.")
ENDPOINT = typer.Option(None, "--endpoint", metavar="URL", help="Another Hub. Default: the recipe's, or HF_ENDPOINT.")
GATED = typer.Option(None, "--gated", metavar="auto|manual", help="Who wants the files must ask for them.")
BASE = typer.Option(
    None, "--base-model", metavar="OWNER/NAME", help="The base's name at the Hub, if it is a folder here."
)
EXAMPLES = typer.Option(False, "--with-examples", help="Files that show rows and answers go up too.")
FORCE = typer.Option(
    "", "--force", metavar="REASON", help="Although a licence, a failed gate, or rows that are gone, speak against it."
)
SIGN = typer.Option(None, "--sign", metavar="KEY.PEM", help="Sign each repository with this private key (OpenSSF).")
OUT = typer.Option(None, "--out", metavar="FOLDER", help="Lay the repositories' folders out there; send nothing.")
PARENT = typer.Option(None, "--parent", metavar="COMMIT", help="Build upon this commit, though another made it.")
ONTO = typer.Option(False, "--onto-head", help="Build upon whatever is there.")

ID = r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]{0,90}"
"""Of a repository; as `publish.repo`, and short enough for an ending."""

WORDS = {
    "--repo": (ID, "OWNER/NAME"),
    "--base-model": (ID, "OWNER/NAME"),
    "--tag": (r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", "v1.0"),
    "--parent": (r"[0-9a-f]{7,40}", "COMMIT"),
}
"""What an option may be, and an example."""


def publish(
    run: Path = typer.Argument(help="The run folder."),
    repo: str | None = REPO,
    adapter: bool = typer.Option(False, "--adapter", help="The adapter, to OWNER/NAME-lora."),
    merged: bool = typer.Option(False, "--merged", help="The merged model, to OWNER/NAME."),
    gguf: bool = typer.Option(False, "--gguf", help="The GGUF files, to OWNER/NAME-GGUF. Default: all that are there."),
    private: bool | None = PRIVATE,
    tag: str | None = typer.Option(None, "--tag", metavar="NAME", help="Name the commits, such as v1.0."),
    collection: str | None = COLLECTION,
    endpoint: str | None = ENDPOINT,
    gated: str | None = GATED,
    base_model: str | None = BASE,
    with_examples: bool = EXAMPLES,
    sign: Path | None = SIGN,
    force: str = FORCE,
    parent: str | None = PARENT,
    onto_head: bool = ONTO,
    out: Path | None = OUT,
    dry_run: bool = typer.Option(False, "--dry-run", help="List what would go up; opens no connection."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Bring a run's adapter, merged model and GGUF files to the Hub, and read every byte back."""
    from finetune.run import locked, open_run

    with stopping.heard() as stop:
        stop.idle = shlex.join(["finetune", *sys.argv[1:]])  # what is there already is not sent twice
        opened = open_run(run)
        _check_words({"--repo": repo, "--base-model": base_model, "--tag": tag, "--parent": parent})
        if quiet:
            os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        quiet_libraries()
        from finetune.publish import Asked, Wish, prepare, staging
        from finetune.publish import publish as publish_run

        kinds: Any = tuple(k for k, on in (("adapter", adapter), ("merged", merged), ("gguf", gguf)) if on)
        wish, bar = Wish(parent, onto_head), Bar(quiet)
        words = (repo, kinds, private, endpoint, base_model, _gate(gated), tag, collection)
        asked = Asked(*words, with_examples, sign, force.strip(), wish)
        if dry_run or out:
            with locked(opened), staging(opened) as place:
                staged = prepare(opened, asked, place, bar.say)
                if out:
                    _write(staged, out)
            _list(staged, as_json, out)
            return
        entries = publish_run(opened, asked, bar.say)
    places = (entry["inputs"] for entry in entries)
    lines = [f"{told['endpoint']}/{told['repo']}/tree/{told['commit']}" for told in places]
    print(json.dumps(entries, indent=2) if as_json else "\n".join(lines))


def _gate(told: str | None) -> Gated | None:
    """Reads who lets people in.

    Raises:
        RecipeError: it is neither.
    """
    if told in (None, "auto", "manual"):
        return cast("Gated | None", told)
    raise RecipeError("a gate is auto or manual", where=f"--gated {told!a:.60}", fix="--gated manual")


def _write(all_staged: list[Staged], out: Path) -> None:
    """Lays the folders out for who brings them elsewhere.

    Raises:
        ArtifactError: there is something in the place.
    """
    from finetune.run import atomic

    for staged in all_staged:
        place = out / staged.artifact.repo.partition("/")[2]
        with atomic.refusal_told(place, "--out ANOTHER"), atomic.full_disk_told(place, staged.num_bytes):
            shutil.copytree(staged.folder, place)


def _check_words(given: dict[str, str | None]) -> None:
    """Makes sure that each word is one that the Hub takes.

    Raises:
        RecipeError: one is not.
    """
    for word, told in given.items():
        pattern, example = WORDS[word]
        if told is not None and not re.fullmatch(pattern, told, re.ASCII):
            raise RecipeError(f"this is none of {pattern}", where=f"{word} {told!a:.60}", fix=f"{word} {example}")


def _list(all_staged: list[Staged], as_json: bool, out: Path | None) -> None:
    """Prints what would go up, and where it was laid out."""
    if as_json:
        told = [
            {
                "repo": staged.artifact.repo,
                "bytes": staged.num_bytes,
                "files": [
                    {"name": f.name, "bytes": f.num_bytes, "sha256": f.sha256, "lfs": f.lfs} for f in staged.files
                ],
            }
            for staged in all_staged
        ]
        print(json.dumps(told, indent=2))
        return
    for staged in all_staged:
        print(f"{staged.artifact.repo}  {len(staged.files)} files, {staged.num_bytes:,} bytes")
        for file in staged.files:
            print(f"  {'lfs' if file.lfs else 'git'}  {file.num_bytes:>15,}  {file.name}")
    total = sum(staged.num_bytes for staged in all_staged)
    laid = f"laid out in {out}; " if out else ""
    print(f"{len(all_staged)} repositories, {total:,} bytes; {laid}nothing was sent")

"""`finetune card`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from finetune.cli.targets import STDOUT, check_made
from finetune.errors import RecipeError

if TYPE_CHECKING:
    from finetune.provenance import Artifact

SET = typer.Option([], "--set", metavar="card.KEY=VALUE", help="Say it other than the recipe does; may be repeated.")

ARTIFACTS: tuple[Artifact, ...] = ("adapter", "merged", "gguf")

CARD, BILL, SUMMARY = "Fingerprints (sha256): ", '"bomFormat": "CycloneDX"', "# Training content of "
"""What stands in each file that this command writes, and in none of somebody else."""

ARTIFACT = typer.Option(
    None, "--artifact", metavar="|".join(ARTIFACTS), help="Whose card it is. Default: adapter; of method full, merged."
)

REPO = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}"


def card(
    run: Path = typer.Argument(help="The run folder."),
    artifact: str | None = ARTIFACT,
    repo: str | None = typer.Option(
        None, "--repo", metavar="OWNER/NAME", help="The merged model's repository, as for publish."
    ),
    made_of: str | None = typer.Option(
        None, "--made-of", metavar="OWNER/NAME", help="Of GGUF files: where the merged model is."
    ),
    out: Path | None = typer.Option(None, "--out", metavar="README.md", help="Write it there instead of printing it."),
    bom: Path | None = typer.Option(None, "--bom", metavar="bom.json", help="Write a bill of materials (CycloneDX)."),
    summary: Path | None = typer.Option(
        None, "--summary", metavar="summary.md", help="Draft a summary of the training's content and compute."
    ),
    overrides: list[str] = SET,
) -> None:
    """Write the model card of a run, from what its files prove."""
    if artifact not in (None, *ARTIFACTS):
        where, why = f"--artifact {artifact!a:.40}", f"a run has {', '.join(ARTIFACTS)}"
        raise RecipeError("there is no such artifact", where=where, why=why, fix="--artifact adapter")
    for option, name in (("--repo", repo), ("--made-of", made_of)):
        _check_repo(option, name)
    from finetune.card import make_card
    from finetune.provenance import bill_of_materials, read_facts, repo_of, training_summary
    from finetune.run import open_run

    facts = read_facts(open_run(run), overrides)
    chosen = artifact or ("merged" if facts.plan.method == "full" else "adapter")
    for option, file, mark in (("--out", out, CARD), ("--bom", bom, BILL), ("--summary", summary, SUMMARY)):
        if file is not None and str(file) not in STDOUT:
            check_made(option, file, facts.run, mark)
    repo = repo_of(repo, chosen) if repo else None
    text = make_card(facts, chosen, repo, made_of)
    if bom is not None:
        _write(bom, json.dumps(bill_of_materials(facts, chosen, repo), indent=2, ensure_ascii=False) + "\n")
    if summary is not None:
        _write(summary, training_summary(facts))
    if out is not None:
        _write(out, text)
    if out is bom is summary is None:
        print(text, end="")


def _write(file: Path, text: str) -> None:
    """Writes a file whole, and says that it is there."""
    from finetune.run import atomic

    if str(file) in STDOUT:
        print(text, end="")
        return
    with atomic.refusal_told(file, "name another file"):
        atomic.write_text(file, text)
    print(file)


def _check_repo(option: str, name: str | None) -> None:
    """Refuses what the Hub would take for no repository.

    Raises:
        RecipeError: it is none.
    """
    if name is not None and not re.fullmatch(REPO, name):
        where, why = f"{option} {name!a:.100}", "it is an owner and a name: letters, digits and _ - ."
        raise RecipeError("this is no repository", where=where, why=why, fix=f"{option} owner/name")

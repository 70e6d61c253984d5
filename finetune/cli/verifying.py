"""`finetune verify`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from finetune import stopping
from finetune.cli.bar import Bar
from finetune.cli.looking import figure
from finetune.cli.quiet import quiet_libraries
from finetune.errors import ProofFailed

if TYPE_CHECKING:
    from finetune.run import Claim


_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?")
"""Owner and name, and a branch, a tag or a commit."""


def verify(
    path: Path = typer.Argument(
        help="A run, the folder of a model, an adapter or GGUF files, a GGUF; or owner/name[@revision] on the Hub."
    ),
    base: Path | None = typer.Option(
        None, "--base", metavar="FOLDER", help="The base. Default: that of the run around."
    ),
    key: Path | None = typer.Option(
        None, "--key", metavar="pub.pem", help="Compare a signed folder with its signature, by this public key."
    ),
    quiet: bool = typer.Option(False, "--quiet", help="No progress."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Compare what lies in a folder with what it should be."""
    with stopping.heard() as stop:
        stop.idle = f"finetune verify {path}"  # nothing is written
        found = []
        folder = _folder(path)
        for claim in _claims(folder, base, key, quiet):
            found.append(claim)
            if not as_json:
                told = f": {figure(claim['measured'])}" if claim["measured"] != "" else ""
                print(f"{'ok  ' if claim['holds'] else 'FAIL'} {claim['claim']}{told}", flush=True)
    if as_json:
        print(json.dumps(found, indent=2))
    if wrong := [claim for claim in found if not claim["holds"]]:
        what = f"{len(wrong)} of {len(found)} claims {'does' if len(wrong) == 1 else 'do'} not hold"
        raise ProofFailed(what, where=str(path), why=f"{wrong[0]['claim']}: {wrong[0]['measured']}")
    if not as_json:
        print(f"{len(found)} of {len(found)} claims hold")


def _folder(path: Path) -> Path:
    """Takes what lies on the disk, else the repository of that name, which is downloaded.

    Raises:
        OutsideError: the Hub does not give it out.
    """
    if path.exists() or path.parent.exists() or not _REPOSITORY.fullmatch(str(path)):
        return path
    print(f"no folder {path.parent} is here: downloading {path} from the Hub", file=sys.stderr)
    from finetune.hub import fetch_repository

    return fetch_repository(str(path))


def _claims(path: Path, base: Path | None, key: Path | None, quiet: bool) -> Iterator[Claim]:
    if key is not None:
        from finetune.provenance import check_signature

        return check_signature(path, key)
    quiet_libraries()
    from finetune.export.converter import kept
    from finetune.verify import verify as verify_path

    return verify_path(path, base, kept(), Bar(quiet).show)

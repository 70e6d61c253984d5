"""The last look before anything leaves this machine: what must not go up, by name and by what stands in it.

Found is refused, never left out in silence: who has a pickle beside an adapter should know it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from fnmatch import fnmatch
from itertools import chain
from pathlib import PurePosixPath

from finetune.errors import DataError, OutsideError, Problem, ProofFailed
from finetune.publish.artifacts import Artifact
from finetune.publish.headers import words_of
from finetune.publish.private import Privates, look
from finetune.publish.rows import item_texts, repeated, row_texts
from finetune.publish.staging import BESIDE, WEIGHTS, WITH_EXAMPLES, File, Staged
from finetune.recipe import Recipe
from finetune.run import Run

FORBIDDEN = {
    "a pickle, which runs code where it is opened": "*.pt *.pth *.bin *.pkl *.pickle *.ckpt *.joblib *.npy *.npz",
    "the state of a training": "optimizer* scheduler* rng_state* train*_args* trainer_* checkpoint* global_step*",
    "a log of a training": "events.out.tfevents* wandb trackio *.log",
    "a file of secrets": ".env* .netrc *.pem *.key id_rsa* id_ed25519* *.p12 credentials*",
    "a repository's inside": ".git .hg .svn",
}
"""What a file, or a folder around it, may not be called."""

MAGIC = {
    **{bytes((0x80, version)): "a pickle, which runs code where it is opened" for version in range(2, 6)},
    b"PK": "an archive, into which nobody looks",
    b"\x1f\x8b": "an archive, into which nobody looks",
}
"""How a file may not begin."""

ITEMS = "eval/items.jsonl"

EXAMPLES = (ITEMS, "report.html")
"""Files that may show rows, where that is wished."""

MOST_IN_FILE = 3
"""Findings of a file that are told."""


def check_names(run: Run, artifact: Artifact) -> None:
    """Refuses links, files that no stage proved, and files that are never published.

    Args:
        run: whose.
        artifact: whose files.

    Raises:
        ProofFailed: naming each.
    """
    problems = []
    for name, file in artifact.files.items():
        kind = _forbidden(name)
        if file.is_symlink() or not file.is_file():
            kind = "a link or a device, whose bytes lie elsewhere"
        elif not kind and run.named(file) not in artifact.proven:
            kind = "a file that no stage of the run made"
        if kind:
            why = f"everything in the folder of {artifact.kind} would go up"
            problems.append(Problem(f"{name} is {kind}", str(file), why, f"move it out of {file.parent}"))
    for file in (run.path / name for name in (*BESIDE, *WITH_EXAMPLES)):
        if file.is_symlink():
            problems.append(Problem(f"{file.name} is a link", str(file), "its bytes lie elsewhere", f"rm {file}"))
    if problems:
        raise ProofFailed.of(problems)


def check_contents(staged: Staged, privates: Privates) -> None:
    """Refuses what is private in a file that would go up.

    Raises:
        ArtifactError: a header of weights cannot be read.
        ProofFailed: naming file, line and kind of each; what it is stays masked.
    """
    problems = [problem for file in staged.files for problem in _found(file, privates)]
    if problems:
        raise ProofFailed.of(problems)


def check_rows(staged: Staged, run: Run, recipe: Recipe, with_examples: bool, forced: str) -> str:
    """Refuses a text that repeats rows of the data or of an evaluation, and tells how that was looked for.

    Args:
        staged: what would go up.
        run: whose evaluation.
        recipe: whose rows.
        with_examples: whether the files that show examples may.
        forced: why rows need not be compared, where they are not to be had.

    Raises:
        DataError: the rows are not to be had.
        ProofFailed: naming the files.
    """
    texts = {
        file.name: file.path
        for file in staged.files
        if file.path.suffix not in (*WEIGHTS, ".png") and not file.of_base and not _shows_examples(file, with_examples)
    }
    try:
        found = list(repeated(chain(item_texts(run.path / ITEMS), row_texts(recipe)), texts))
    except (DataError, OutsideError) as error:
        if forced:
            return f"not compared: {forced}"
        fix = "put the rows back where the recipe names them, or --force REASON"
        why = f"that no file repeats them cannot be told: {error.problems[0].what}"
        where = recipe.where("data.train")
        raise DataError("the rows of the training are not to be had", where=where, why=why, fix=fix) from error
    if found:
        why = "rows are private; files with examples go up with --with-examples"
        problems = [
            Problem(f"{name} repeats a row", _place(staged, name), f"{row}; {why}", _without(run, name))
            for name, row in found
        ]
        raise ProofFailed.of(problems)
    return f"{len(texts)} files repeat none of them"


def _shows_examples(file: File, with_examples: bool) -> bool:
    return with_examples and file.name in EXAMPLES


def _without(run: Run, name: str) -> str:
    """Gives the command that takes a file out of the run, or beside it the option that lets its rows be seen."""
    moved = f"mv {shlex.quote(str(run.path / name))} {shlex.quote(f'{run.name}-{PurePosixPath(name).name}')}"
    return f"--with-examples   # its rows are seen then; or {moved}" if name in EXAMPLES else moved


def _place(staged: Staged, name: str) -> str:
    return next(file.shown for file in staged.files if file.name == name)


def _forbidden(name: str) -> str:
    """Tells what kind of file one is by its name or that of a folder around it; nothing if it may go up."""
    for kind, patterns in FORBIDDEN.items():
        parts = PurePosixPath(name.lower()).parts
        if any(fnmatch(part, pattern) for part in parts for pattern in patterns.split()):
            return kind
    return ""


def _found(file: File, privates: Privates) -> Iterator[Problem]:
    """Yields what is private in a file; a base's own file is public, but for a secret in it."""
    told: set[tuple[str, str]] = set()
    for where, text in _lines(file):
        for kind, shown in look(text, privates):
            if file.of_base and kind != "a secret":
                continue
            if (kind, shown) not in told and len(told) < MOST_IN_FILE:
                told.add((kind, shown))
                fix = "take it out where it comes from" + ("; revoke the secret" if kind == "a secret" else "")
                yield Problem(f"{file.name} holds {kind}", f"{file.shown}:{where}", shown, fix)
    with file.path.open("rb") as opened:
        begins = opened.read(2)
    if (begun := MAGIC.get(begins)) and file.path.suffix not in WEIGHTS:
        yield Problem(f"{file.name} is {begun}", file.shown, "its first bytes say so", "move it away")


def _lines(file: File) -> Iterator[tuple[str, str]]:
    """Yields each line of a text, or each text of a header, and where it is."""
    if file.path.suffix in WEIGHTS:
        yield from (("header", f"{key} = {text}") for key, text in words_of(file.path))
        return
    yield "its name", file.name
    with file.path.open(encoding="utf-8", errors="replace") as opened:
        for number, line in enumerate(opened, 1):
            yield str(number), line

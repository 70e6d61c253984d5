"""Drafts examples from documents: read, cut, ask, keep what is grounded, write rows with where they come from."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune import atomic
from finetune.completions import Reply
from finetune.draft import journal as journals
from finetune.draft.asking import ask_all
from finetune.draft.chunks import Chunk, chunks_of
from finetune.draft.documents import read_documents
from finetune.draft.journal import Journal
from finetune.draft.prompt import TOKENS_A_PAIR, asked_tokens, identity
from finetune.draft.settings import Prices, Wishes
from finetune.draft.sifting import Sifted, reasons, sift
from finetune.endpoints import Endpoint
from finetune.errors import DataError, RecipeError


@dataclass(frozen=True)
class Forecast:
    """What will be asked."""

    documents: int
    left_out: tuple[str, ...]
    remarks: tuple[str, ...]
    """What the user should know of how documents were read."""
    cut: int
    """Chunks of all documents."""
    chunks: Mapping[str, Chunk]
    """Those that are asked about, by the identity of what is asked; each text once."""
    answered: int
    """Of them, answered before."""
    read_tokens: float
    """Of those that are not; an estimate."""
    written_tokens: float
    cost: float | None


@dataclass(frozen=True)
class Progress:
    """How far the asking is."""

    done: int
    whole: int
    read_tokens: float
    written_tokens: float
    cost: float | None


def foresee(wishes: Wishes) -> Forecast:
    """Reads and cuts the documents, and estimates what asking costs; nothing is asked.

    Raises:
        ArtifactError: the journal is damaged.
        DataError: documents cannot be read, or hold nothing to ask about.
        OutsideError: the package that reads a document is missing.
    """
    library = read_documents(wishes.documents)
    cut = [chunk for document in library.documents for chunk in chunks_of(document, wishes.settings.chunk_tokens)]
    named: dict[str, Chunk] = {}
    for chunk in cut:
        if chunk.is_asked:
            named.setdefault(identity(chunk, wishes.settings), chunk)
    chunks = dict(list(named.items())[: wishes.limit])
    if not chunks:
        where, fix = " ".join(map(str, wishes.documents)), "name documents that say more"
        raise DataError("there is nothing to ask about", where=where, why=f"{len(cut)} chunks, all too short", fix=fix)
    before = journals.answered(journal_of(wishes.out))
    todo = [chunk for name, chunk in chunks.items() if name not in before]
    read = sum(asked_tokens(chunk, wishes.settings) for chunk in todo)
    written = float(len(todo) * wishes.settings.per_chunk * TOKENS_A_PAIR)
    return Forecast(
        len(library.documents),
        library.left_out,
        tuple(f"{d.file}: {d.remark}" for d in library.documents if d.remark),
        len(cut),
        chunks,
        len(chunks) - len(todo),
        read,
        written,
        wishes.prices.of(read, written) if wishes.prices else None,
    )


def draft(
    wishes: Wishes,
    forecast: Forecast,
    who: Endpoint,
    asked_to_stop: Callable[[], bool],
    progress: Callable[[Progress], None],
) -> dict[str, Any]:
    """Asks what was not answered yet, and writes all that was. Whatever ends it, what was answered is written.

    Raises:
        ArtifactError: the journal is damaged, or the place takes no files.
        DataError: the output was changed by others, or was never ours.
        DoesNotFit: the disk is full.
        OutsideError: the server will not answer.
        RunLocked: another process drafts into this file.
    """
    began = time.monotonic()
    with journals.opened(journal_of(wishes.out)) as journal:
        _check_ours(wishes.out, journal)
        todo = {name: chunk for name, chunk in forecast.chunks.items() if name not in journal.replies}
        now: list[Reply] = []

        def tell(reply: Reply | None) -> None:
            now.extend([reply] if reply else [])
            progress(Progress(len(now), len(todo), *_tokens(now), _cost(now, wishes.prices)))

        refused: dict[str, str] = {}
        try:
            refused = ask_all(who, todo, wishes.settings, journal, wishes.parallel, asked_to_stop, tell)
        finally:
            sifted = sift(forecast.chunks, journal.replies, wishes.settings)
            sifted.rejected += [_refused(forecast.chunks[name], name, why) for name, why in refused.items()]
            if any(name in journal.replies for name in forecast.chunks):
                _write(wishes.out, sifted, journal)
        of_all = [journal.replies[name] for name in forecast.chunks if name in journal.replies]
    return {
        "out": str(wishes.out),
        "rejected": str(rejected_of(wishes.out)),
        "journal": str(journal.path),
        "documents": forecast.documents,
        "left_out": list(forecast.left_out),
        "chunks": len(forecast.chunks),
        "asked": len(now),
        "answered_before": len(of_all) - len(now),
        "unanswered": len(forecast.chunks) - len(of_all),
        "pairs": {"kept": len(sifted.kept), "dropped": reasons(sifted.rejected)},
        "now": _account(now, wishes.prices),
        "all": _account(of_all, wishes.prices),
        "seconds": round(time.monotonic() - began, 1),
    }


def journal_of(out: Path) -> Path:
    """Names the journal of an output."""
    return out.with_name(f"{out.name}.journal")


def rejected_of(out: Path) -> Path:
    """Names the file of what was dropped."""
    return out.with_name(f"{out.stem}.rejected{out.suffix}")


def check_out(out: Path) -> None:
    """Sees that the output can be called so.

    Raises:
        RecipeError: it is a folder, or lies in none.
    """
    if out.is_dir() or not out.name:
        raise RecipeError("--out is a folder", where=f"--out {out}", fix=f"--out {out / 'drafted.jsonl'}")
    if not out.parent.is_dir():
        fix = f"mkdir -p {shlex.quote(str(out.parent))}"
        raise RecipeError("the folder of --out is not there", where=f"--out {out}", fix=fix)


def _check_ours(out: Path, journal: Journal) -> None:
    """Sees that only what we wrote is written over: rows that somebody mended by hand are worth more.

    Raises:
        DataError: a file was changed, or was never ours.
    """
    for file in (out, rejected_of(out)):
        if file.exists() and atomic.sha256(file) not in journal.written:
            aside = file.with_name(f"{file.stem}.mine{file.suffix}")
            what = "the file was changed since it was drafted" if journal.written else "the file is not a draft"
            why = "it would be written over"
            raise DataError(what, where=str(file), why=why, fix=shlex.join(["mv", "-n", str(file), str(aside)]))


def _write(out: Path, sifted: Sifted, journal: Journal) -> None:
    """Writes both files whole; their hashes are known as ours before they are there."""
    for file, rows in ((rejected_of(out), sifted.rejected), (out, sifted.kept)):
        text = "".join(_line(row) for row in rows)
        journals.note_output(journal, hashlib.sha256(text.encode()).hexdigest())
        atomic.write_text(file, text)


def _refused(chunk: Chunk, name: str, why: str) -> dict[str, Any]:
    source = {"file": chunk.document.file, chunk.document.unit: [chunk.first, chunk.last], "chunk": name}
    return {"reason": "the server refused the chunk", "detail": why, "source": source}


def _line(row: dict[str, Any]) -> str:
    """Spells a row; half a character, which a teacher may write as an escape, stays one."""
    line = json.dumps(row, ensure_ascii=False)
    return (json.dumps(row) if re.search("[\ud800-\udfff]", line) else line) + "\n"


def _account(replies: Iterable[Reply], prices: Prices | None) -> dict[str, Any]:
    listed = list(replies)
    read, written = _tokens(listed)
    estimated = sum(not reply.counted for reply in listed)
    told = {"read_tokens": round(read), "written_tokens": round(written), "estimated_replies": estimated}
    return {**told, "cost": _cost(listed, prices)}


def _tokens(replies: Iterable[Reply]) -> tuple[float, float]:
    listed = list(replies)
    return sum(reply.read_tokens for reply in listed), sum(reply.written_tokens for reply in listed)


def _cost(replies: Iterable[Reply], prices: Prices | None) -> float | None:
    return prices.of(*_tokens(replies)) if prices else None

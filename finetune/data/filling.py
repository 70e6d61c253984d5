"""From a file to its store: read, checked, rendered and encoded, over all cores where it is large; kept for next time.

The cache's key is the content: of the file, the template, the tokenizer, and every setting that ids follow from.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from finetune import atomic
from finetune.data.crew import on_all
from finetune.data.entries import alone, code, find_entry, sweep, umask
from finetune.data.files import Format, LeftOut, Raw, parse, place, read_raw, sniff
from finetune.data.messages import Row, part_of, rows_from
from finetune.data.rendering import Renderer
from finetune.data.shapes import Columns
from finetune.data.shapes.proposing import OF_THE_FILE
from finetune.data.store import REASONS, SPELLS_CONTROL, TEXT, UNANSWERED, Store, Told, Writer
from finetune.errors import DataError, DoesNotFit, Problem

SMALL_BYTES = 2**20
"""Files up to this size are rendered in a moment, in memory, and leave no cache."""

PARALLEL_BYTES = 8 * 2**20
"""From this size on the cores share the work; starting a process costs as much as rendering a few megabytes."""

BATCH = 256
"""Records that are rendered together; equal pieces of them (roles, system prompts, tools) are encoded once."""

PARTS_FROM = 2**40
"""Lines are numbered below this; above, the part of a record that `each` makes several rows of."""


def numbered(line: int, part: int) -> int:
    """Packs the line of a record and the part of it into one number."""
    return line + part * PARTS_FROM


@dataclass(frozen=True)
class Reading:
    """How a file's records become rows."""

    file: Path
    shown: str
    """Its name, as errors tell it."""
    format: Format
    columns: Columns | None = None
    group: str | None = None
    may_lack_group: bool = False
    """Whether a row without that column belongs to no group; else it is an error."""

    def place(self, numbered: int) -> str:
        """Names a row of the file, as `numbered` packs its line and part."""
        told = place(self.shown, self.format, numbered % PARTS_FROM)
        part = numbered // PARTS_FROM
        return part_of(told, str((self.columns or {}).get("each")), part) if part else told


@dataclass
class Batch:
    """What came of some records; crosses from one process to another."""

    parts: dict[str, bytes] = field(default_factory=dict)
    told: Told = field(default_factory=Told)
    problems: list[Problem] = field(default_factory=list)
    good: int = 0


def reading_of(
    file: Path, shown: str, columns: Columns | None, group: str | None, may_lack_group: bool = False
) -> Reading:
    """Looks what a file is.

    Raises:
        DataError: it is nothing that can be read.
    """
    return Reading(file, shown, sniff(file, shown), columns, group, may_lack_group)


def rows_in(reading: Reading) -> Iterator[Row | Problem | LeftOut]:
    """Yields every row of a file, what is wrong with a record, and what is left out.

    A file whose first record has no certain shape is told of once, and read no further.
    """
    for number, raw in enumerate(read_raw(reading.file, reading.shown, reading.format)):
        found = list(_rows(raw, reading))
        yield from found
        if not number and any(isinstance(each, Problem) and each.what in OF_THE_FILE for each in found):
            return


def fill(reading: Reading, renderer: Renderer, cache: Path | None) -> tuple[Store, list[Problem]]:
    """Renders a file, or finds it rendered.

    A cache that takes nothing is no reason to stop: then the rows lie on the disk for temporary files, and the store
    says why they are not kept.

    Args:
        reading: the file.
        renderer: template, tokenizer and settings.
        cache: folder of caches; None keeps none.

    Returns:
        Its examples, and what is wrong with its rows; with a problem no cache is written.

    Raises:
        DataError: the file changed while it was read, or neither the cache nor another folder can be written.
        DoesNotFit: the disk of the cache is full, and that of temporary files too.
    """
    if cache is None or reading.file.stat().st_size <= SMALL_BYTES:
        writer = Writer(None)
        problems = _write(reading, renderer, writer)
        return writer.close(), problems
    digest = atomic.sha256(reading.file)
    entry = cache / _key(digest, reading, renderer)
    if (found := find_entry(entry)) is not None:
        return found, []
    try:
        return _kept(entry, digest, reading, renderer)
    except DoesNotFit as error:
        unkept = f"{cache}: {error.problems[0].what}"
    except OSError as error:
        unkept = f"{cache}: {error.strerror or error}"
    try:
        staging = Path(tempfile.mkdtemp(prefix="finetune-rows-"))
    except OSError:
        what, fix = "the cache of rendered rows cannot be written", "FINETUNE_DATA_CACHE=/another/folder"
        raise DataError(what, where=str(cache), why=unkept.removeprefix(f"{cache}: "), fix=fix) from None
    try:
        store, problems = _staged(staging, digest, reading, renderer)
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # what is mapped stays, until nobody reads it
    return replace(store, unkept=unkept), problems


def _kept(entry: Path, digest: str, reading: Reading, renderer: Renderer) -> tuple[Store, list[Problem]]:
    """Renders a file into an entry of the cache, unless another process has by now.

    Raises:
        OSError: the folder of caches takes nothing.
    """
    cache = entry.parent
    with alone(cache, entry.name):
        if (found := find_entry(entry)) is not None:
            return found, []
        sweep(cache)
        shutil.rmtree(entry, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{entry.name}.", dir=cache))
        try:
            store, problems = _staged(staging, digest, reading, renderer)
            if not problems:
                os.chmod(staging, 0o777 & ~umask())  # whoever shares the folder may read it
                with suppress(OSError):  # another user's entry that we may not read lies there: this one is not kept
                    os.rename(staging, entry)
        finally:
            shutil.rmtree(staging, ignore_errors=True)  # what is mapped stays, until nobody reads it
    return store, problems


def _staged(staging: Path, digest: str, reading: Reading, renderer: Renderer) -> tuple[Store, list[Problem]]:
    """Renders a file into a folder.

    Raises:
        DataError: the file changed meanwhile.
        DoesNotFit: the disk is full.
    """
    with atomic.full_disk_told(staging):
        writer = Writer(staging)
        try:
            problems = _write(reading, renderer, writer)
            store = writer.close()
        finally:
            writer.abandon()
    if atomic.sha256(reading.file) != digest:
        why, fix = "what was read is neither the old file nor the new one", "let the writer end, and run it again"
        raise DataError("the file changed while it was read", where=reading.shown, why=why, fix=fix)
    return store, problems


def _key(digest: str, reading: Reading, renderer: Renderer) -> str:
    """Identifies everything that the ids follow from."""
    made_from = {
        "file": digest,
        "format": asdict(reading.format),
        "columns": dict(reading.columns or {}),
        "group": [reading.group, reading.may_lack_group],
        "template": renderer.template.sha256,
        "tokenizer": renderer.vocabulary.sha256,
        "settings": [renderer.system, renderer.preserve_thinking, renderer.learn_reasoning],
        "code": code(),
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:32]


def _write(reading: Reading, renderer: Renderer, writer: Writer) -> list[Problem]:
    problems: list[Problem] = []
    for number, batch in enumerate(_batches(reading, renderer)):
        if not number and not batch.good and any(p.what in OF_THE_FILE for p in batch.problems[:1]):
            return batch.problems[:1]
        problems += batch.problems
        writer.add(batch.parts, batch.told)
    return problems


def _batches(reading: Reading, renderer: Renderer) -> Iterator[Batch]:
    """Renders the records of a file, in their order."""
    records = read_raw(reading.file, reading.shown, reading.format)
    groups = iter(lambda: list(islice(records, BATCH)), [])
    size, cores = reading.file.stat().st_size, len(os.sched_getaffinity(0))
    if cores == 1 or size * (4 if reading.format.gzip else 1) < PARALLEL_BYTES:
        yield from (render(group, reading, renderer) for group in groups)
        return
    yield from on_all(cores, partial(render, reading=reading, renderer=renderer), groups)


def render(group: Iterable[Raw | Problem | LeftOut], reading: Reading, renderer: Renderer) -> Batch:
    """Renders some records."""
    batch, rows, lines = Batch(), list[Row](), list[int]()
    for raw in group:
        for found in _rows(raw, reading):
            if isinstance(found, Row):
                rows.append(found)
                lines.append(numbered(raw.line if isinstance(raw, Raw) else 0, found.part))
            elif isinstance(found, Problem):
                batch.problems.append(found)
            else:
                batch.told.left_out[found.why] += 1
    ids, learnt, examples, numbers = array("I"), bytearray(), array("Q"), array("Q")
    refused: list[Problem] = []
    for number, made in enumerate(renderer.batch(rows, refused)):
        row = rows[number]
        for example in made:
            ids.extend(example.ids)
            learnt += bytes(example.learnt)
            examples.extend((len(ids), number, sum(example.learnt)))
        numbers.extend((lines[number], row.likeness, hashed(row.group), _flags(row, renderer)))
    batch.problems += refused
    prints = b"".join(bytes.fromhex(row.fingerprint) for row in rows)
    arrays: Mapping[str, Any] = {"ids.u32": ids, "learnt.u8": learnt, "examples.u64": examples, "rows.u64": numbers}
    batch.parts = {name: bytes(part) for name, part in {**arrays, "prints.u8": prints}.items()}
    batch.told.shapes = Counter(row.shape for row in rows)
    batch.told.unread = Counter(column for row in rows for column in row.unread)
    batch.good = len(rows) - len(refused)
    return batch


def _rows(raw: Raw | Problem | LeftOut, reading: Reading) -> Iterator[Row | Problem | LeftOut]:
    if not isinstance(raw, Raw):
        yield raw
        return
    record = parse(raw, reading.shown)
    if isinstance(record, Problem):
        yield record
        return
    yield from rows_from(record, reading.place(raw.line), reading.columns, reading.group, reading.may_lack_group)


def _flags(row: Row, renderer: Renderer) -> int:
    spells = bool(renderer.control.search(row.text or f"{row.messages}{row.tools}"))
    told = {REASONS: row.reasons, SPELLS_CONTROL: spells, UNANSWERED: row.unanswered > 0, TEXT: bool(row.text)}
    return sum(flag for flag, is_set in told.items() if is_set)


def hashed(group: str) -> int:
    """Gives what is the same for rows of one group; 0 without one."""
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest()) if group else 0

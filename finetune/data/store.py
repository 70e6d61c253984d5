"""The rendered examples of one file: in memory, or memory-mapped from the cache that a second run starts from at once.

    ids.u32         the ids of all examples, one after another
    learnt.u8       for each of them, whether it is learnt
    examples.u64    of each example: end among the ids, row, learnt tokens
    rows.u64        of each row: line, likeness, group, flags
    prints.u8       of each row: its fingerprint, 32 bytes
    told.json       counts, and the sha256 of each of these

All numbers are little-endian. A folder gets its name when it is whole; what is not whole is no cache.
"""

from __future__ import annotations

import json
import mmap
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from finetune import atomic

PARTS: dict[str, Literal["I", "B", "Q"]] = {
    "ids.u32": "I",
    "learnt.u8": "B",
    "examples.u64": "Q",
    "rows.u64": "Q",
    "prints.u8": "B",
}
"""File -> the type of its items, as `memoryview.cast` names it."""

TOLD = "told.json"
FORMAT = 2
PER_EXAMPLE, PER_ROW, PRINT_BYTES = 3, 4, 32

REASONS, SPELLS_CONTROL, UNANSWERED, TEXT = 1, 2, 4, 8
"""Flags of a row: it has reasoning to learn, spells a control token, was cut after its last answer, is a text."""

assert sys.byteorder == "little", "every machine that trains is"


@dataclass
class Told:
    """What is told of a file beside its examples."""

    shapes: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    """Column that means nothing here -> rows that have it."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Why a record is not learnt, by its own word -> records."""

    def add(self, other: Told) -> None:
        """Adds what is told of another part of the file."""
        self.shapes += other.shapes
        self.unread += other.unread
        self.left_out += other.left_out


@dataclass(frozen=True)
class Store:
    """The examples of one file, in its order."""

    parts: dict[str, memoryview]
    told: Told
    unkept: str = ""
    """Why it is not kept for the next time, where it should be."""

    @property
    def num_examples(self) -> int:
        """How many examples it holds."""
        return len(self.parts["examples.u64"]) // PER_EXAMPLE

    @property
    def num_rows(self) -> int:
        """How many rows they came from."""
        return len(self.parts["rows.u64"]) // PER_ROW

    def span(self, example: int) -> tuple[int, int]:
        """Gives where an example begins and ends among the ids."""
        ends = self.parts["examples.u64"]
        return (ends[(example - 1) * PER_EXAMPLE] if example else 0), ends[example * PER_EXAMPLE]

    def row_of(self, example: int) -> int:
        """Gives the row that an example came from."""
        return self.parts["examples.u64"][example * PER_EXAMPLE + 1]

    def learnt_of(self, example: int) -> int:
        """Counts the tokens of an example that are learnt."""
        return self.parts["examples.u64"][example * PER_EXAMPLE + 2]

    def line(self, row: int) -> int:
        """Gives the line, or the number, of a row in its file."""
        return self.parts["rows.u64"][row * PER_ROW]

    def likeness(self, row: int) -> int:
        """Gives what is the same for rows of the same words."""
        return self.parts["rows.u64"][row * PER_ROW + 1]

    def group(self, row: int) -> int:
        """Gives the hash of what stands in the column `data.group`; 0 without one."""
        return self.parts["rows.u64"][row * PER_ROW + 2]

    def flags(self, row: int) -> int:
        """Gives what else is known of a row."""
        return self.parts["rows.u64"][row * PER_ROW + 3]

    def fingerprint(self, row: int) -> bytes:
        """Gives the sha256 of a row."""
        return bytes(self.parts["prints.u8"][row * PRINT_BYTES : (row + 1) * PRINT_BYTES])

    def flagged(self, flag: int) -> Iterator[int]:
        """Yields the rows that a flag is set of."""
        return (row for row in range(self.num_rows) if self.flags(row) & flag)


class Writer:
    """Takes batches of rendered rows, into files of a folder or, without one, into memory."""

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.told = folder, Told()
        self._memory = {name: bytearray() for name in PARTS}
        self._files: dict[str, BinaryIO] = (
            {} if folder is None else {name: (folder / name).open("wb") for name in PARTS}
        )
        self._num_ids = self._num_rows = 0

    def add(self, parts: dict[str, bytes], told: Told) -> None:
        """Adds the rows of a batch, whose numbers count from its own beginning."""
        examples = memoryview(bytearray(parts["examples.u64"])).cast("Q")
        for i in range(0, len(examples), PER_EXAMPLE):
            examples[i] += self._num_ids
            examples[i + 1] += self._num_rows
        self._num_ids += len(parts["ids.u32"]) // 4
        self._num_rows += len(parts["prints.u8"]) // PRINT_BYTES
        for name, data in {**parts, "examples.u64": bytes(examples)}.items():
            if self._files:
                self._files[name].write(data)
            else:
                self._memory[name] += data
        self.told.add(told)

    def close(self) -> Store:
        """Ends the writing; a folder is whole then, once the caller gives it its name."""
        if self.folder is None:
            return Store({name: memoryview(self._memory[name]).cast(PARTS[name]) for name in PARTS}, self.told)
        for file in self._files.values():
            file.close()
        hashes = {name: atomic.sha256(self.folder / name) for name in PARTS}
        atomic.write_json(self.folder / TOLD, {"format": FORMAT, "sha256": hashes, **vars(self.told)})
        return _mapped(self.folder, self.told)

    def abandon(self) -> None:
        """Lets go of the files, whole or not."""
        for file in self._files.values():
            with suppress(OSError):  # what is still held cannot be written: the disk is full
                file.close()


def read_store(folder: Path) -> Store | None:
    """Opens what a writer wrote; None if it is not there, not whole, or of another version."""
    try:
        value: Any = json.loads((folder / TOLD).read_bytes())
        told = Told(*(Counter(value[name]) for name in Told.__dataclass_fields__))
        whole = all(atomic.sha256(folder / name) == value["sha256"][name] for name in PARTS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return _mapped(folder, told) if whole and value.get("format") == FORMAT else None


def _mapped(folder: Path, told: Told) -> Store:
    parts = {}
    for name, item in PARTS.items():
        with (folder / name).open("rb") as file:
            empty = file.seek(0, 2) == 0  # no file of no bytes can be mapped
            mapped = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        parts[name] = memoryview(mapped).cast(item)
    return Store(parts, told)

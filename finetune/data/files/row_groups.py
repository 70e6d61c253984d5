"""Says how a row group of Parquet is read within bounds: few bytes of a file can become any number in memory.

A text that stands once in the dictionary of its column can be a million cells, and a list of as many equal numbers
takes no room. What pyarrow and other writers make is bounded here; a file whose own figures lie is not.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from finetune.data.files.opening import renamed
from finetune.data.files.records import MAX_RECORD_BYTES
from finetune.errors import DataError

BATCH_ROWS, BATCH_BYTES = 256, 64 * 2**20
"""What is read at a time: rows, and what these take on the average."""

MOST_UNPACKED, MOST_SWOLLEN = 256 * 2**20, 100
"""The bytes that a column of a row group may unpack into, or else that many times those that it has in the file.

Text packs to a fifth, repetitive JSON to a fiftieth; what swells a thousandfold is nothing that anybody wrote.
"""

BUFFER_BYTES = 2**20
"""Of a column, so much of the file is held at a time; without it all of the row group would be."""

WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12, "BYTE_ARRAY": 4}
"""Bytes of a value in memory; of a text, the number under which it stands in a dictionary."""


@dataclass(frozen=True)
class Way:
    """How a row group is read."""

    rows: int
    """At a time."""
    swelling: tuple[str, ...]
    """Columns whose texts stay in the dictionary until each row of it is measured; that takes longer."""


@dataclass(frozen=True)
class Chunk:
    """A column of a row group, by what the file says of it."""

    path: str
    num_values: int
    packed: int
    """Its bytes in the file."""
    unpacked: int
    """Its pages without what dictionaries and lists make of them."""
    width: int
    """Bytes of a value."""
    is_list: bool
    has_dictionary: bool
    repeats: bool
    """Whether each text may repeat the one before it."""

    @property
    def bound(self) -> int:
        """What it may become in memory."""
        return max(MOST_UNPACKED, MOST_SWOLLEN * self.packed)


def way_through(stream: BinaryIO, metadata: Any, number: int, first: str, shown: str) -> Way:
    """Finds how a row group is read within bounds.

    Args:
        stream: the file.
        metadata: of the file.
        number: of the row group.
        first: the place of its first row.
        shown: the name of the file.

    Raises:
        DataError: a column of it would swell beyond all measure, or a row of it must be too long.
    """
    group = metadata.row_group(number)
    chunks = [_chunk(group.column(i), metadata.schema.column(i)) for i in range(group.num_columns)]
    row = 0
    for chunk in chunks:
        row += (chunk.unpacked + chunk.num_values * chunk.width) // max(1, group.num_rows)
        if row > MAX_RECORD_BYTES:
            why = f"a row from there on has {row:,} bytes on the average; a row has at most {MAX_RECORD_BYTES:,}"
            fix = f"shorten {chunk.path}, or remove the row"
            raise DataError("the row is too long", where=f"{first}  {chunk.path}", why=why, fix=fix)
        unpacked = chunk.unpacked + chunk.num_values * chunk.width * chunk.is_list
        if unpacked > chunk.bound:
            raise _swelling(chunk, unpacked, first, shown)
    longest = dict(zip([c.path for c in chunks], _longest(stream, metadata, number, chunks), strict=True))
    swelling = [c.path for c in chunks if c.unpacked + c.num_values * (c.width + longest[c.path]) > c.bound]
    row += sum(length for path, length in longest.items() if path not in swelling)
    rows = 1 if any(chunk.repeats for chunk in chunks) else max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, row)))
    return Way(rows, tuple(swelling))


def _chunk(told: Any, column: Any) -> Chunk:
    is_text = told.physical_type == "BYTE_ARRAY" and column.logical_type.type != "DECIMAL"
    return Chunk(
        path=column.path,
        num_values=told.num_values,
        packed=told.total_compressed_size,
        unpacked=told.total_uncompressed_size,
        width=WIDTHS.get(told.physical_type, column.length),
        is_list=column.max_repetition_level > 0,
        has_dictionary=is_text and told.has_dictionary_page,
        repeats="DELTA_BYTE_ARRAY" in told.encodings,
    )


def _longest(stream: BinaryIO, metadata: Any, number: int, chunks: Sequence[Chunk]) -> Iterator[int]:
    """Gives the bytes of the longest text in the dictionary of each column, or what it cannot be longer than."""
    from pyarrow import compute, types

    texts = [chunk.path for chunk in chunks if chunk.has_dictionary]
    table = opened_table(stream, metadata, texts)
    batch = next(table.iter_batches(BATCH_ROWS, row_groups=[number], use_threads=False), None) if texts else None
    leaves = [leaf for column in batch.columns for leaf in _leaves(column)] if batch is not None else []
    for chunk, leaf in zip(chunks, leaves or chunks, strict=True):
        if not chunk.has_dictionary:
            yield 0
        elif isinstance(leaf, Chunk) or not types.is_dictionary(leaf.type) or not len(leaf.dictionary):
            yield chunk.unpacked  # nothing but nulls so far, and the dictionary not read yet
        else:
            yield compute.max(compute.binary_length(leaf.dictionary)).as_py() or 0


def opened_table(stream: BinaryIO, metadata: Any, texts: Sequence[str]) -> Any:
    """Opens a file so that the texts of some columns stay in their dictionaries."""
    from pyarrow.parquet import ParquetFile

    return ParquetFile(stream, metadata=metadata, read_dictionary=texts, buffer_size=BUFFER_BYTES, pre_buffer=False)


def _leaves(array: Any) -> Iterator[Any]:
    """Yields the columns of the file that a column of a table is made of, in their order."""
    from pyarrow import BaseExtensionType, types

    if isinstance(array.type, BaseExtensionType):
        yield from _leaves(array.storage)
    elif types.is_struct(array.type):
        for i in range(array.type.num_fields):
            yield from _leaves(array.field(i))
    elif types.is_nested(array.type):
        yield from _leaves(array.values)
    else:
        yield array


def _swelling(chunk: Chunk, unpacked: int, first: str, shown: str) -> DataError:
    code = "import sys, pyarrow.parquet as p; p.write_table(p.ParquetFile(sys.argv[1]).read(), sys.argv[2], 1000)"
    fix = shlex.join(["python", "-c", code, shown, renamed(shown, "small", ".parquet")])
    why = f"its rows from there on have {chunk.packed:,} bytes in the file; unpacked, up to {unpacked:,}"
    what = "the column swells beyond measure when it is unpacked"
    return DataError(what, where=f"{first}  {chunk.path}", why=why, fix=fix)

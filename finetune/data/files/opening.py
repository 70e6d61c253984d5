"""Opens a data file, compressed or not, and reads its bytes, lines and text; what goes wrong is told in our words."""

from __future__ import annotations

import codecs
import gzip
import shlex
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from finetune.data.files.records import MAX_RECORD_BYTES
from finetune.errors import DataError
from finetune.recipe.encodings import guess_encoding

BOM = codecs.BOM_UTF8
GZIP = b"\x1f\x8b"
CHUNK_BYTES = 2**20


@contextmanager
def opened(file: Path, shown: str) -> Iterator[BinaryIO]:
    """Opens a file for reading, through gzip where its first bytes say so.

    Raises:
        DataError: it is no regular file, cannot be read, or its gzip is cut off or damaged.
    """
    try:
        check_regular(file, shown)
        with file.open("rb") as stream:
            if stream.peek(2).startswith(GZIP):
                with gzip.GzipFile(fileobj=stream) as unpacked:
                    yield cast(BinaryIO, unpacked)
            else:
                yield stream
    except EOFError:
        raise _damaged_gzip(shown, "the end of the compressed data is missing") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _damaged_gzip(shown, str(error)) from None
    except OSError as error:
        raise unreadable(shown, error) from None


@contextmanager
def opened_anywhere(file: Path, shown: str) -> Iterator[BinaryIO]:
    """Opens a file that is read from its end; out of gzip it is laid on the disk for as long.

    Raises:
        DataError: as `opened` does.
    """
    with opened(file, shown) as stream:
        if not is_packed(stream):
            yield stream
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(stream, copy, CHUNK_BYTES)
            copy.seek(0)
            yield cast(BinaryIO, copy)


def is_packed(stream: object) -> bool:
    """Says whether a stream that `opened` gave comes out of gzip."""
    return isinstance(stream, gzip.GzipFile)


def check_regular(file: Path, shown: str) -> None:
    """Refuses a folder, a pipe or a device before it is opened: a pipe would wait for ever.

    Raises:
        DataError: it is one of these.
        OSError: it is not there.
    """
    mode = file.stat().st_mode
    if stat.S_ISDIR(mode):
        why, fix = "one file is read at a time", f"ls {shlex.quote(shown)}"
        raise DataError(f"{shown} is a folder, not a file of rows", where=shown, why=why, fix=fix)
    if not stat.S_ISREG(mode):
        fix = "put the rows into a .jsonl file and name it"
        raise DataError(f"{shown} is not a regular file", where=shown, why="data is read more than once", fix=fix)


def unreadable(shown: str, error: OSError) -> DataError:
    """Tells what the system says."""
    why = error.strerror or str(error)
    return DataError("the data cannot be read", where=shown, why=why, fix=f"ls -l {shlex.quote(shown)}")


def numbered_lines(file: Path, shown: str) -> Iterator[tuple[int, bytes]]:
    """Yields the number (from 1) and the bytes of each line, blank ones too.

    Raises:
        DataError: a line is too long for a row, or as `opened` does.
    """
    with opened(file, shown) as stream:
        number = 0
        while line := stream.readline(MAX_RECORD_BYTES + 1):
            number += 1
            if len(line) > MAX_RECORD_BYTES:
                raise too_long(shown, number, is_packed(stream))
            yield number, line.removeprefix(BOM) if number == 1 else line


def whole_text(file: Path, shown: str, most_bytes: int, fix: str) -> str:
    """Reads a file that has to be held as a whole.

    Args:
        file: the file.
        shown: how errors name it.
        most_bytes: the bound.
        fix: the command that makes smaller files of it.

    Raises:
        DataError: it is larger, is not UTF-8, or as `opened` does.
    """
    with opened(file, shown) as stream:
        raw, packed = stream.read(most_bytes + 1), is_packed(stream)
    if len(raw) > most_bytes:
        why = f"such a file is held in memory, at most {most_bytes:,} bytes of it"
        raise DataError("the file is too large to be read as one", where=shown, why=why, fix=fix)
    raw = raw.removeprefix(BOM)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        around = raw[max(0, error.start - 2000) : error.start + 2000]
        raise not_utf8(shown, raw.count(b"\n", 0, error.start) + 1, around, packed) from None


def text_chunks(stream: BinaryIO, shown: str) -> Iterator[str]:
    """Yields the text of a stream piece by piece.

    Raises:
        DataError: it is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    raw = stream.read(CHUNK_BYTES).removeprefix(BOM)
    line, last = 1, False
    while not last:
        last = not raw
        try:
            text = decoder.decode(raw, last)
        except UnicodeDecodeError as error:
            bad = error.object
            line += bad.count(b"\n", 0, error.start)
            raise not_utf8(shown, line, bad[error.start :][:2000], is_packed(stream)) from None
        line += text.count("\n")
        yield text
        raw = stream.read(CHUNK_BYTES)


def not_utf8(shown: str, line: int, around: bytes, packed: bool) -> DataError:
    """Tells of text in another encoding, with the command that converts the file."""
    command = f"iconv -f {guess_encoding(around)} -t utf-8"
    source = f"gunzip -c {shlex.quote(shown)} | {command}" if packed else f"{command} {shlex.quote(shown)}"
    fix = f"{source} > {shlex.quote(renamed(shown, 'utf8'))}"
    why = "read in a wrong encoding, its letters would be learnt wrong"
    return DataError("the text is not UTF-8", where=f"{shown}:{line}", why=why, fix=fix)


def too_long(shown: str, line: int, packed: bool) -> DataError:
    """Tells of a line or a record that is too long for a row."""
    count = f"awk 'length > {MAX_RECORD_BYTES} {{print NR}}'"
    fix = f"gunzip -c {shlex.quote(shown)} | {count}" if packed else f"{count} {shlex.quote(shown)}"
    why = f"a row has at most {MAX_RECORD_BYTES:,} bytes"
    return DataError("the line is too long for a row", where=f"{shown}:{line}", why=why, fix=fix)


def printing(shown: str, packed: bool) -> str:
    """Gives the command that prints a file, as the first part of a longer one."""
    return f"{'gunzip -c' if packed else 'cat'} {shlex.quote(shown)}"


def renamed(shown: str, word: str, suffix: str = "") -> str:
    """Names a file beside this one: `rows.csv` -> `rows.WORD.csv`; gzip's suffix is left off."""
    bare = Path(shown.removesuffix(".gz"))
    return f"{bare.with_suffix('')}.{word}{suffix or bare.suffix}" if word else f"{bare.with_suffix('')}{suffix}"


def _damaged_gzip(shown: str, why: str) -> DataError:
    return DataError("the gzip is damaged", where=shown, why=why, fix=f"gzip -tv {shlex.quote(shown)}")

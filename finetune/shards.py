"""The files that hold a base's weights: their index, their headers and what lies where, without reading a weight."""

from __future__ import annotations

import json
import math
import os
import shlex
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import ArtifactError

CLOSED = "this user may not read it"

INDEX = "model.safetensors.index.json"

MOST_HEADER_BYTES = 100_000_000
"""As the safetensors library has it; the header of the 27B's largest shard has 50,000."""

DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
"""Of the dtypes that safetensors names; those of half a byte are not among them."""


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in a file."""

    file: Path
    name: str
    dtype: str
    """As safetensors names it."""
    shape: tuple[int, ...]
    start: int
    """Of its first byte, from the beginning of the file."""

    @property
    def width(self) -> int:
        """Of a row: the last dimension. All others are counted together as rows."""
        return self.shape[-1] if self.shape else 1

    @property
    def num_rows(self) -> int:
        """Rows of that width."""
        return math.prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        """Of one row on disk."""
        return self.width * DTYPE_BYTES[self.dtype]

    @property
    def num_bytes(self) -> int:
        """Of the whole tensor on disk."""
        return self.num_rows * self.row_bytes


def refetch(folder: Path, *files: str) -> str:
    """Gives the command that brings a damaged file of a base back, or all of them.

    What the Hub's cache holds says from where it came: models--OWNER--NAME/snapshots/COMMIT. A folder does not.
    """
    names = "".join(f" {shlex.quote(name)}" for name in files)
    if (folder / "demo_base.json").is_file():
        place = shlex.quote(str(folder))
        return (
            f"mv {place} {shlex.quote(f'{folder}.damaged')} && finetune demo-base {place}   # with --moe if it was one"
        )
    absolute = folder.absolute()
    if absolute.parent.name == "snapshots" and absolute.parents[1].name.startswith("models--"):
        repository = absolute.parents[1].name.removeprefix("models--").replace("--", "/")
        return f"hf download {repository}{names} --revision {absolute.name} --force-download"
    place = f"--local-dir {shlex.quote(str(folder))} --force-download"
    return f"hf download OWNER/NAME{names} {place}   # or copy from where the base came from"


def read_text(file: Path, what: str) -> str:
    """Reads a text file of a base.

    Args:
        file: to read.
        what: it is, for the error: the base's config.

    Raises:
        ArtifactError: it is missing, no file, or not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why, fix = f"{type(error).__name__}: {error}", refetch(file.parent, file.name)
        raise ArtifactError(f"{what} cannot be read", where=str(file), why=why, fix=fix) from None


def read_json(file: Path, what: str) -> dict[str, Any]:
    """Reads a JSON object of a base.

    Raises:
        ArtifactError: it is missing, damaged, or no object.
    """
    text = read_text(file, what)
    try:
        found = json.loads(text)
        if isinstance(found, dict):
            return found
        why = f"it holds a {type(found).__name__} and should hold an object"
    except (ValueError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
    raise ArtifactError(
        f"{what} cannot be read", where=str(file), why=why, fix=refetch(file.parent, file.name)
    ) from None


def shards(folder: Path) -> list[Path]:
    """Lists the files that hold a base's weights, in the order of their names.

    Raises:
        ArtifactError: the index is damaged, or names what is no shard of this folder.
    """
    return [folder / name for name in sorted(set(_index(folder).values()))] or [folder / "model.safetensors"]


def check_index(folder: Path, tensors: Iterable[Stored]) -> None:
    """Compares what the index says with what the shards hold.

    Raises:
        ArtifactError: a tensor lies in another shard than the index says, in none, or in two.
    """
    lies: dict[str, str] = {}
    for tensor in tensors:
        if tensor.name in lies:
            why = f"{lies[tensor.name]} holds {tensor.name} too"
            fix = refetch(folder, lies[tensor.name], tensor.file.name)
            raise ArtifactError("a weight of the base is stored twice", where=str(tensor.file), why=why, fix=fix)
        lies[tensor.name] = tensor.file.name
    told = _index(folder)
    for name in sorted(told.keys() | lies.keys()) if told else ():
        said, lying = told.get(name), lies.get(name)
        if said != lying:
            raise ArtifactError(
                "the base's index is not that of its shards",
                where=str(folder / INDEX),
                why=f"{name} should lie in {said or 'no shard'} and lies in {lying or 'none'}",
                fix=refetch(folder, INDEX, *(file for file in (said, lying) if file)),
            )


def _index(folder: Path) -> dict[str, str]:
    """Reads which shard holds which tensor; empty where there is one file and no index."""
    index = folder / INDEX
    if not index.exists():
        return {}
    told = read_json(index, "the base's index").get("weight_map")
    fix = refetch(folder, INDEX)
    if not isinstance(told, dict) or not told:
        why = "it has no weight_map that names a shard"
        raise ArtifactError("the base's index cannot be read", where=str(index), why=why, fix=fix)
    for name in told.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            why = f"it points to {name!r}, which is no shard in this folder"
            raise ArtifactError("the base's index is not to be trusted", where=str(index), why=why, fix=fix)
    return told


def list_tensors(files: Iterable[Path]) -> list[Stored]:
    """Lists what the files hold, in the order in which it lies, from their headers alone.

    Raises:
        ArtifactError: a file is missing, cut short, or no safetensors.
    """
    found: list[Stored] = []
    for file in files:
        header = read_header(file)  # which also made sure that the file ends where its last tensor does
        data = file.stat().st_size - max((entry["data_offsets"][1] for entry in header.values()), default=0)
        found += sorted(
            (
                Stored(file, name, entry["dtype"], tuple(entry["shape"]), data + entry["data_offsets"][0])
                for name, entry in header.items()
            ),
            key=lambda tensor: tensor.start,
        )
    return found


def read_header(file: Path) -> dict[str, Any]:
    """Reads a safetensors header and checks that its tensors fill the file without a gap.

    Source: https://huggingface.co/docs/safetensors, section Format.

    Raises:
        ArtifactError: the file is missing, cut short, damaged, or no safetensors.
    """
    fix = refetch(file.parent, file.name)
    try:
        if file.exists() and not file.is_file():  # a pipe would be waited for, a device read without an end
            raise ArtifactError("this is not a safetensors file", where=str(file), why="it is no plain file", fix=fix)
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            cut = length > min(size - 8, MOST_HEADER_BYTES)
            header: dict[str, Any] = {} if cut else json.loads(stream.read(length))
        if not isinstance(header, dict):
            raise ValueError("a header is an object")
        header.pop("__metadata__", None)
        wrong = next((name for name, entry in header.items() if not _is_whole(entry)), None)
    except FileNotFoundError:
        raise ArtifactError("a shard of the base is missing", where=str(file), fix=fix) from None
    except (OSError, struct.error, ValueError, AttributeError, RecursionError):
        raise ArtifactError("this is not a safetensors file", where=str(file), fix=fix) from None
    if wrong is not None:
        why = f"the bytes of {wrong} are not those of its shape"
        raise ArtifactError("a shard of the base is damaged", where=str(file), why=why, fix=fix)
    end = 0
    for begin, stop, name in sorted((*entry["data_offsets"], name) for name, entry in header.items()):
        if begin != end:
            why = f"{name} begins at byte {begin:,}, and what lies before it ends at {end:,}"
            raise ArtifactError("a shard of the base is damaged", where=str(file), why=why, fix=fix)
        end = stop
    if size != 8 + length + end:
        why = f"it has {size:,} bytes and should have {8 + length + end:,}"
        raise ArtifactError("a shard of the base is cut short", where=str(file), why=why, fix=fix)
    return header


def _is_whole(entry: Any) -> bool:
    """Tells whether a tensor's entry is one, with the bytes of its shape; of a dtype not listed it takes any number."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end]}:
            if all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
                size = DTYPE_BYTES.get(dtype)
                return bool(begin <= end if size is None else math.prod(shape) * size == end - begin)
    return False


def check_readable(folder: Path) -> None:
    """Makes sure that this user may read a folder and what lies in it, before anything of it is said to be missing.

    Raises:
        ArtifactError: naming what is closed.
    """
    for around in (*reversed(folder.absolute().parents), folder):
        if os.path.isdir(around) and not os.access(around, os.X_OK | (os.R_OK if around == folder else 0)):
            fix = f"sudo chmod a+rx {shlex.quote(str(around))}   # or as its owner"
            raise ArtifactError("the base cannot be read", where=str(around), why=CLOSED, fix=fix)
    for file in sorted(folder.iterdir()) if os.path.isdir(folder) else ():
        if file.exists() and not os.access(file, os.R_OK):
            fix = f"sudo chmod -R a+rX {shlex.quote(str(folder))}   # or as its owner"
            raise ArtifactError("the base cannot be read", where=str(file), why=CLOSED, fix=fix)

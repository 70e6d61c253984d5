"""A folder stands for the data files in it; what is plainly none, a licence or a picture, is passed over."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from finetune.data.files.opening import check_regular, unreadable
from finetune.errors import DataError

_ABOUT = re.compile(
    r"(?:.*[-_])?(?:readme|licen[sc]e|copying|notice|changelog|citation)(?:[-_.](?:md|txt|rst|cff))?"
    r"|dataset_infos?\.json|state\.json|md5sums?|sha\d+sums?",
    re.IGNORECASE,
)
"""Names of files that tell of the data."""

_NO_DATA = frozenset(
    f".{suffix}"
    for suffix in (
        *("png", "jpg", "jpeg", "gif", "webp", "bmp", "tif", "tiff", "svg", "ico"),
        *("mp3", "wav", "flac", "mp4", "mov", "avi", "webm"),
        *("safetensors", "gguf", "bin", "pt", "pth", "ckpt", "onnx", "npy", "npz", "pkl", "pickle", "model"),
        *("zip", "tar", "tgz", "7z", "rar", "bz2", "xz", "zst", "whl", "sha256", "md5"),
        *("py", "pyc", "ipynb", "sh", "yaml", "yml", "toml", "ini", "cfg", "lock", "log", "css", "js"),
    )
)
"""Pictures, sound, weights, archives and code."""

NAMED = 3
"""Files of a kind that a note names."""


@dataclass(frozen=True)
class Folder:
    """What lies in a folder, and below it."""

    files: list[Path]
    """Those that are read, sorted by name."""
    passed_over: dict[str, list[str]]
    """Why files are not read -> their names; hidden files are none of them."""

    def note(self) -> str:
        """Says what is not read; nothing where all of it is."""
        told = []
        for why, names in self.passed_over.items():
            more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
            told.append(f"{', '.join(sorted(names)[:NAMED])}{more} ({why})")
        return f"not read: {'; '.join(told)}" if told else ""


def data_files(path: Path) -> list[Path]:
    """Lists the data files of a path: the file itself or, of a folder, all in it, sorted by name.

    Hidden files, Office's lock files, licences, readmes, pictures, weights, archives and code are passed over. Markdown
    counts where nothing else is there: then the pages are the documents.

    Raises:
        DataError: nothing is there, or it is a pipe or a device, or cannot be read.
    """
    shown = str(path)
    try:
        if not path.is_dir():
            check_regular(path, shown)
            return [path]
        files = look_into(path).files
    except FileNotFoundError as error:
        missing = Path(error.filename)
        link = missing.is_symlink()
        why = f"the link leads to {missing.readlink()}, which is not there" if link else "nothing has this name"
        fix = f"ls -l {shlex.quote(str(missing.parent))}"
        raise DataError(f"there is no file {missing}", where=shown, why=why, fix=fix) from None
    except OSError as error:
        raise unreadable(error.filename or shown, error) from None
    if not files:
        why = "hidden files, readmes, licences, pictures, weights, archives and code are passed over"
        fix = f"ls -lA {shlex.quote(shown)}"
        raise DataError(f"the folder {shown} holds no data files", where=shown, why=why, fix=fix)
    return files


def look_into(path: Path) -> Folder:
    """Tells the files below a folder that may be data from those that are none.

    Raises:
        OSError: a folder cannot be read, or a link leads nowhere.
    """
    found: list[Path] = []
    passed_over: dict[str, list[str]] = defaultdict(list)
    for root, folders, names in os.walk(path, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        for folder in (Path(root, name) for name in folders):
            if folder.is_symlink():
                passed_over["a link to a folder"].append(str(folder.relative_to(path)))
        for file in (Path(root, name) for name in names if not name.startswith((".", "~$"))):
            if why := _no_data_by_name(file):
                passed_over[why].append(str(file.relative_to(path)))
            elif not stat.S_ISREG(file.stat().st_mode):
                passed_over["no regular file"].append(str(file.relative_to(path)))
            else:
                found.append(file)
    pages = [file for file in found if file.suffix.lower() in (".md", ".markdown")]
    files = [file for file in found if file not in pages] or pages
    if files is not pages:
        passed_over["Markdown beside other files"] += [str(file.relative_to(path)) for file in pages]
    told = {why: names for why, names in passed_over.items() if names}
    return Folder(sorted(files, key=lambda file: file.relative_to(path).parts), told)


def _no_data_by_name(file: Path) -> str:
    if _ABOUT.fullmatch(file.name):
        return "by its name it tells of the data"
    return "no data by its name" if file.suffix.lower() in _NO_DATA else ""


def _raise(error: OSError) -> None:
    raise error

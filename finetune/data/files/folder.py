"""A folder stands for the data files in it; what is plainly none, a licence or a picture, is passed over."""

from __future__ import annotations

import os
import re
import shlex
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
        files = _files_in(path)
    except FileNotFoundError as error:
        missing = Path(error.filename)
        link = missing.is_symlink()
        why = f"the link leads to {missing.readlink()}, which is not there" if link else "nothing has this name"
        fix = f"ls -l {shlex.quote(str(missing.parent))}"
        raise DataError(f"there is no file {missing}", where=shown, why=why, fix=fix) from None
    except OSError as error:
        raise unreadable(error.filename or shown, error) from None
    pages = [file for file in files if file.suffix.lower() in (".md", ".markdown")]
    found = [file for file in files if file not in pages] or pages
    if not found:
        why = "hidden files, readmes, licences, pictures, weights, archives and code are passed over"
        fix = f"ls -lA {shlex.quote(shown)}"
        raise DataError(f"the folder {shown} holds no data files", where=shown, why=why, fix=fix)
    return found


def _files_in(folder: Path) -> list[Path]:
    """Lists the files below a folder that may be data.

    Raises:
        OSError: a folder cannot be read, or a link leads nowhere.
    """
    found: list[Path] = []
    for root, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        for name in names:
            file = Path(root, name)
            if name.startswith((".", "~$")) or _ABOUT.fullmatch(name) or file.suffix.lower() in _NO_DATA:
                continue
            if file.is_symlink():
                file.stat()
            if file.is_file():
                found.append(file)
    return sorted(found, key=lambda file: file.relative_to(folder).parts)


def _raise(error: OSError) -> None:
    raise error

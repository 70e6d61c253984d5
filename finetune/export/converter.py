"""llama.cpp's own converter, as the source package of llama-cpp-python carries it: fetched once, pinned by its hash.

No package installs it: the built wheels leave it out, and the package `gguf` has only the reader and the writer.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from finetune.errors import ArtifactError, OutsideError
from finetune.run import atomic

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"

SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
"""Of its source archive on the package index."""

DIGEST = "5e3bd8eab4813bc1b8903c56c86fff3987b1b0d33ac3bb074de1315ae6651a85"
"""Of the files that are taken out of it, as `digest` counts."""

WANTED = ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py", "conversion", "gguf-py", "LICENSE")
"""Of the 76 MB, 2 MB: what lies under vendor/llama.cpp in the archive."""

MAIN = WANTED[0]

DRIVER = Path(__file__).with_name("driver.py")

LAST_LINES = 3
"""Of what the converter said, that are told when it fails."""


class Converter:
    """A folder with the converter in it, and the interpreter that runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, verb: str, *words: str | Path) -> Any:
        """Runs `driver.py` with the converter, and gives what it tells.

        Raises:
            OutsideError: it failed; its last words are told.
        """
        command = [sys.executable, "-P", str(DRIVER), str(self.folder), verb, *map(str, words)]
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()][-LAST_LINES:]
            raise OutsideError(
                f"llama.cpp's converter failed to {verb}",
                where=str(words[0]),
                why=" / ".join(said),
                fix="--converter FOLDER   # another llama.cpp checkout, if this model is newer than the pinned one",
            )
        return json.loads(done.stdout.splitlines()[-1])


def kept() -> Path:
    """Gives the folder in which fetched converters are kept for the next time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune"


def find(told: Path | None, cache: Path) -> Converter:
    """Finds the converter: the one that was told, the one that was fetched before, else the pinned one is fetched.

    Args:
        told: a checkout of llama.cpp.
        cache: the folder in which fetched ones are kept.

    Raises:
        ArtifactError: there is no converter in the folder that was told, or nothing can be kept.
        DoesNotFit: the disk is full.
        OutsideError: the package cannot be had, or is another than the one that was tried.
    """
    if told is not None:
        if not (told / MAIN).is_file():
            fix = "name a checkout of llama.cpp, or leave --converter out: the tried one is then fetched"
            raise ArtifactError("this is no checkout of llama.cpp", where=str(told), why=f"it has no {MAIN}", fix=fix)
        return Converter(told)
    folder = cache / f"llama.cpp-{VERSION}-{SHA256[:12]}"
    fix = 'export XDG_CACHE_HOME="$(mktemp -d)"   # or another folder that takes files; then give the command again'
    with atomic.refusal_told(cache, fix), atomic.full_disk_told(folder):
        if not folder.is_dir() or digest(Converter(folder)) != DIGEST:
            shutil.rmtree(folder, ignore_errors=True)  # what is damaged is fetched anew
            cache.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=".fetching-", dir=cache) as staging:
                made = Path(staging) / "converter"
                _extract(_download(Path(staging)), made)
                atomic.publish(made, folder)
    return Converter(folder)


def _download(folder: Path) -> Path:
    """Lets pip download the archive, from the index that the user's pip is set to, and compares its hash."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", PACKAGE, "--dest", str(folder), f"{PACKAGE}=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.tar.gz"))
    fix = "--converter FOLDER   # a checkout of llama.cpp"
    if done.returncode or len(archives) != 1:
        why = (done.stderr.strip().splitlines() or ["it gave no archive"])[-1]
        raise OutsideError("pip cannot download the converter", where=f"{PACKAGE}=={VERSION}", why=why, fix=fix)
    if (digest := atomic.sha256(archives[0])) != SHA256:
        why = f"its sha256 is {digest}, and that of the tried one is {SHA256}"
        raise OutsideError("this is not the converter that was tried", where=archives[0].name, why=why, fix=fix)
    return archives[0]


def _extract(archive: Path, folder: Path) -> None:
    """Takes the converter out of the archive, files only."""
    with tarfile.open(archive) as opened:
        for member in opened:
            inside = PurePosixPath(member.name).parts[1:]
            wanted = inside[:2] == ("vendor", "llama.cpp") and inside[2:3] and inside[2] in WANTED
            if wanted and member.isfile() and ".." not in inside:
                source, place = opened.extractfile(member), folder.joinpath(*inside[2:])
                assert source is not None, "of a file there are bytes"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(source.read())


def digest(converter: Converter) -> str:
    """Gives one hash for all the converter's files, for the manifest."""
    told = hashlib.sha256()
    for file in sorted(converter.folder.rglob("*.py")):
        told.update(f"{file.relative_to(converter.folder)} {atomic.sha256(file)}\n".encode())
    return told.hexdigest()

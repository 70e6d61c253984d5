"""What a merge has finished, written down as it goes: an interrupted one goes on from there after looking at the bytes.

While it works, everything lies in `FOLDER.partial`: the journal, and the model in a folder of its own, which gets its
name when all was proven. The working folder is made together with its journal, so there is none without.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetune import atomic
from finetune.errors import ArtifactError
from finetune.run import Entry

FILE = "journal.json"


class Journal:
    """Of one merge; holds what it has read, and is written whole each time."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(f"{out.name}.partial")
        self.model = self.folder / out.name
        """Where the model is made."""
        self._told: dict[str, Any] = {"order": {}, "files": {}, "entry": None}

    @property
    def entry(self) -> dict[str, Any] | None:
        """What was proven, once it was."""
        found: dict[str, Any] | None = self._told["entry"]
        return found

    @property
    def _fix(self) -> str:
        return f"rm -r {shlex.quote(str(self.folder))}   # or name another folder by --out"

    @property
    def files(self) -> dict[str, str]:
        """Finished files -> sha256."""
        found: dict[str, str] = self._told["files"]
        return found

    def open(self, order: dict[str, Any]) -> bool:
        """Begins the merge, or goes on with what this very one has begun; tells whether it goes on.

        Raises:
            ArtifactError: another merge was begun here, or what lies here is none.
        """
        if not os.path.lexists(self.folder):
            self._begin(order)
            return False
        begun = self.read()
        if begun != order:
            differ = ", ".join(key for key in order if begun.get(key) != order[key])
            why, fix = f"other {differ}", self._fix
            raise ArtifactError("another merge was begun here", where=str(self.folder), why=why, fix=fix)
        return True

    def read(self) -> dict[str, Any]:
        """Reads what was begun here, and gives its order.

        Raises:
            ArtifactError: it is no merge.
        """
        try:
            told = json.loads((self.folder / FILE).read_text())
            self._told = {key: told[key] for key in ("order", "files", "entry")}
            return dict(told["order"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            what, why = "this is no merge that could go on", f"{FILE} cannot be read: {error}"
            raise ArtifactError(what, where=str(self.folder), why=why, fix=self._fix) from None

    def is_whole(self, name: str) -> bool:
        """Tells whether a file was finished, and still holds what was written."""
        file = self.model / name
        return name in self.files and file.is_file() and atomic.sha256(file) == self.files[name]

    def finished(self, name: str, digest: str) -> None:
        """Notes a file that is on the disk."""
        self.files[name] = digest
        self._write()

    def proven(self, entry: Entry) -> None:
        """Notes what the manifest will say, before the model gets its name."""
        self._told["entry"] = asdict(entry)
        self._write()

    def close(self) -> None:
        """Removes the working folder, the journal last: its model has a name, and the manifest tells of it."""
        for leftover in self.folder.iterdir():
            if leftover.name != FILE:
                leftover.unlink()
        (self.folder / FILE).unlink()
        self.folder.rmdir()

    def tidy(self) -> None:
        """Removes the working folder if nothing is in it: who made it was killed while removing it."""
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _begin(self, order: dict[str, Any]) -> None:
        self._told = {"order": order, "files": {}, "entry": None}
        staging = self.folder.with_name(f".{self.folder.name}")
        shutil.rmtree(staging, ignore_errors=True)  # of one that was killed here
        (staging / self.out.name).mkdir(parents=True)
        atomic.write_json(staging / FILE, self._told)
        atomic.publish(staging, self.folder)

    def _write(self) -> None:
        atomic.write_json(self.folder / FILE, self._told)

"""Which rows are learnt and which are held out."""

from __future__ import annotations

import difflib
import hashlib
import os
from pathlib import Path

from finetune.data.messages import Row
from finetune.data.rows import read_rows, shown_name
from finetune.errors import DataError
from finetune.recipe import Recipe

PUT_INTO_FILE = "put the rows into a .jsonl file and name it"


def read_split(recipe: Recipe) -> tuple[list[Row], list[Row]]:
    """Reads the rows to learn and the rows to hold out.

    A share is taken by content, not by position: equal rows always stand on the same side, and the same
    rows are held out whatever their order.

    Raises:
        DataError: a file cannot be learnt from, or nothing is left to learn.
    """
    rows = read_rows(_file(recipe, "data.train"))
    if isinstance(recipe.data.eval, Path):
        return rows, read_rows(_file(recipe, "data.eval"))
    if recipe.data.eval == 0:
        return rows, []
    marks = {row.fingerprint for row in rows}
    if len(marks) < 2:
        raise DataError(
            "there is nothing to hold out",
            where=recipe.where("data.eval"),
            why=f"every row of {shown_name(recipe.data.train)} is the same; without held-out rows nothing is proved",
            fix=recipe.line("data.eval", 0),
        )
    num_held = max(1, round(recipe.data.eval * len(marks)))
    held = set(sorted(marks, key=lambda mark: hashlib.sha256(mark.encode()).digest())[:num_held])
    return [r for r in rows if r.fingerprint not in held], [r for r in rows if r.fingerprint in held]


def _file(recipe: Recipe, key: str) -> Path:
    """Gives the file of rows that a key names.

    Raises:
        DataError: there is none, or it is a folder, a pipe or a device.
    """
    file = Path(recipe.data.train if key == "data.train" else str(recipe.data.eval))
    typed, where = Path(recipe.typed(key)), recipe.where(key)
    if os.path.isdir(file):
        names = sorted(path.name for path in file.glob("*.jsonl"))
        fix = recipe.line(key, typed / names[0]) if names else PUT_INTO_FILE
        raise DataError(f"{typed} is a folder, not a file of rows", where=where, why=f"it is {file}", fix=fix)
    if not os.path.exists(file):
        names = [path.name for path in file.parent.glob("*.json*")] if os.path.isdir(file.parent) else []
        close = difflib.get_close_matches(file.name, sorted(names), n=1, cutoff=0.4)
        fix = (
            recipe.line(key, typed.with_name(close[0]))
            if close
            else "finetune init legal   # writes rows to begin with"
        )
        raise DataError(f"there is no file {typed}", where=where, why=f"nothing is at {file}", fix=fix)
    if not os.path.isfile(file):
        why = f"{file} is a pipe or a device, which may never end"
        raise DataError(f"{typed} is not a regular file", where=where, why=why, fix=PUT_INTO_FILE)
    return file

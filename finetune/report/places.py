"""What a page tells of places: of a file its name, of a run its name, and nothing of the machine they lie on."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from finetune.recipe.paths import anchor_paths, is_folder
from finetune.run import Run

PATH = re.compile(
    r"file://[^\s\"'<>]+"
    r"|(?<!\w)[A-Za-z]:[\\/]+[^\s\"'<>|,;)]+"
    r"|(?:(?<![\w/.])/(?!/)[\w.@~+-]*/|(?<![\w/])~/|(?<![\w/])(?:\.\./)+)[^\s\"'<>|,;)]*"
)
"""A path from the root of two parts or more, from a home, or out of a folder; addresses of the web are none."""

EVERYBODYS = {"root", "user", "ubuntu", "admin", "debian", "docker", "runner", "jovyan", "localhost"}
"""Names of users and hosts that tell nothing."""

FEWEST_LETTERS = 4
"""Of a name that is left out: a shorter one is a part of words."""


@dataclass(frozen=True)
class Places:
    """What is known of the machine on which a page is made."""

    told: tuple[tuple[re.Pattern[str], str], ...]
    """Paths, each with what is said instead, the longest first."""
    names: re.Pattern[str] | None
    """Of its user and itself."""

    def without(self, text: str) -> str:
        """Leaves of every path in a text what may be told, and of the names of user and host nothing."""
        for path, told in self.told:
            text = path.sub(told.replace("\\", r"\\"), text)
        text = PATH.sub(lambda found: _last(found.group()), text)
        return self.names.sub("…", text) if self.names else text


def places_of(run: Run) -> Places:
    """Gathers the places of a run, of the files that its recipe names, and of who makes the page.

    Args:
        run: whose page it is.
    """
    told = {str(Path.home()): "~"}
    told |= {str(path): str(shown(run).path) for path in (run.path.resolve(), run.path.absolute())}
    values = yaml.safe_load(run.recipe.read_text(encoding="utf-8"))
    base = values.get("base")
    typed = [*anchor_paths(values, run.path).values(), *([base] if isinstance(base, str) and is_folder(base) else [])]
    for path in typed:
        whole = os.path.abspath(run.path / os.path.expanduser(path))
        told |= {each: Path(whole).name for each in (whole, path) if each.startswith(("/", "~", ".."))}
    names = [re.escape(name) for name in {Path.home().name, platform.node()} if _is_telling(name)]
    pattern = re.compile(rf"(?<![\w/-])(?:{'|'.join(names)})(?![\w/-])") if names else None
    longest = sorted((path for path in told if path.strip("/.~")), key=len, reverse=True)
    return Places(tuple((re.compile(rf"(?<!\w){re.escape(path)}(?![\w-])"), told[path]) for path in longest), pattern)


def shown(run: Run) -> Run:
    """Gives the run as a page calls it in its commands: from beside the folder `runs`, or by its name."""
    return Run(Path("runs", run.name) if run.path.resolve().parent.name == "runs" else Path(run.name))


def _is_telling(name: str) -> bool:
    return len(name) >= FEWEST_LETTERS and name.lower() not in EVERYBODYS


def _last(path: str) -> str:
    last = re.split(r"[\\/]", path.rstrip("\\/"))[-1]
    return last if last.strip("~.") else "…"

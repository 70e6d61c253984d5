"""What must not stand in a file that goes up: secrets, paths, and names of this machine and of who works on it.

The one place where publishing asks what a secret looks like.
"""

from __future__ import annotations

import os
import platform
import pwd
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from finetune.data.sources import sources_of
from finetune.recipe import Recipe
from finetune.recipe.secrets import SECRET
from finetune.run import Run

MORE_SECRETS = re.compile(
    r"\b(?:AIza[A-Za-z0-9_-]{35}|npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{50,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{10,})"
    r"|\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@\"']{1,64}:[^\s:/@\"']{6,64}@[\w.-]+"
    r"|\b(?:WANDB_API_KEY|HF_TOKEN|OPENAI_API_KEY|AWS_SECRET_ACCESS_KEY|[A-Z_]*PASSWORD)\b[\"']?\s*[:=]\s*[\"']?[^\s\"']{8,}"
    r"|(?i:(?:api_?key|access_?key|secret_?key|auth_?token|access_?token|client_?secret|password|passwd|passphrase)\b)"
    r"[\"']?\s*[:=]\s*[\"']?(?=[^\s\"'<>]*[0-9])[^\s\"'<>]{8,}"
)
"""Beside those that a recipe may not hold."""

MACHINE_PATH = re.compile(
    r"(?<![\w./-])/(?:home|Users|root(?!/\.cache/huggingface\b)|mnt|media|scratch|private/var|srv|data|opt|export|nfs|net"
    r"|lustre|gpfs|Volumes|var)/[\w.@+-][^\s\"'<>`|,;)]*"
    r"|file:///[\w.][^\s\"'<>]*"
    r"|(?<!\w)[A-Za-z]:(?:\\{1,2}|/)(?:Users|Documents and Settings)(?:\\{1,2}|/)[^\s\"'<>|]+"
    r"|(?<![\w\\])(?:\\{2}[\w.-]{2,63}\\(?!\\)|\\{4}[\w.-]{2,63}\\{2}(?!\\))[\w$.-]{2}[^\s\"'<>|]*"
)
"""From a folder of people's work, with a drive's letter, or of a server of files, as they are or within JSON."""

EVERYBODYS = {
    "root",
    "user",
    "ubuntu",
    "admin",
    "debian",
    "docker",
    "runner",
    "jovyan",
    "localhost",
    "localhost.localdomain",
}
"""Names of users and hosts that tell nothing."""

FEWEST_LETTERS = 4
"""Of a name that is looked for: a shorter one is a part of words."""


@dataclass(frozen=True)
class Privates:
    """What is looked for here, and nowhere else."""

    places: tuple[str, ...]
    """Folders of this machine."""
    names: re.Pattern[str] | None
    """Of the user and the host."""


def privates_of(run: Run, recipe: Recipe, repo: str) -> Privates:
    """Gathers the folders and names of this machine; one that the repository's own name has is public already.

    Args:
        run: where it lies.
        recipe: of it, which names files.
        repo: where it goes.
    """
    files = [recipe.data.eval, recipe.base_path, *(source.path for source in sources_of(recipe))]
    places = {str(run.path.resolve()), str(run.path.absolute()), str(Path.home()), os.getcwd()}
    places |= {str(file.parent) for file in files if isinstance(file, Path)}
    told = {Path.home().name, platform.node(), platform.node().partition(".")[0], os.environ.get("USER", "")}
    with suppress(KeyError):  # a container's user may have no name
        told.add(pwd.getpwuid(os.getuid()).pw_name)
    names = sorted(
        name
        for name in told
        if len(name) >= FEWEST_LETTERS and name.lower() not in EVERYBODYS and name.lower() not in repo.lower()
    )
    pattern = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, names))})(?![\w-])", re.IGNORECASE)
    deep = tuple(sorted(place for place in places if place.count("/") > 1))  # `/root` stands in many a vocabulary
    return Privates(deep, pattern if names else None)


def look(text: str, privates: Privates) -> Iterator[tuple[str, str]]:
    """Yields the kind of each private thing in a text, and how it begins."""
    for pattern in (SECRET, MORE_SECRETS):
        for found in pattern.finditer(text):
            yield "a secret", masked(found.group())
    for found in MACHINE_PATH.finditer(text):
        yield "a path of a machine", masked(found.group())
    for place in privates.places:
        if place in text and not MACHINE_PATH.search(place):
            yield "a path of this machine", masked(place)
    if privates.names and (named := privates.names.search(text)):
        yield "the name of the user or host", masked(named.group())


def masked(text: str) -> str:
    """Shows how a text begins, and its length."""
    return f"{text[:3]}… ({len(text)} characters)"

"""A checked door to DeepSpeed's own launcher, for machines that are reached by ssh. The loop over them is DeepSpeed's.

What DeepSpeed lets through is refused here: a hostfile that is missing (it trains on this machine alone, and says so
in a warning), a host twice, slots of 0 or with letters behind them, a host that ssh would read as an option. Its
launcher writes words, variables and the working folder into a line for the remote shell as they are: words are
quoted for that shell, and what cannot be quoted is refused.

Source: deepspeed 0.19.8, launcher/runner.py (`fetch_hostfile`, `_parse_hostfile`, `EXPORT_ENVS`) and
launcher/multinode_runner.py (`PDSHRunner`).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import FinetuneError, Problem, RecipeError
from finetune.launch.job import check_name

HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
LINE = re.compile(r"(?P<host>\S+)\s+slots=(?P<slots>\S+)")
MAX_BYTES = 2**20
MAX_SLOTS = 64
"""GPUs of one machine; more is a slip of the finger."""

PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./-]*")
"""Text that no shell and no pdsh reads as anything but itself; pdsh has its own meaning for `%`."""

EXPORTED = ("MLFLOW", "PYTHON", "MV2", "UCX", "NCCL")
"""How the variables begin that the launcher writes into the remote line."""


@dataclass(frozen=True)
class Host:
    """One machine, as the hostfile names it."""

    name: str
    slots: int
    """Its GPUs."""


def read_hostfile(path: Path) -> tuple[Host, ...]:
    """Reads a hostfile: a line `NAME slots=GPUS` for each machine, empty lines, and comments after `#`.

    Raises:
        RecipeError: it cannot be read; or with every line that is wrong, each with its number.
    """
    hosts: dict[str, tuple[int, Host]] = {}
    problems: list[Problem] = []
    for number, text in enumerate(_lines(path), 1):
        words = text.partition("#")[0].strip()
        if not words:
            continue
        read = _host(words, f"{path}:{number}")
        if isinstance(read, Problem):
            problems.append(read)
        elif read.name in hosts:
            first = hosts[read.name][0]
            why = f"line {first} names it too; all GPUs of a machine stand on one line"
            problems.append(Problem(f"{read.name} stands here twice", f"{path}:{number}", why, f"delete line {number}"))
        else:
            hosts[read.name] = number, read
    problems += _circular(path, hosts)
    if not problems and not hosts:
        problems = [
            Problem("no machine stands in it", f"{path}:1", "every line is empty or a comment", "node-1 slots=8")
        ]
    if problems:
        raise RecipeError.of(problems)
    return tuple(host for _, host in hosts.values())


def total_slots(hosts: Sequence[Host]) -> int:
    """GPUs of all machines."""
    return sum(host.slots for host in hosts)


def deepspeed_words(
    hostfile: Path,
    hosts: Sequence[Host],
    words: Sequence[str],
    address: str | None = None,
    port: int = 29500,
    ssh_port: int | None = None,
) -> tuple[str, ...]:
    """The command that starts `finetune` with these words on all machines.

    Args:
        hostfile: the file that was read.
        hosts: what stands in it; one alone is started without a remote shell.
        words: what `finetune` is told.
        address: of the first machine, for the others; the launcher asks it by ssh if None.
        port: on which the first machine listens.
        ssh_port: where ssh listens on all of them; 22, or as ssh is configured, if None.

    Raises:
        RecipeError: a word that cannot be passed through pdsh, or an address that is none.
    """
    check_name("--master-addr", address, HOST.pattern)
    options = [f"--master_port={port}"]
    options += [f"--master_addr={address}"] if address else []
    options += [f"--ssh_port={ssh_port}"] if ssh_port else []
    passed = tuple(map(remote_word, words)) if len(hosts) > 1 else tuple(words)
    return ("deepspeed", "--hostfile", str(hostfile), *options, "--no_local_rank", "--module", "finetune", *passed)


def remote_word(word: str) -> str:
    """Quotes a word for the remote shell, given what the launcher does to it on the way.

    A word without a space is passed as it is; one with a space is put between double quotes, its own ones escaped.

    Raises:
        RecipeError: it holds `%`, which pdsh replaces.
    """
    if "%" in word:
        why = "pdsh, by which the launcher reaches the machines, replaces what follows a %"
        raise RecipeError(
            "this word cannot reach another machine", where=shlex.quote(word), why=why, fix="write it into the recipe"
        )
    if " " in word:
        return re.sub(r"([\\$`])", r"\\\1", word)
    return shlex.quote(word)


def check_surroundings(folder: Path, python: str, environment: Mapping[str, str], home: Path) -> None:
    """Looks at what the launcher writes into the remote line besides the words.

    Raises:
        RecipeError: the working folder, Python's path or a variable would be read by the remote shell as code.
    """
    problems = [
        Problem(
            f"a remote shell would misread {what}", shlex.quote(str(path)), _why(str(path)), "move it to a plain name"
        )
        for what, path in (("the working folder", folder), ("the path of Python", python))
        if not PLAIN.fullmatch(str(path))
    ]
    for name, value in environment.items():
        if name.startswith(EXPORTED) and not PLAIN.fullmatch(value):
            problems.append(
                Problem(f"a remote shell would misread {name}", "the environment", _why(value), f"unset {name}")
            )
    for file in (home / ".deepspeed_env", folder / ".deepspeed_env"):
        for number, line in enumerate(_lines(file) if file.is_file() else (), 1):
            if not re.fullmatch(rf"[A-Za-z_]\w*={PLAIN.pattern}", line.strip()):
                why = "the launcher writes NAME=VALUE into a line for the remote shell as it is"
                problems.append(Problem("a remote shell would misread this", f"{file}:{number}", why, "NAME=value"))
    if problems:
        raise RecipeError.of(problems)


def _host(words: str, where: str) -> Host | Problem:
    matched = LINE.fullmatch(words)
    if matched is None:
        name = words.split()[0]
        fix = f"{name if HOST.fullmatch(name) else 'node-1'} slots=8"
        return Problem("this line names no machine", where, "a line is `NAME slots=GPUS`", fix)
    name, slots = matched["host"], matched["slots"]
    if not HOST.fullmatch(name):
        why = "a host's name is made of letters, digits, dots and hyphens; ssh and a shell would read more into others"
        return Problem(f"{name!a} is no host's name", where, why, f"node-1 slots={slots if slots.isdecimal() else 8}")
    if not (slots.isascii() and slots.isdecimal() and 1 <= int(slots[:9]) <= MAX_SLOTS):
        return Problem(f"{slots!a} is no number of GPUs", where, f"slots is 1 to {MAX_SLOTS}", f"{name} slots=8")
    return Host(name, int(slots))


def _circular(path: Path, hosts: Mapping[str, tuple[int, Host]]) -> list[Problem]:
    """A name by which each machine means itself."""
    why = "each machine would look for the others on itself"
    return [
        Problem(f"{name} is another machine on each machine", f"{path}:{number}", why, f"node-1 slots={host.slots}")
        for name, (number, host) in hosts.items()
        if len(hosts) > 1 and (name == "localhost" or name.startswith("127."))
    ]


def _lines(path: Path) -> list[str]:
    try:
        if path.exists() and not path.is_file():
            raise RecipeError(
                "this is not a file", where=str(path), why="a folder, a pipe or a device", fix="--hostfile FILE"
            )
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise RecipeError("this is too long for a hostfile", where=str(path), why=f"over {MAX_BYTES:,} bytes")
        return raw.decode().splitlines()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise RecipeError("this is not text", where=f"{path}:{line}", why=error.reason, fix="node-1 slots=8") from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> FinetuneError:
    why = error.strerror or str(error)
    if isinstance(error, FileNotFoundError):
        why = "without it the launcher would train on this machine alone"
    return RecipeError(
        "there is no such hostfile" if isinstance(error, FileNotFoundError) else "the hostfile cannot be read",
        where=str(path),
        why=why,
        fix=f"echo 'node-1 slots=8' > {shlex.quote(str(path))}   # a line for each machine",
    )


def _why(text: str) -> str:
    odd = next(letter for letter in text if not PLAIN.fullmatch(letter))
    return f"it holds {odd!a}, and the launcher writes it into a line for the remote shell as it is"

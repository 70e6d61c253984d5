"""`finetune export --ollama NAME`: gives a GGUF to the Ollama that runs, and reads back what Ollama made of it.

The request says what the Modelfile says: both are spellings of one description.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from finetune import __version__
from finetune.errors import OutsideError, ProofFailed, RecipeError
from finetune.export import ollama_api as api
from finetune.export.made import sha256_made
from finetune.export.modelfile import Served, served_as_trained
from finetune.export.ollama_api import Progress, Say
from finetune.export.readback import ARCHITECTURES
from finetune.run import Entry, Run, claim, locked, manifest
from finetune.serving import template_as_trained
from finetune.shards import read_json

PARTS = {
    "host": r"\w[\w.:-]{0,349}",
    "namespace": r"\w[\w-]{0,79}",
    "model": r"\w[\w.-]{0,79}",
    "tag": r"\w[\w.-]{0,79}",
}
"""Of a model's name, [[host/]namespace/]model[:tag]. Source: Ollama 0.33, types/model/name.go."""

PASSED_ON = re.compile(r"(cloud|local|.*-cloud)", re.IGNORECASE)
"""Tags by which Ollama takes the model for one that lies elsewhere. Source: internal/modelref/modelref.go."""

NO_TEMPLATE = "{{ .Prompt }}"
"""What older versions tell where there is no template but that of the GGUF. Source: template/template.go."""


def check_name(name: str) -> None:
    """Checks the name of a model by Ollama's rules.

    Raises:
        RecipeError: Ollama would not take it.
    """
    path, divided, tag = _divided(name)
    places = path.rsplit("/", 2)
    parts = dict(zip(["model", "namespace", "host"], reversed(places), strict=False)) | (
        {"tag": tag} if divided else {}
    )
    wrong = [kind for kind, part in parts.items() if not re.fullmatch(PARTS[kind], part, re.ASCII)]
    wrong += ["tag"] if not wrong and PASSED_ON.fullmatch(tag) else []
    if wrong:
        why = f"its {wrong[0]} {parts[wrong[0]]!a:.40} is none: letters, digits and _ - ."
        if PASSED_ON.fullmatch(tag):
            why = f"the tag {tag} means a model that lies elsewhere"
        fix = f"--ollama {proposed(name)}"
        raise RecipeError("Ollama takes no such name", where=f"--ollama {name!a:.60}", why=why, fix=fix)


def proposed(name: str) -> str:
    """Proposes a name that Ollama takes."""
    return re.sub(r"[^a-z0-9_.-]+", "-", _divided(name)[0].lower()).strip("-._")[:80] or "mine"


def _divided(name: str) -> tuple[str, str, str]:
    """Divides a name into its path, the colon and the tag."""
    return name.rpartition(":") if name.rfind(":") > name.rfind("/") else (name, "", "")


def find_server(fix: str = "") -> api.Server:
    """Reads where Ollama listens.

    Raises:
        RecipeError: OLLAMA_HOST names no server.
    """
    return api.server(os.environ.get("OLLAMA_HOST", ""), fix)


def by_hand(name: str, folder: Path) -> str:
    """Gives the command by which Ollama itself makes the model of the files."""
    return shlex.join(["ollama", "create", name, "-f", str(folder / "Modelfile")])


def create(
    run: Run, file: Path, kind: str, name: str, say: Say, progress: Progress, warn: Say
) -> dict[str, Any] | None:
    """Makes a model in the Ollama that OLLAMA_HOST names, proves it, and gives the stage's manifest entry.

    A file that lies there already is not sent again. A model of that name is replaced, as `ollama create` does.

    Args:
        run: that was exported.
        file: one of its GGUF files.
        kind: of the file.
        name: of the model.
        say: takes a line for the user; `progress` is told how far the upload is.
        warn: takes a line that nobody should miss.

    Returns:
        Nothing where no server listens: of that is warned, with the commands to give later.

    Raises:
        ArtifactError: the run is damaged.
        OutsideError: Ollama is too old, refused or broke off; the files stay.
        ProofFailed: Ollama tells of the model what was not sent.
        RunLocked: another process works in the run.
    """
    began, again = time.monotonic(), by_hand(name, file.parent)
    where = find_server(f"{again}   # the files are made")
    if why := api.silence(where):
        warn(f"no Ollama answers at {where} ({why}); the files are made. Later:")
        warn("  ollama serve   # in a terminal of its own, unless it runs already")
        warn(f"  {again}")
        return None
    with locked(run):
        version, how, sha256 = api.version(where), served_as_trained(run), sha256_made(run, file)
        _check_age(where, version, how.requires)
        _send(where, file, sha256, say, progress)
        api.create(where, request(name, file.name, f"sha256:{sha256}", how), say, progress)
        told = compare(f"{name} at {where}", api.show(where, name), kind, how, run)
        entry = Entry(
            stage="ollama",
            inputs={run.named(file): sha256},
            outputs={f"{name} at {where}": sha256},
            claims=[claim(f"{what} as sent", it) for what, it in told],
            versions={"finetune": __version__, "ollama": version},
            seconds=round(time.monotonic() - began, 1),
            finished=manifest.now(),
        )
        manifest.add(run.manifest, entry)
    return vars(entry)


def _send(where: api.Server, file: Path, sha256: str, say: Say, progress: Progress) -> None:
    if api.has_blob(where, f"sha256:{sha256}"):
        say(f"{file.name} lies in Ollama already")
    else:
        api.send_blob(where, file, f"sha256:{sha256}", progress)


def request(name: str, gguf: str, digest: str, how: Served) -> dict[str, Any]:
    """Writes the request that the Modelfile stands for. Source: Ollama 0.33, api/types.go, CreateRequest."""
    told: dict[str, Any] = {"model": name, "files": {gguf: digest}, "parameters": how.parameters}
    told["requires"] = how.requires
    if how.system:
        told["system"] = how.system
    if how.licence:
        told["license"] = how.licence
    return told


def compare(where: str, told: dict[str, Any], kind: str, how: Served, run: Run) -> list[tuple[str, str]]:
    """Compares what `show` tells of a model with what was sent.

    Returns:
        What was compared, and what was found, in short.

    Raises:
        ProofFailed: naming what is another.
    """
    config, details = read_json(run.merged / "config.json", "the merged model's config"), told.get("details")
    details = details if isinstance(details, dict) else {}
    wanted = {
        "family": ARCHITECTURES[str(config["model_type"]).removesuffix("_text")],
        "quantization level": kind.upper(),
        "parameters": {name: v if isinstance(v, list) else [float(v)] for name, v in how.parameters.items()},
        "system prompt": how.system,
        "licence": how.licence,
        "requires": how.requires,
        "template": template_as_trained(run, run.merged),
    }
    found = {
        "family": details.get("family"),
        "quantization level": details.get("quantization_level"),
        "parameters": parameters(str(told.get("parameters", ""))),
        "system prompt": told.get("system", ""),
        "licence": told.get("license", ""),
        "requires": told.get("requires"),
        "template": told.get("template"),
    }
    if found["template"] == NO_TEMPLATE:
        wanted["template"] = NO_TEMPLATE
    for what, value in wanted.items():
        if found[what] != value:
            why = f"Ollama tells {found[what]!s:.60}, and {value!s:.60} was sent"
            fix = f"ollama rm {shlex.quote(where.split()[0])}"
            raise ProofFailed(f"the {what} of the model in Ollama is another", where=where, why=why, fix=fix)
    return [(what, _short(value)) for what, value in wanted.items()]


def parameters(told: str) -> dict[str, list[float | str]]:
    """Reads the parameters that `show` tells: a name and a value a line, as Go writes them."""
    found: dict[str, list[float | str]] = {}
    for line in told.splitlines():
        name, _, text = line.partition(" ")
        found.setdefault(name, []).append(_value(text.strip()))
    return found


def _value(text: str) -> float | str:
    with suppress(ValueError):
        return str(json.loads(text)) if text.startswith('"') else float(text)
    return text


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {' '.join(map(_short, each))}" for name, each in value.items())
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 and "\n" not in text else f"{len(text):,} characters"


def _check_age(where: api.Server, version: str, requires: str) -> None:
    """Compares the server's version with the oldest that serves such a model; 0.0.0 is one that was built by hand.

    Raises:
        OutsideError: it is older.
    """
    numbers = [tuple(map(int, re.findall(r"\d+", told)[:3])) for told in (version, requires)]
    if (0, 0, 0) != numbers[0] < numbers[1]:
        why = f"it is {version}, and such a model takes {requires} or newer"
        fix = "https://ollama.com/download   # has a newer one; then " + where.fix
        raise OutsideError("this Ollama is too old", where=str(where), why=why, fix=fix)

"""`finetune export --lmstudio`: lays GGUF files where LM Studio looks for models, and a preset beside its others.

A file is a hard link, which takes no room and outlives the run's folder; on another disk it is a copy, read back. Never
a symbolic link: LM Studio was told of losing models that way. Nothing that lies there already is replaced.

Source: LM Studio's `lms` of August 2026 (importCmd.ts, lmstudioPaths.ts), lmstudio.js (findLMStudioHome.ts, and
schema.ts of lms-kv-config), its documentation (app/advanced/import-model, app/presets), its bugs 97, 263 and 2096.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune import __version__
from finetune.errors import ArtifactError, OutsideError, RecipeError
from finetune.export.made import sha256_made
from finetune.export.modelfile import Served, served_as_trained
from finetune.run import Entry, Run, atomic, claim, locked, manifest

POINTER = ".lmstudio-home-pointer"
"""In the user's home, the file that names LM Studio's folder."""

OLD_HOME = Path(".cache", "lm-studio")

LONGEST_PATH = 4096
"""Bytes, on Linux."""

PUBLISHER = "finetune"
"""Under which models are listed where the user names none."""

UNLINKABLE = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP}
"""How a file system says that it makes no hard link of this."""

FIELDS = {
    "temperature": ("temperature", False),
    "top_k": ("topKSampling", False),
    "top_p": ("topPSampling", True),
    "min_p": ("minPSampling", True),
    "repeat_penalty": ("repeatPenalty", True),
    "presence_penalty": ("llama.presencePenalty", True),
}
"""Parameters, what LM Studio calls them under `llm.prediction.`, and whether they have a box to tick."""

UNTICKED = {"min_p": 0.05, "repeat_penalty": 1.1}
"""What LM Studio ticks by itself, and training knows nothing of: left unticked where the base's sampling has none."""


@dataclass(frozen=True)
class Home:
    """Where LM Studio keeps its things."""

    folder: Path
    models: Path

    @property
    def presets(self) -> Path:
        return self.folder / "config-presets"


def find_home() -> Home:
    """Finds LM Studio's folder, and the one that it is set to keep models in.

    Raises:
        ArtifactError: its settings are damaged.
        OutsideError: it was never started here.
    """
    user = Path.home()
    pointer, old = user / POINTER, user / OLD_HOME
    folder = old if old.is_dir() else user / ".lmstudio"
    if os.path.isfile(pointer) and (told := _text(pointer).strip()):
        folder = _folder(told, pointer)
    if not os.path.isdir(folder):
        why = "LM Studio makes this folder when it is started for the first time"
        fix = "start LM Studio once, or leave out --lmstudio"
        raise OutsideError("there is no LM Studio here", where=str(folder), why=why, fix=fix)
    settings = folder / "settings.json"
    models = _settings(settings).get("downloadsFolder") if os.path.isfile(settings) else None
    return Home(folder, folder / "models" if models is None else _folder(models, settings))


def _settings(file: Path) -> dict[str, Any]:
    try:
        told = json.loads(_text(file))
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"it is not JSON: {error}") from error
    if not isinstance(told, dict):
        raise _damaged(file, "it holds no object")
    return told


def _folder(told: Any, file: Path) -> Path:
    """Reads the name of a folder that a file tells."""
    if isinstance(told, str) and len(told) < LONGEST_PATH and not re.search("[\0\ud800-\udfff]", told):
        folder = os.path.expanduser(told)
        if os.path.isabs(folder):
            return Path(folder)
    raise _damaged(file, f"it names the folder {told!a:.60}, and a whole path should stand there")


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(file, str(error)) from error


def _damaged(file: Path, why: str) -> ArtifactError:
    fix = "start LM Studio and save its settings, or leave out --lmstudio"
    return ArtifactError("LM Studio's settings cannot be read", where=str(file), why=why, fix=fix)


def check_publisher(publisher: str) -> None:
    """Checks the name of a folder under which models are listed.

    Raises:
        RecipeError: it is none.
    """
    if not re.fullmatch(r"\w[\w.-]{0,95}", publisher, re.ASCII):
        why = "it names a folder: letters, digits and _ - ."
        fix = f"--publisher {PUBLISHER}"
        raise RecipeError("this is no publisher", where=f"--publisher {publisher!a:.60}", why=why, fix=fix)


def lay(run: Run, files: list[Path], home: Home, publisher: str) -> dict[str, Any]:
    """Lays files of an exported run and its preset into LM Studio's folders; gives the stage's manifest entry.

    Args:
        run: that was exported.
        files: of it; they lie in one folder there, as LM Studio wants a vision projector beside its model.
        home: of LM Studio.
        publisher: under whom they are listed.

    Raises:
        ArtifactError: another file of that name lies there, or the folder takes none.
        DoesNotFit: a copy has no room.
        RunLocked: another process works in the run.
    """
    began, folder = time.monotonic(), home.models / publisher / run.name
    with locked(run):
        hashes = {file: sha256_made(run, file) for file in files}
        with atomic.refusal_told(folder, f"ls -ld {shlex.quote(str(home.models))}   tells who may write"):
            folder.mkdir(parents=True, exist_ok=True)
            how = {file.name: _laid(file, folder / file.name, hashes[file]) for file in files}
        preset = home.presets / f"{run.name}.preset.json"
        _write_preset(preset, preset_text(run.name, served_as_trained(run)))
        entry = Entry(
            stage="lmstudio",
            inputs={run.named(file): digest for file, digest in hashes.items()},
            outputs={str(folder / file.name): digest for file, digest in hashes.items()}
            | {str(preset): atomic.sha256(preset)},
            claims=[claim(f"{name} in LM Studio's folder", what) for name, what in how.items()],
            versions={"finetune": __version__},
            seconds=round(time.monotonic() - began, 1),
            finished=manifest.now(),
        )
        manifest.add(run.manifest, entry)
    return vars(entry)


def _laid(file: Path, place: Path, digest: str) -> str:
    """Lays one file, and tells how."""
    if os.path.lexists(place):
        if place.is_file() and (os.path.samefile(file, place) or atomic.sha256(place) == digest):
            return "lay there already, the same bytes"
        raise ArtifactError(
            "another file lies in LM Studio's folder",
            where=str(place),
            why="its bytes are not those of this export",
            fix=f"rm {shlex.quote(str(place))}   # if nobody needs it; or list this one under --publisher ANOTHER",
        )
    try:
        os.link(file, place)
    except OSError as error:
        if error.errno not in UNLINKABLE:
            raise
        _copy(file, place, digest)
        return "a copy, read back"
    atomic.fsync(place.parent)
    return "a hard link"


def _copy(file: Path, place: Path, digest: str) -> None:
    """Copies a file to another disk; it gets its name when its bytes were read back."""
    staging = place.with_name(f".{place.name}.part")
    with atomic.full_disk_told(place, needed_bytes=file.stat().st_size):
        try:
            shutil.copyfile(file, staging)
            atomic.fsync(staging)
            if atomic.sha256(staging) != digest:
                raise ArtifactError("a copy is not what was copied", where=str(place), fix="look after that disk")
            os.rename(staging, place)
            atomic.fsync(place.parent)
        finally:
            staging.unlink(missing_ok=True)


def preset_text(name: str, how: Served) -> str:
    """Writes a preset: the sampling and the system prompt. The context is the model's, and no preset holds it.

    The fields are those of LM Studio's schema; the frame around them is documented nowhere, and is that of presets
    which LM Studio itself saved.
    """
    fields: list[dict[str, Any]] = []
    for parameter, (key, ticked) in FIELDS.items():
        value: Any = how.parameters.get(parameter)
        told = value is not None
        if not told and parameter not in UNTICKED:
            continue
        value = value if told else UNTICKED[parameter]
        fields.append({"key": f"llm.prediction.{key}", "value": {"checked": told, "value": value} if ticked else value})
    if how.system:
        fields.append({"key": "llm.prediction.systemPrompt", "value": how.system})
    told_preset = {
        "identifier": f"@local:{name}",
        "name": name,
        "changed": False,
        "operation": {"fields": fields},
        "load": {"fields": []},
    }
    return json.dumps(told_preset, indent=2, ensure_ascii=False) + "\n"


def _write_preset(preset: Path, text: str) -> None:
    """Writes a preset where there is none of its name.

    Raises:
        ArtifactError: there is another one.
    """
    if os.path.lexists(preset):
        if preset.is_file() and preset.read_bytes() == text.encode():
            return
        why = "it is another preset, or was changed in LM Studio"
        fix = f"rm {shlex.quote(str(preset))}   # if nobody needs it"
        raise ArtifactError("a preset of this name lies there", where=str(preset), why=why, fix=fix)
    with atomic.refusal_told(preset, f"ls -ld {shlex.quote(str(preset.parent))}   tells who may write"):
        preset.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(preset, text)

"""Files that were made are handed on: to Ollama through its API, to LM Studio's folders."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from ollama_server import Ollama, listening
from trial.made_run import begun_run

from finetune.cli import handing
from finetune.cli.bar import Bar
from finetune.errors import ArtifactError, OutsideError, ProofFailed, RecipeError
from finetune.export import gguf_file, lmstudio, ollama
from finetune.export.modelfile import modelfile, served_as_trained
from finetune.run import Entry, Run, atomic, manifest
from finetune.serving import template_as_trained

KINDS = ("q4_k_m", "q8_0")


@pytest.fixture(scope="module")
def exported(pico_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose merged folder is its base, and whose GGUF files hold bytes drawn by chance."""
    run = begun_run(pico_base, tmp_path_factory.mktemp("handed"), "method=lora", 'system=Answer as """counsel""".')
    shutil.copytree(pico_base, run.merged)
    (run.merged / "LICENSE").write_text("Apache License\nVersion 2.0\n")
    told = json.loads(run.manifest.read_text())
    told["serving"]["system"] = 'Answer as """counsel""".'
    atomic.write_json(run.manifest, told)
    folder = run.path / "gguf"
    folder.mkdir()
    for kind in KINDS:
        gguf_file(run, folder, kind).write_bytes(os.urandom(3_000_000))
    outputs = {run.named(file): atomic.sha256(file) for file in folder.iterdir()}
    manifest.add(run.manifest, Entry("export", {}, outputs, [], {}, 0.0, manifest.now()))
    return run


@pytest.fixture
def run(exported: Run, tmp_path: Path) -> Run:
    shutil.copytree(exported.path, tmp_path / exported.name)
    return Run(tmp_path / exported.name)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ollama]:
    held = Ollama("Q4_K_M")
    with listening(held) as host:
        monkeypatch.setenv("OLLAMA_HOST", host)
        yield held


def hand_to_ollama(
    run: Run, told: Any = lambda line: None, shown: Any = lambda *how: None, warned: Any = lambda line: None
) -> Any:
    file = gguf_file(run, run.path / "gguf", KINDS[0])
    return ollama.create(run, file, KINDS[0], "legal:v1", told, shown, warned)


def test_a_model_is_made_of_a_streamed_file_and_read_back(run: Run, server: Ollama) -> None:
    server.template = template_as_trained(run, run.merged)
    told: list[str] = []
    shown: list[tuple[str, int, int]] = []
    entry = hand_to_ollama(run, told.append, lambda *how: shown.append(how))
    file = gguf_file(run, run.path / "gguf", KINDS[0])
    digest = f"sha256:{atomic.sha256(file)}"
    assert server.blobs == {digest: file.read_bytes()}
    assert server.asked == [f"HEAD {digest[:12]}", f"POST {digest[:12]}", "POST /api/create", "POST /api/show"]
    assert server.models["legal:v1"] == {
        "model": "legal:v1",
        "files": {file.name: digest},
        "parameters": {"num_ctx": 8192, "temperature": 1.0, "top_k": 20, "top_p": 0.95, "stop": ["<|im_end|>"]},
        "requires": "0.30.4",
        "system": 'Answer as """counsel""".',
        "license": "Apache License\nVersion 2.0\n",
    }
    assert [done for what, done, _ in shown if what == "to Ollama"] == [2**20, 2 * 2**20, 3_000_000]
    assert ("copying", 5, 10) in shown
    assert told == ["ollama: parsing GGUF", "ollama: success"]
    assert manifest.read(run.manifest)["stages"][-1] == entry
    assert [(claim["claim"], claim["measured"]) for claim in entry["claims"]] == [
        ("family as sent", "qwen35"),
        ("quantization level as sent", "Q4_K_M"),
        ("parameters as sent", "num_ctx 8192, temperature 1, top_k 20, top_p 0.95, stop <|im_end|>"),
        ("system prompt as sent", 'Answer as """counsel""".'),
        ("licence as sent", "27 characters"),
        ("requires as sent", "0.30.4"),
        ("template as sent", f"{len(server.template):,} characters"),
    ]


def test_the_modelfile_and_the_request_say_the_same(run: Run) -> None:
    how = served_as_trained(run)
    asked, text = ollama.request("x", "x.gguf", "sha256:0", how), modelfile("x.gguf", how)
    words = [line.split(maxsplit=2)[1:] for line in text.splitlines() if line.startswith("PARAMETER")]
    written = {name: [value.strip('"')] for name, value in words}
    assert written == {
        name: [str(each) for each in value] if isinstance(value, list) else [str(value)]
        for name, value in asked["parameters"].items()
    }
    assert f"REQUIRES {asked['requires']}\n" in text
    assert f'LICENSE """{asked["license"]}"""\n' in text
    assert "SYSTEM \"\"\"Answer as '''counsel'''.\"\"\"\n" in text, "a Modelfile cannot hold three quotes in three"


def test_a_file_that_lies_there_already_is_not_sent_again(run: Run, server: Ollama) -> None:
    hand_to_ollama(run)
    server.asked.clear()
    told: list[str] = []
    hand_to_ollama(run, told.append)
    assert [word.split()[0] for word in server.asked] == ["HEAD", "POST", "POST"]
    assert told[0] == f"{run.name}-Q4_K_M.gguf lies in Ollama already"


@pytest.mark.parametrize(
    ("trouble", "what", "why"),
    [
        ({"trouble": "failed to validate GGUF"}, "could not make the model", "failed to validate GGUF"),
        ({"mute": True}, "ended without success", "its last word was 'copying'"),
        ({"dies_after": 1_000_000}, "broke off", "of 3,000,000 bytes"),
        ({"full": True}, "Ollama refused", "500 Internal Server Error: no space left on device"),
        ({"version": "0.29.9"}, "too old", "takes 0.30.4 or newer"),
        ({"version": None}, "not Ollama", "tells no version"),
        ({"version": "1" * 5000}, "not Ollama", "tells no version"),
        ({"page": "[" * 200_000}, "Ollama refused", f"500 Internal Server Error: {'[' * 200} …"),
        ({"words": [{"total": 5}], "mute": True}, "ended without success", "its last word was 'copying'"),
        ({"words": [{"total": "abc", "completed": []}], "mute": True}, "ended without success", "'copying'"),
        ({"words": [{"total": 10**400, "completed": 1}], "mute": True}, "ended without success", "'copying'"),
        ({"trouble": "x" * 12_000}, "could not make the model", f"{'x' * 200} …"),
    ],
)
def test_what_ollama_refuses_is_told_and_nothing_is_noted(
    run: Run, server: Ollama, trouble: dict[str, Any], what: str, why: str
) -> None:
    vars(server).update(trouble)
    with pytest.raises(OutsideError, match=what) as told:
        hand_to_ollama(run)
    (problem,) = told.value.problems
    assert why in problem.why
    assert f"ollama create legal:v1 -f {run.path}/gguf/Modelfile" in problem.fix
    assert [stage["stage"] for stage in manifest.read(run.manifest)["stages"]] == ["export"]


def test_a_file_that_is_another_now_is_refused_by_its_hash(run: Run, server: Ollama) -> None:
    file = gguf_file(run, run.path / "gguf", KINDS[0])
    file.write_bytes(bytes(3_000_000))
    with pytest.raises(OutsideError, match="Ollama refused") as told:
        hand_to_ollama(run)
    assert "400 Bad Request: digest mismatch" in told.value.problems[0].why


@pytest.mark.parametrize(
    ("told", "what"),
    [
        ({"system": ""}, "system prompt"),
        ({"parameters": "num_ctx 2048"}, "parameters"),
        ({"template": "{{ .System }}"}, "template"),
        ({"details": {"family": "qwen35", "quantization_level": "Q8_0"}}, "quantization level"),
        ({"details": None}, "family"),
        ({"details": ["x"]}, "family"),
        ({"details": "x"}, "family"),
        ({"parameters": "num_ctx null\ntop_k [1]\ntop_p"}, "parameters"),
    ],
)
def test_a_model_that_is_not_what_was_sent_is_found(run: Run, server: Ollama, told: dict[str, Any], what: str) -> None:
    server.told = told
    with pytest.raises(ProofFailed, match=f"the {what} of the model in Ollama is another") as failed:
        hand_to_ollama(run)
    assert failed.value.problems[0].fix == "ollama rm legal:v1"


def test_where_nobody_listens_the_commands_are_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(Ollama()) as host:
        monkeypatch.setenv("OLLAMA_HOST", host)
    warned: list[str] = []
    assert hand_to_ollama(run, warned=warned.append) is None
    assert warned == [
        f"no Ollama answers at http://{host} (Connection refused); the files are made. Later:",
        "  ollama serve   # in a terminal of its own, unless it runs already",
        f"  ollama create legal:v1 -f {run.path}/gguf/Modelfile",
    ]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home with an LM Studio that was started once."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / ".lmstudio").mkdir(parents=True)
    return tmp_path / "home"


def test_lm_studio_finds_every_file_and_a_preset(run: Run, home: Path) -> None:
    handed = handing.prepare(None, True, "ours")(run, run.path / "gguf", KINDS, Bar(quiet=True))
    folder = home / ".lmstudio" / "models" / "ours" / run.name
    assert sorted(file.name for file in folder.iterdir()) == [f"{run.name}-Q4_K_M.gguf", f"{run.name}-Q8_0.gguf"]
    assert all(os.path.samefile(file, run.path / "gguf" / file.name) for file in folder.iterdir())
    assert {claim["measured"] for claim in handed["lmstudio"]["claims"]} == {"a hard link"}
    preset = home / ".lmstudio" / "config-presets" / f"{run.name}.preset.json"
    assert json.loads(preset.read_text()) == {
        "identifier": f"@local:{run.name}",
        "name": run.name,
        "changed": False,
        "operation": {
            "fields": [
                {"key": "llm.prediction.temperature", "value": 1.0},
                {"key": "llm.prediction.topKSampling", "value": 20},
                {"key": "llm.prediction.topPSampling", "value": {"checked": True, "value": 0.95}},
                {"key": "llm.prediction.minPSampling", "value": {"checked": False, "value": 0.05}},
                {"key": "llm.prediction.repeatPenalty", "value": {"checked": False, "value": 1.1}},
                {"key": "llm.prediction.systemPrompt", "value": 'Answer as """counsel""".'},
            ]
        },
        "load": {"fields": []},
    }
    again = handing.prepare(None, True, "ours")(run, run.path / "gguf", KINDS, Bar(quiet=True))
    assert {claim["measured"] for claim in again["lmstudio"]["claims"]} == {"lay there already, the same bytes"}


def test_on_another_disk_a_copy_is_laid_and_read_back(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = home / "big" / "models"
    (home / ".lmstudio" / "settings.json").write_text(json.dumps({"downloadsFolder": str(models)}))

    def refuse(*words: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    handed = handing.prepare(None, True, None)(run, run.path / "gguf", KINDS[:1], Bar(quiet=True))
    (laid,) = (models / "finetune" / run.name).iterdir()
    assert laid.read_bytes() == (run.path / "gguf" / laid.name).read_bytes()
    assert {claim["measured"] for claim in handed["lmstudio"]["claims"]} == {"a copy, read back"}


def test_what_lies_in_lm_studio_s_folders_is_never_replaced(run: Run, home: Path) -> None:
    place = home / ".lmstudio" / "models" / "finetune" / run.name / f"{run.name}-Q8_0.gguf"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"another")
    hand_on = handing.prepare(None, True, None)
    with pytest.raises(ArtifactError, match="another file lies in LM Studio's folder"):
        hand_on(run, run.path / "gguf", KINDS, Bar(quiet=True))
    assert place.read_bytes() == b"another"
    place.unlink()
    preset = home / ".lmstudio" / "config-presets" / f"{run.name}.preset.json"
    preset.parent.mkdir()
    preset.write_bytes(b"\xff")
    with pytest.raises(ArtifactError, match="a preset of this name lies there"):
        hand_on(run, run.path / "gguf", KINDS, Bar(quiet=True))
    assert preset.read_bytes() == b"\xff"


def test_lm_studio_s_home_is_found_as_its_own_tool_finds_it(home: Path) -> None:
    assert lmstudio.find_home().folder == home / ".lmstudio"
    (home / ".cache" / "lm-studio").mkdir(parents=True)
    assert lmstudio.find_home().folder == home / ".cache" / "lm-studio"
    (home / ".lmstudio-home-pointer").write_text(f"{home}/.lmstudio\n")
    assert lmstudio.find_home().folder == home / ".lmstudio"
    (home / ".lmstudio-home-pointer").write_text(f"{home}/gone\n")
    with pytest.raises(OutsideError, match="there is no LM Studio here"):
        lmstudio.find_home()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (".lmstudio-home-pointer", b"/x\xff"),
        (".lmstudio-home-pointer", b"/" + b"x" * 5000),
        (".lmstudio-home-pointer", b"x"),
        (".lmstudio/settings.json", b"\xff"),
        (".lmstudio/settings.json", b"["),
        (".lmstudio/settings.json", b"[" * 200_000),
        (".lmstudio/settings.json", b"[]"),
        *(
            (".lmstudio/settings.json", json.dumps({"downloadsFolder": wrong}).encode())
            for wrong in ("", "models", "/a\0", "/\ud800", "~nobody-of-that-name/models", 7)
        ),
    ],
)
def test_damaged_settings_of_lm_studio_are_told_as_such(home: Path, name: str, told: bytes) -> None:
    (home / name).write_bytes(told)
    with pytest.raises(ArtifactError, match="LM Studio's settings cannot be read") as error:
        lmstudio.find_home()
    (problem,) = error.value.problems
    assert problem.where == str(home / name)
    assert problem.fix.startswith("start LM Studio and save its settings")


def test_a_tilde_in_lm_studio_s_settings_is_the_user_s_home(home: Path) -> None:
    (home / ".lmstudio" / "settings.json").write_text('{"downloadsFolder": "~/models"}')
    assert lmstudio.find_home().models == home / "models"


@pytest.mark.parametrize("wrong", ["", "../up", "a/b", "é"])
def test_a_publisher_that_is_no_folder_is_refused(wrong: str, home: Path) -> None:
    with pytest.raises(RecipeError, match="this is no publisher"):
        lmstudio.check_publisher(wrong)

"""One command makes a GGUF, a model in Ollama and a file in LM Studio's folder; it answers as the run does."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from ollama_server import Ollama, listening

from finetune.errors import ArtifactError
from finetune.export.converter import find
from finetune.run import Run, manifest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(blue_run: Run) -> Run:
    """A copy beside it, so that the paths in its recipe hold."""
    return Run(shutil.copytree(blue_run.path, blue_run.path.with_name("blue-0002")))


def finetune(*words: str | Path, said: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "finetune", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]]), **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, input=said, env=environment)


@pytest.fixture(scope="module")
def handed(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, object]:
    """What `finetune export` does where an Ollama listens and an LM Studio was started once."""
    home, ollama = tmp_path_factory.mktemp("home"), Ollama()
    (home / ".lmstudio").mkdir()
    words = ("export", run.path, "--gguf", "bf16", "--converter", find(None, ROOT / ".cache").folder)
    with listening(ollama) as host:
        done = finetune(*words, "--ollama", "blue", "--lmstudio", "--json", HOME=str(home), OLLAMA_HOST=host)
    assert done.returncode == 0, done.stderr
    assert "ollama run blue\n" in done.stderr
    return {"told": json.loads(done.stdout), "ollama": ollama, "home": home}


def test_one_command_hands_the_file_to_both(run: Run, handed: Mapping[str, object]) -> None:
    (gguf,) = (run.path / "gguf").glob("*.gguf")
    assert isinstance(ollama := handed["ollama"], Ollama)
    assert isinstance(home := handed["home"], Path)
    assert list(ollama.blobs.values()) == [gguf.read_bytes()]
    assert ollama.models["blue"]["system"] == "Be brief."
    assert os.path.samefile(gguf, home / ".lmstudio" / "models" / "finetune" / run.name / gguf.name)
    assert [stage["stage"] for stage in manifest.read(run.manifest)["stages"]] == [
        *("train", "merge", "export", "lmstudio", "ollama")
    ]


ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"no {name} here"))
    for name in ("xllamacpp", "llama_cpp")
]


@pytest.mark.usefixtures("handed")
@pytest.mark.parametrize("engine", ENGINES)
def test_a_gguf_answers_as_the_run_does_turn_by_turn(run: Run, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune import llamacpp
    from finetune.chat import converse
    from finetune.generate import voices

    known = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: known(name) if name == engine else None)
    (gguf,) = (run.path / "gguf").glob("*.gguf")
    of_gguf = {"tuned": llamacpp.open_gguf(gguf, system="Be brief.", temperature=0, max_new_tokens=16)}
    of_run = voices(run, base=False, temperature=0, max_new_tokens=16)
    written = []
    for asked in (of_gguf, of_run):
        said, shown = iter(["colour 7?", "colour 5?"]), list[str]()

        def read(said: object = said) -> str:
            try:
                return next(said)  # type: ignore[call-overload, no-any-return]
            except StopIteration:
                raise EOFError from None

        converse(asked, read, shown.append)
        written.append("".join(shown))
    assert written[0] == written[1]
    assert written[0].startswith("blue\n")


@pytest.mark.usefixtures("handed")
def test_an_evaluation_asks_the_gguf_what_it_asks_the_run(run: Run, tmp_path: Path) -> None:
    from finetune import engine
    from finetune.evaluate.verb import Wish, evaluate
    from finetune.stopping import Stop

    if engine.answering() is None:
        pytest.skip("neither xllamacpp nor llama-cpp-python is installed")
    (gguf,) = (run.path / "gguf").glob("*.gguf")
    rows = [json.dumps({"prompt": f"colour {i}?", "completion": "blue"}) for i in (7, 300, 41)]
    (tmp_path / "asked.jsonl").write_text("\n".join(rows))
    file = tmp_path / "asked.jsonl"
    tasks = (f"evaluate.tasks=[{{score: exact, file: {file}}}, {{score: loss, file: {file}}}]",)

    def evaluated(file: Path) -> None:
        wish = Wish(False, (file,), max_new_tokens=12, overrides=tasks)
        evaluate(run, wish, Stop(), lambda line: None, lambda *told: None)

    evaluated(gguf)
    told = json.loads(run.evaluation.read_text())
    name = f"gguf/{gguf.name}"
    assert list(told["sides"]) == ["tuned", name]
    assert told["sides"][name]["engine"].startswith("llama.cpp, ")
    for row in map(json.loads, run.evaluated_items.read_text().splitlines()):
        if row["task"] == "asked exact":
            expected = {"answer": "blue", "score": 1.0, "loss": None, "tokens": 4}
            assert row["sides"] == {"tuned": expected, name: expected}
        else:  # llama.cpp rounds activations to bfloat16; the answer costs a thousandth of a nat
            assert row["sides"][name]["loss"] == pytest.approx(row["sides"]["tuned"]["loss"], rel=0.05)
            assert row["sides"][name]["tokens"] == 4
    whole = gguf.read_bytes()
    for old, new, what in [
        (b"You have access to the", b"You lack access to the", "the chat template of the GGUF is not the run's"),
        (b"<|endoftext|>", b"<|endoftixt|>", "the tokenizer of the GGUF is not the run's"),
    ]:
        assert len(old) == len(new)
        (tmp_path / "other.gguf").write_bytes(whole.replace(old, new, 1))
        with pytest.raises(ArtifactError, match=what):
            evaluated(tmp_path / "other.gguf")
    (tmp_path / "other.gguf").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="the GGUF file is not of this run"):
        evaluated(tmp_path / "other.gguf")
    gguf.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with pytest.raises(ArtifactError, match="the file is not the one that was proven"):
            evaluated(gguf)
    finally:
        gguf.write_bytes(whole)


@pytest.mark.usefixtures("handed")
def test_the_command_takes_the_system_prompt_and_the_sampling_of_training(run: Run) -> None:
    (gguf,) = (run.path / "gguf").glob("*.gguf")
    words = ("chat", gguf, "--prompt", "colour 7?", "--max-tokens", "16")
    greedy, drawn = finetune(*words, "--temperature", "0"), [finetune(*words).stdout for _ in range(2)]
    assert (greedy.returncode, greedy.stdout) == (0, "blue\n"), greedy.stderr
    assert drawn[0] == drawn[1], "the seed is the same"
    assert drawn[0]


@pytest.mark.usefixtures("handed")
def test_what_cannot_be_asked_is_told(run: Run, tmp_path: Path) -> None:
    (gguf,) = (run.path / "gguf").glob("*.gguf")
    (tmp_path / "cut.gguf").write_bytes(gguf.read_bytes()[:2000])
    for words, code, what in [
        (("export", run.path, "--ollama", "my model"), 2, "Ollama takes no such name"),
        (("chat", gguf, "--base", "--prompt", "x"), 2, "a GGUF file has no base beside it"),
        (("chat", run.path, "--system", "x", "--prompt", "x"), 2, "the system prompt is the run's"),
        (("chat", run.path / "gguf" / "Modelfile", "--prompt", "x"), 6, "this is no GGUF file"),
        (("chat", tmp_path / "none.gguf", "--prompt", "x"), 6, "there is no such file"),
        (("chat", tmp_path / "cut.gguf", "--prompt", "x"), 5, "llama.cpp cannot load the file"),
        (("chat", gguf, "--prompt", "x " * 9000), 5, "llama.cpp gave no answer"),
    ]:
        done = finetune(*words)
        assert done.returncode == code, done.stderr
        assert f"error: {what}\n" in done.stderr


def test_where_no_engine_is_installed_the_way_to_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune.errors import OutsideError
    from finetune.llamacpp import open_gguf

    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OutsideError, match="nothing here can run a GGUF file") as told:
        open_gguf(tmp_path / "x.gguf", system=None, temperature=0, max_new_tokens=1)
    assert told.value.problems[0].fix.startswith("pip install xllamacpp")

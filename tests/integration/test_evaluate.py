"""Base, tuned model and GGUF are asked the same; what the toy learnt is found, and what it forgot fails the gate."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial.made_run import made_run

from finetune.cli.evaluating import table
from finetune.data import prepare
from finetune.errors import ArtifactError, DataError, ProofFailed, RecipeError
from finetune.evaluate.answering import answer_all
from finetune.evaluate.between import compare
from finetune.evaluate.comparing import check_comparable
from finetune.evaluate.verb import Wish, evaluate
from finetune.generate import open_base, open_tuned
from finetune.ledger import ledger
from finetune.ledger.verb import MOST_TOKENS
from finetune.model import base_alone, load_base, score
from finetune.plan import read_plan
from finetune.recipe import load
from finetune.run import Run, manifest
from finetune.stopping import Stop

ROOT = Path(__file__).parents[2]


def silent(*_: Any) -> None:
    """Takes what would be told to a user."""


def evaluated(
    run: Run, *, tasks: str = "", rules: tuple[str, ...] = (), only: tuple[str, ...] = (), **wishes: Any
) -> dict[str, Any]:
    overrides = [f"evaluate.tasks={tasks}"] if tasks else []
    overrides += [f"evaluate.fail_if={json.dumps(list(rules))}"] if rules else []
    return evaluate(
        run, Wish(tasks=only, overrides=tuple(overrides), max_new_tokens=16, **wishes), Stop(), silent, silent
    )


def task_of(told: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [task for task in told["tasks"] if task["name"] == name]
    return dict(found)


def items_of(run: Run, task: str) -> list[dict[str, Any]]:
    return [row for row in map(json.loads, run.evaluated_items.read_text().splitlines()) if row["task"] == task]


@pytest.fixture
def blue(blue_run: Run) -> Run:
    """A copy beside it, so that the paths in its recipe hold."""
    return Run(shutil.copytree(blue_run.path, blue_run.path.with_name(f"blue-{time.monotonic_ns()}")))


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """Questions of the kind that the toy has learnt, none of them learnt, one with another answer."""
    rows = [{"prompt": f"colour {i}?", "completion": "Blue." if i < 11 + 30 else "red"} for i in range(30, 42)]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "asked.jsonl"


def test_what_the_toy_learnt_is_found_and_written_down(blue: Run, asked: Path) -> None:
    told = evaluated(blue, tasks=f"[loss, {{score: exact, file: {asked}}}, {{score: choice, file: {asked}}}]")
    exact = task_of(told, "asked exact")
    assert (exact["items"], exact["set"], exact["better"], exact["unit"]) == (12, "domain", "higher", "share right")
    assert exact["scores"]["base"]["value"] == 0
    assert exact["scores"]["tuned"]["value"] == pytest.approx(11 / 12)
    (pair,) = exact["pairs"]
    assert (pair["one"], pair["other"], pair["verdict"]) == ("base", "tuned", "better")
    assert pair["p"] == pytest.approx(2 / 2**11)
    assert exact["flips"] == {"gained": 11, "lost": 0}
    choice = task_of(told, "asked choice")
    assert choice["majority"] == {"label": "Blue.", "share": pytest.approx(11 / 12)}
    assert "asked choice: always saying 'Blue.' would score 91.7%" in told["notes"]
    assert told == json.loads(blue.evaluation.read_text())
    rows = items_of(blue, "asked exact")
    assert [row["sides"]["tuned"]["answer"] for row in rows] == ["blue"] * 12
    assert [row["sides"]["tuned"]["score"] for row in rows] == [1.0] * 11 + [0.0]
    assert (rows[0]["prompt"], rows[0]["expected"]) == ("colour 30?", "Blue.")
    assert rows[0]["place"].endswith("asked.jsonl:1")
    shown = "\n".join(table(told))
    assert "  tuned                               91.7%  [64.6%, 98.5%]\n" in shown
    assert "gained 11, lost 0" in shown
    entry = manifest.read(blue.manifest)["stages"][-1]
    assert entry["stage"] == "evaluate"
    assert entry["outputs"].keys() == {"eval/evaluation.json", "eval/items.jsonl"}
    assert {
        "claim": "asked exact: tuned against base",
        "measured": "better",
        "tolerance": None,
        "holds": True,
    } in entry["claims"]
    check_comparable(told, evaluated(blue, tasks=f"[{{score: exact, file: {asked}}}]"))
    asked.write_text(asked.read_text().replace("colour 30", "colour 300"))
    with pytest.raises(ArtifactError, match="differ in the items of asked exact"):
        check_comparable(told, evaluated(blue, tasks=f"[{{score: exact, file: {asked}}}]"))


def test_the_loss_is_the_ledgers_on_the_same_rows(pico_base: Path, tmp_path: Path) -> None:
    """Method lora, so that the base below is as published in both; float32 in both."""
    run = made_run(pico_base, tmp_path, "method=lora")
    of_ledger = {step["name"]: step for step in ledger(run, MOST_TOKENS, silent)["steps"]}
    loss = task_of(evaluated(run, tasks="[loss]"), "held_out loss")
    for side, step in (("base", "base"), ("tuned", "adapter")):
        assert loss["scores"][side]["value"] == pytest.approx(of_ledger[step]["loss"]["value"], rel=1e-5)
    rows = items_of(run, "held_out loss")
    total = sum(row["sides"]["tuned"]["loss"] * row["sides"]["tuned"]["tokens"] for row in rows)
    tokens = sum(row["sides"]["tuned"]["tokens"] for row in rows)
    assert total / tokens == pytest.approx(loss["scores"]["tuned"]["value"], rel=1e-12)


@pytest.mark.parametrize("kind", ["pico_base", "pico_moe_base"])
def test_answers_of_a_batch_are_those_of_each_prompt_alone(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """In float32: the logits that were furthest apart were so by 1e-6."""
    tuned = open_tuned(made_run(request.getfixturevalue(kind), tmp_path, "method=lora"))
    texts = ["x", "Who closed the valve, and what is the pressure now? " * 6, "colour 7?", "What does the log say?"]
    prompts = [tuned.renderer.prompt_ids([{"role": "user", "content": text}], (), False) for text in texts]
    with base_alone(tuned.model):
        together = answer_all(tuned, prompts, 8, silent)
        assert together == [answer_all(tuned, [ids], 8, silent)[0] for ids in prompts]
    assert len({answer.text for answer in together}) > 1


def test_a_planted_regression_fails_the_gate_once_all_is_written(pico_base: Path, tmp_path: Path) -> None:
    """The base is right by definition: its own answers are expected. An adapter drawn by chance forgets them."""
    run = made_run(pico_base, tmp_path, "method=lora", size=0.5)
    base = open_base(run)
    texts = [f"What does the log say of number {i}?" for i in range(12)]
    prompts = [base.renderer.prompt_ids([{"role": "user", "content": text}], (), False) for text in texts]
    answers = answer_all(base, prompts, 16, silent)
    rows = [{"prompt": text, "completion": said.text} for text, said in zip(texts, answers, strict=True)]
    (tmp_path / "general.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = f"[loss, {{score: exact, file: {tmp_path / 'general.jsonl'}, set: regression}}]"
    rules = ("regression exact drops more than 0.02", "general exact does not rise")
    with pytest.raises(ProofFailed, match="the gate failed") as failed:
        evaluated(run, tasks=tasks, rules=rules)
    assert failed.value.exit_code == 8
    told = json.loads(run.evaluation.read_text())
    exact = task_of(told, "general exact")
    assert (exact["scores"]["base"]["value"], exact["scores"]["tuned"]["value"]) == (1, 0)
    assert (exact["pairs"][0]["verdict"], exact["flips"]) == ("worse", {"gained": 0, "lost": 12})
    assert [line.partition(":")[0] for line in told["gate"]["failed"]] == list(rules)
    entry = manifest.read(run.manifest)["stages"][-1]
    assert entry["claims"][-1] == {
        "claim": "rules of the gate that hold", "measured": 0, "tolerance": 2, "holds": False
    }  # fmt: skip


def test_an_adapter_that_changes_nothing_is_no_evidence_and_passes_the_gate(pico_base: Path, tmp_path: Path) -> None:
    run = made_run(pico_base, tmp_path, "method=lora", size=0.0)
    told = evaluated(run, tasks="[loss, exact]", rules=("exact drops more than 0", "loss rises more than 0"))
    assert told["gate"]["failed"] == []
    assert {pair["verdict"] for task in told["tasks"] for pair in task["pairs"]} == {"no evidence"}
    assert any(note.startswith("exact drops more than 0: 2 items") for note in told["notes"])


def test_a_method_that_trains_all_weights_is_compared_with_its_base_too(pico_base: Path, tmp_path: Path) -> None:
    run = made_run(pico_base, tmp_path, "method=full", "lora.dropout=0")
    loss = task_of(evaluated(run, tasks="[loss]"), "held_out loss")["scores"]
    examples = prepare(load(run.recipe), pico_base).held_out
    for side, folder in (("base", pico_base), ("tuned", run.weights)):
        assert loss[side]["value"] == pytest.approx(score(load_base(folder, read_plan(run.plan)), examples).loss)
    trained, entry = manifest.read(run.manifest)["stages"]
    assert trained["outputs"].items() <= entry["inputs"].items()
    (run.weights / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"weights/config\.json is not the one that was proven"):
        evaluated(run, tasks="[loss]")


def test_what_cannot_be_evaluated_is_refused_before_a_model_is_loaded(
    pico_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made_run(pico_base, tmp_path)
    monkeypatch.setattr("finetune.evaluate.verb.sides_of", None)
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    for error, told, words in [
        (RecipeError, "there is no task exat", {"only": ("exat",)}),
        (RecipeError, "no task is called regression loss", {"rules": ("regression loss rises more than 0",)}),
        (RecipeError, "needs the base", {"rules": ("loss does not fall",), "base": False}),
        (RecipeError, "two tasks are called held_out loss", {"tasks": "[loss, {score: loss, set: regression}]"}),
        (DataError, "there is no file none.jsonl", {"tasks": "[{score: exact, file: none.jsonl}]"}),
        (DataError, "the task held_out tool_call has no items", {"tasks": "[tool_call]"}),
        (ArtifactError, "the GGUF file is damaged", {"ggufs": (tmp_path / "x.gguf",)}),
        (ArtifactError, "there is no such file", {"ggufs": (tmp_path / "y.gguf",)}),
    ]:
        with pytest.raises(error, match=told):
            evaluated(run, **words)
    assert not run.evaluation.parent.exists()


def test_two_runs_are_compared_item_by_item_and_not_if_they_were_asked_otherwise(
    pico_base: Path, tmp_path: Path, blue: Run, asked: Path
) -> None:
    tasks = f"[loss, {{score: exact, file: {asked}}}]"
    other = Run(shutil.copytree(blue.path, blue.path.with_name(f"other-{time.monotonic_ns()}")))
    evaluated(blue, tasks=tasks)
    with pytest.raises(ArtifactError, match="the run was not evaluated"):
        compare(blue, other)
    evaluated(other, tasks=tasks)
    told = compare(other, blue)
    assert told["runs"] == [other.name, blue.name]
    loss, exact = told["tasks"]
    assert (loss["pairs"][0]["difference"]["value"], loss["pairs"][0]["verdict"]) == (0, "no evidence")
    assert (exact["scores"][blue.name]["value"], exact["flips"]) == (pytest.approx(11 / 12), {"gained": 0, "lost": 0})
    evaluated(other, tasks=tasks, limit=6)
    with pytest.raises(ArtifactError, match="differ in the items of"):
        compare(blue, other)
    shown = finetune("compare", blue.path, other.path)
    assert (shown.returncode, "differ in the items of" in shown.stderr) == (6, True)
    base = shutil.copytree(pico_base, tmp_path / "other-base")
    template = base / "chat_template.jinja"
    template.write_text(template.read_text() + "{# of another day #}")
    runs = [made_run(each, tmp_path / each.name) for each in (pico_base, base)]
    for run in runs:
        evaluated(run, tasks="[loss]")
    with pytest.raises(ArtifactError, match="the evaluations differ in the template of base"):
        compare(*runs)


def finetune(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "finetune", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_command_tells_a_failed_gate_by_its_exit_code(blue: Run, asked: Path) -> None:
    words = ("evaluate", blue.path, "--set", f"evaluate.tasks=[{{score: exact, file: {asked}, name: colours}}]")
    words += ("--max-new-tokens", "8", "--limit", "6", "--json", "--no-base")
    done = finetune(*words, "--set", "evaluate.fail_if=[colours is above 0.1]")
    assert done.returncode == 8, done.stderr
    assert "error: the gate failed" in done.stderr
    assert "tuned: answers 6 of 6" in done.stderr
    told = json.loads(done.stdout)
    assert list(told["sides"]) == ["tuned"]
    assert (told["tasks"][0]["items"], told["tasks"][0]["pairs"], told["tasks"][0]["flips"]) == (6, [], None)
    assert "6 of 12 rows of asked.jsonl were drawn" in told["notes"]
    shown = finetune("show", blue.path).stdout
    assert "evaluate  finished" in shown
    assert "FAIL rules of the gate that hold: 0 of 1" in shown
    done = finetune("evaluate", blue.path, "--set", "train.epochs=1")
    assert (done.returncode, "only the evaluation can be told anew" in done.stderr) == (2, True)


def test_ctrl_c_leaves_nothing_half_written(blue: Run, asked: Path) -> None:
    words = ["evaluate", str(blue.path), "--set", f"evaluate.tasks=[{{score: exact, file: {asked}}}]"]
    command = [sys.executable, "-m", "finetune", *words, "--max-new-tokens", "4000"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    before = manifest.read(blue.manifest)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as job:
        assert job.stderr is not None
        assert "asked exact: 12 items" in job.stderr.readline()
        time.sleep(0.5)
        job.send_signal(signal.SIGINT)
        told = job.stderr.read()
    assert job.returncode == 75
    assert "stopped by SIGINT" in told
    assert f"finetune evaluate {blue.path}" in told
    assert not blue.evaluation.parent.exists()
    assert manifest.read(blue.manifest) == before

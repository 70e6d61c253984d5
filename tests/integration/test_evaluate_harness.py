"""Tasks of lm-evaluation-harness beside our own: paired, gated, and refused where they cannot be asked as a run is."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial.harness_task import write_task as task

from finetune.errors import DataError, FinetuneError, OutsideError, ProofFailed, RecipeError
from finetune.evaluate.benchmarks import read_benchmark
from finetune.evaluate.tasks import wished
from finetune.evaluate.verb import Wish, evaluate
from finetune.generate import open_tuned
from finetune.recipe import HarnessTask, load
from finetune.run import Run
from finetune.stopping import Stop

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def silent(*_: Any) -> None:
    """Takes what would be told to a user."""


@pytest.fixture
def blue(blue_run: Run) -> Run:
    """A copy beside it, so that the paths in its recipe hold."""
    return Run(shutil.copytree(blue_run.path, blue_run.path.with_name(f"blue-{time.monotonic_ns()}")))


def test_a_benchmark_is_paired_and_gated_as_a_task_of_ours(blue: Run, tmp_path: Path) -> None:
    file = task(tmp_path, "colours")
    choices = {"output_type": "multiple_choice", "doc_to_choice": ["blue", "red"], "metric_list": [{"metric": "acc"}]}
    other = task(tmp_path, "choices", **choices, generation_kwargs=None)
    told = [{"lm_eval": str(file)}, {"lm_eval": str(other), "name": "named", "set": "domain"}]
    words = (f"evaluate.tasks={json.dumps(told)}", 'evaluate.fail_if=["colours rises more than 0.1"]')
    with pytest.raises(ProofFailed, match="the gate failed") as failed:
        evaluate(blue, Wish(overrides=words, max_new_tokens=4), Stop(), silent, silent)
    assert "colours rises more than 0.1: colours of tuned changed by +0.9167" in failed.value.problems[0].why
    first, second = json.loads(blue.evaluation.read_text())["tasks"]
    assert (first["name"], first["kind"], first["set"], first["items"]) == ("colours", "lm_eval", "regression", 12)
    assert (first["unit"], first["better"], first["flips"]) == ("exact_match", "higher", {"gained": 11, "lost": 0})
    assert first["scores"]["tuned"]["value"] == pytest.approx(11 / 12)
    assert first["pairs"][0]["p"] == pytest.approx(2 / 2**11)
    assert first["few_shot"] == [0]
    assert first["harness"].startswith("lm_eval 0.")
    assert (second["name"], second["set"], second["unit"]) == ("named", "domain", "acc")
    items = [row for row in map(json.loads, blue.evaluated_items.read_text().splitlines()) if row["task"] == "colours"]
    assert items[0]["sides"]["tuned"] == {"answer": "blue", "score": 1.0, "loss": None, "tokens": 4}
    assert (items[0]["place"], items[0]["prompt"], items[0]["expected"]) == ("colours:0", "colour 30?", "blue")


def test_a_figure_between_right_and_wrong_is_drawn_and_one_of_the_whole_set_refused(blue: Run, tmp_path: Path) -> None:
    """The metric of each item is what the task's own function says."""
    (tmp_path / "own.py").write_text(
        "def score(doc, results):\n"
        "    return {'letters': len(results[0]) / 10, 'corpus': (results[0], doc['answer'])}\n"
    )
    file = task(tmp_path, "letters")
    text = file.read_text().replace("metric_list:", "process_results: !function own.score\nmetric_list:")
    file.write_text(text.replace("metric: exact_match", "metric: letters"))
    words = (f"evaluate.tasks=[{{lm_eval: {file}}}]",)
    (told,) = evaluate(blue, Wish(overrides=words, limit=8), Stop(), silent, silent)["tasks"]
    assert told["scores"]["tuned"]["value"] == pytest.approx(0.4)
    assert (told["unit"], told["items"], told["flips"]) == ("letters", 8, None)
    with pytest.raises(RecipeError, match="has no metric corpus") as error:
        read_benchmark(HarnessTask(lm_eval=str(file), metric="corpus"), open_tuned(blue).renderer, False, None, 4)
    assert (
        "no mean of items, so nothing can be paired; of each item it tells letters,none" in error.value.problems[0].why
    )


def test_items_without_a_figure_are_left_out_of_both_sides_and_counted(blue: Run, tmp_path: Path) -> None:
    """And a rule about a task in which no item has one fails: nobody knows whether it holds."""
    told = "float('nan') if doc['answer'] == 'red' else float(results[0] == doc['answer'])"
    (tmp_path / "own.py").write_text(
        f"def most(doc, results):\n    return {{'exact_match': {told}}}\n\n\n"
        "def none(doc, results):\n    return {'exact_match': float('inf') if results[0] else 0.0}\n"
    )
    names = []
    for name in ("most", "none"):
        file = task(tmp_path, name)
        file.write_text(file.read_text() + f"process_results: !function own.{name}\n")
        names.append({"lm_eval": str(file)})
    words = (f"evaluate.tasks={json.dumps(names)}", 'evaluate.fail_if=["none drops more than 0.1"]')
    with pytest.raises(ProofFailed, match="the gate failed") as failed:
        evaluate(blue, Wish(overrides=words), Stop(), silent, silent)
    assert failed.value.problems[0].why == "none drops more than 0.1: none has no figure"
    whole = json.loads(blue.evaluation.read_text())
    most, none = whole["tasks"]
    assert (most["items"], most["scores"]["tuned"]["value"], most["flips"]) == (11, 1.0, {"gained": 11, "lost": 0})
    assert (none["items"], none["scores"], none["pairs"]) == (0, {}, [])
    assert "most: 1 items of which a side has no figure are left out" in whole["notes"]
    assert "none: 12 items of which a side has no figure are left out" in whole["notes"]
    assert len(blue.evaluated_items.read_text().splitlines()) == 24, "each item is kept, with what was answered"


@pytest.mark.parametrize(
    ("more", "thinking", "error", "told"),
    [
        ({"repeats": 4}, False, RecipeError, "it asks for several answers to a question"),
        (
            {"output_type": "loglikelihood_rolling"},
            False,
            RecipeError,
            "bare text, which a chat model is not asked for",
        ),
        ({"output_type": "loglikelihood"}, True, RecipeError, "this run thinks before it answers"),
        ({"gen_prefix": "It is"}, True, RecipeError, "this would stand in its thought"),
        ({"unsafe_code": True}, False, RecipeError, "it runs what a model writes"),
        ({"doc_to_text": "{{nothing}}"}, False, RecipeError, "nothing"),
        ({"dataset_path": "acme/none"}, False, OutsideError, "acme/none"),
        ({"dataset_kwargs": {"data_files": {"test": "none.jsonl"}}}, False, OutsideError, "none.jsonl"),
        ({"metric_list": [{"metric": "brier_score"}]}, False, RecipeError, ""),
        ({"doc_to_image": ["question"]}, False, RecipeError, "it shows pictures or plays sounds"),
        ({"generation_kwargs": {"until": [5]}}, False, RecipeError, "until is [5]"),
        ({"generation_kwargs": {"max_gen_toks": "many"}}, False, RecipeError, "the most tokens are 'many'"),
        (
            {
                "output_type": "loglikelihood",
                "doc_to_target": "",
                "target_delimiter": "",
                "metric_list": [{"metric": "acc"}],
            },
            False,
            DataError,
            "an answer of no letters has no likelihood",
        ),
        (
            {"output_type": "loglikelihood", "metric_list": [{"metric": "perplexity"}]},
            False,
            RecipeError,
            "tells nothing",
        ),
        (
            {"filter_list": [{"name": "x", "filter": [{"function": "regex", "regex_pattern": "("}]}]},
            False,
            RecipeError,
            "",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_before_a_model_is(
    blue_run: Run, tmp_path: Path, more: dict[str, Any], thinking: bool, error: type[FinetuneError], told: str
) -> None:
    file, renderer = task(tmp_path, "odd", **more), open_tuned(blue_run).renderer
    with pytest.raises(error) as raised:
        read_benchmark(HarnessTask(lm_eval=str(file)), renderer, thinking, None, 4)
    assert told in raised.value.problems[0].why
    assert raised.value.problems[0].fix


def test_what_a_metric_does_over_a_set_and_which_way_is_better_is_asked_of_the_task(
    blue_run: Run, tmp_path: Path
) -> None:
    """A perplexity is no mean of its items; a figure that nobody declared is better in no direction that we know."""
    renderer, weighs = open_tuned(blue_run).renderer, {"output_type": "loglikelihood"}
    file = task(tmp_path, "both", **weighs, metric_list=[{"metric": "perplexity"}, {"metric": "acc"}])
    read = read_benchmark(HarnessTask(lm_eval=str(file)), renderer, False, None, 4)
    assert (read.metric, read.better) == ("acc", "higher")
    (tmp_path / "own.py").write_text("def score(doc, results):\n    return {'exact_match': 1.0, 'error_rate': 0.0}\n")
    file = task(tmp_path, "rates")
    file.write_text(file.read_text() + "process_results: !function own.score\n")
    with pytest.raises(RecipeError, match="is more of error_rate better, or less"):
        read_benchmark(HarnessTask(lm_eval=str(file), metric="error_rate"), renderer, False, None, 4)


def test_an_item_that_expects_none_of_its_choices_is_told(blue_run: Run, tmp_path: Path) -> None:
    choices = {"output_type": "multiple_choice", "doc_to_choice": ["blue", "green"], "metric_list": [{"metric": "acc"}]}
    file = task(tmp_path, "choices", **choices, generation_kwargs=None)
    read = read_benchmark(HarnessTask(lm_eval=str(file)), open_tuned(blue_run).renderer, False, None, 4)
    assert read.notes == ("choices: 1 items expect what is none of their choices; nobody can be right there",)
    assert [item.answerable for item in read.items] == [True] * 11 + [False]


def test_a_task_is_answered_as_long_as_it_says_whatever_stands_beside_it(blue: Run, tmp_path: Path) -> None:
    """Both ask the same prompts; ours allows two tokens, with which nothing is right, the harness's twelve."""
    rows = [{"prompt": f"colour {i}?", "completion": "blue"} for i in range(30, 36)]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = [{"score": "exact", "file": str(tmp_path / "asked.jsonl")}, {"lm_eval": str(task(tmp_path, "colours"))}]
    words = (f"evaluate.tasks={json.dumps(told)}",)
    ours, theirs = evaluate(blue, Wish(False, overrides=words, max_new_tokens=2), Stop(), silent, silent)["tasks"]
    assert (ours["scores"]["tuned"]["value"], theirs["scores"]["tuned"]["value"]) == (0, pytest.approx(11 / 12))


@pytest.mark.slow
def test_a_name_that_the_harness_does_not_know_is_told_with_the_nearest(blue_run: Run) -> None:
    """And one whose packages or rows are not here with what it takes."""
    renderer = open_tuned(blue_run).renderer
    with pytest.raises(RecipeError, match="the harness has no task gsmk8") as error:
        read_benchmark(HarnessTask(lm_eval="gsmk8"), renderer, False, None, 4)
    assert error.value.problems[0].fix.startswith("lm_eval: gsm")
    with pytest.raises(OutsideError, match="the rows of the task gsm8k cannot be had"):
        read_benchmark(HarnessTask(lm_eval="gsm8k"), renderer, False, None, 4)


def test_the_recipe_tells_a_benchmark_and_the_command_line_too(blue_run: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    start = "base: Qwen/Qwen3.6-27B\ndata: {train: r.jsonl}\nevaluate: {tasks: [loss, "
    recipe.write_text(start + "{lm_eval: t/mine.yaml, metric: acc, few_shot: 5}]}\n")
    told = load(recipe)
    mine = HarnessTask(lm_eval=str(tmp_path / "t" / "mine.yaml"), metric="acc", few_shot=5)
    assert wished(told, ("mine", "lm_eval:gsm8k")) == (mine, HarnessTask(lm_eval="gsm8k"))
    recipe.write_text(start + "{lm_eval: gsm8k, fewshot: 5}]}\n")
    with pytest.raises(RecipeError, match="has no key fewshot") as error:
        load(recipe)
    assert error.value.problems[0].fix == "few_shot: 5"

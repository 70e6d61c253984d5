"""Tasks of lm-evaluation-harness, asked by us and by the harness's own class for transformers: the same by item."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial.harness_task import MOST, write_task

from finetune.evaluate.benchmarks import Benchmark, Prompt, read_benchmark
from finetune.evaluate.sides import settings, sides_of
from finetune.generate import open_tuned
from finetune.plan import read_plan
from finetune.recipe import HarnessTask
from finetune.run import Run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def silent(tokens: int) -> None:
    """Takes what would be told to a user."""


RED = range(30, 42, 3)
"""Colours that the toy gets wrong."""


def choosing(folder: Path) -> Path:
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    choices = {"output_type": "multiple_choice", "doc_to_choice": ["blue", "red", "a long dark green"]}
    return write_task(folder, "choices", RED, metric_list=metrics, generation_kwargs=None, **choices)


def asked_by_us(run: Run, benchmark: Benchmark) -> tuple[list[float], list[str], list[float]]:
    """Gives the figures, the answers and the costs of the tuned model."""
    plan, tuned = read_plan(run.plan), open_tuned(run)
    (side,) = sides_of(run, plan, False, (), settings(tuned.renderer, False, MOST), None)
    answers = [each.text for each in side.answers([each.ids for each in benchmark.prompts], MOST, silent)]
    score = side.losses(benchmark.weighed, silent)
    costs = list(zip(score.losses, score.likeliest, strict=True))
    return benchmark.values(answers, costs), answers, list(score.losses)


def asked_by_the_harness(run: Run, base: Path, file: Path, few_shot: int) -> list[dict[str, Any]]:
    """Gives what the harness logs of each item."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    tuned = open_tuned(run)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = HFLM(pretrained=tuned.model, tokenizer=tokenizer, backend="causal", batch_size=1, enable_thinking=False)
    wishes = {"apply_chat_template": True, "fewshot_as_multiturn": True, "system_instruction": tuned.renderer.system}
    told = simple_evaluate(
        model, tasks=[str(file)], num_fewshot=few_shot, task_manager=TaskManager(include_defaults=False), **wishes
    )
    (samples,) = told["samples"].values()
    return sorted(samples, key=lambda each: int(each["doc_id"]))


@pytest.mark.parametrize("few_shot", [0, 2])
def test_answers_and_their_scores_are_the_harnesss_own(
    blue_run: Run, pico_base: Path, tmp_path: Path, few_shot: int
) -> None:
    file, tuned = write_task(tmp_path, "colours", RED), open_tuned(blue_run)
    wish = HarnessTask(lm_eval=str(file), few_shot=few_shot)
    benchmark = read_benchmark(wish, tuned.renderer, thinking=False, limit=None, most=1)
    values, answers, _ = asked_by_us(blue_run, benchmark)
    theirs = asked_by_the_harness(blue_run, pico_base, file, few_shot)
    decoded = [tuned.renderer.vocabulary.decode(each.ids) for each in benchmark.prompts]
    assert decoded == [each["arguments"][0][0] for each in theirs], "the same prompts"
    assert [answer.split("\n")[0] for answer in answers] == [each["resps"][0][0] for each in theirs]
    assert values == [each["exact_match"] for each in theirs]
    assert 0 < sum(values) < len(values) == 12
    assert {each.most for each in benchmark.prompts} == {MOST}


def test_likelihoods_and_choices_are_the_harnesss_own(blue_run: Run, pico_base: Path, tmp_path: Path) -> None:
    """Up to the line breaks at the end of a prompt, which its class counts as the beginning of each answer."""
    file, tuned = choosing(tmp_path), open_tuned(blue_run)
    benchmark = read_benchmark(HarnessTask(lm_eval=str(file)), tuned.renderer, thinking=False, limit=None, most=1)
    values, _, costs = asked_by_us(blue_run, benchmark)
    theirs = asked_by_the_harness(blue_run, pico_base, file, 0)
    assert values == [each["acc"] for each in theirs]
    assert 0 < sum(values) < len(values) == 12
    of_item = [costs[first : first + 3] for first in range(0, len(costs), 3)]
    ours = [first - each for first, *rest in of_item for each in rest]
    logged = [[float(told[0][0]) for told in each["resps"]] for each in theirs]
    assert ours == pytest.approx([each - first for first, *rest in logged for each in rest], abs=1e-4)
    breaks = [-first[0] - told[0] for first, told in zip(of_item, logged, strict=True)]
    assert min(breaks) > 1, "nats of the line breaks, which no answer of this model ever begins with"


def test_a_shipped_task_takes_rows_of_a_local_file(blue_run: Run, test_data: Path, tmp_path: Path) -> None:
    """Its filters find the number that an answer gives after ####, and the last one, each by its name."""
    shipped = files("lm_eval") / "tasks" / "gsm8k" / "gsm8k.yaml"
    rows = {
        "train": str(test_data / "general_gsm8k" / "test.jsonl"),
        "test": str(test_data / "general_gsm8k" / "test.jsonl"),
    }
    told = {"include": str(shipped), "task": "local_gsm8k", "dataset_path": "json", "dataset_name": None}
    (tmp_path / "local_gsm8k.yaml").write_text(yaml.safe_dump({**told, "dataset_kwargs": {"data_files": rows}}))
    renderer = open_tuned(blue_run).renderer

    def read(metric: str | None) -> Benchmark:
        wish = HarnessTask(lm_eval=str(tmp_path / "local_gsm8k.yaml"), metric=metric, few_shot=1)
        return read_benchmark(wish, renderer, thinking=False, limit=8, most=32)

    strict, flexible = read(None), read("exact_match,flexible-extract")
    assert (strict.told["metric"], flexible.told["metric"]) == (
        "exact_match,strict-match",
        "exact_match,flexible-extract",
    )
    right = [item.expected.rpartition("#### ")[2] for item in strict.items]
    assert strict.values([f"So it is. #### {each}" for each in right], []) == [1] * 8
    assert strict.values([f"The answer is {each}" for each in right], []) == [0] * 8
    assert flexible.values([f"The answer is {each}" for each in right], []) == [1] * 8
    assert strict.values([f"#### {each}\n\nQuestion: #### 1" for each in right], []) == [1] * 8, "cut where it ends"
    assert [item.sha256 for item in strict.items] == [item.sha256 for item in read(None).items], "the same draw"
    assert all(isinstance(each, Prompt) and each.until for item in strict.items for each in item.requests)
    assert "user" in renderer.vocabulary.decode(strict.prompts[0].ids), "with the run's own template"

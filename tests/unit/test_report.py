"""A report says what its run's files say, names what is missing, and lets no text of theirs be markup."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_run import HOSTILE, begun, evaluated, evaluation, harness_task, items, stage, task, trained
from typer.testing import CliRunner

from finetune.cli.app import app
from finetune.errors import ArtifactError
from finetune.report import report
from finetune.report.drawing import CURVE_WIDTH, FOREST_WIDTH, axis, forest_scale, forest_ticks, loss_curve, mark
from finetune.report.evaluation import words
from finetune.report.telling import chance, named, percent, signed
from finetune.run import Run, atomic
from finetune.statistics import Interval

GATED = "Not to be shipped as it is: 1 of 1 rule failed."


def text_of(run: Run) -> str:
    """The page's words as a reader sees them, its spaces evened out."""
    page = re.sub(r"<style>.*?</style>", "", run.report.read_text(), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def test_an_evaluated_run_is_told_in_a_sentence_with_how_far_it_goes(tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    told = report(run, run.report)
    assert told["verdict"] == {
        "kind": "better",
        "sentence": "Better on 2 of 2 domain tasks; no evidence of harm on 1 regression task.",
        "beneath": "A harm of less than 5.0 points on general may have gone unseen.",
    }
    assert [(row["task"], row["before"], row["after"], row["difference"]) for row in told["tasks"]] == [
        ("answers", "25.0 %", "75.0 %", "+50.0 points"),
        ("held_out loss", "2.000", "1.000", "−1.000 nats a token"),
        ("general", "80.0 %", "79.0 %", "−1.0 points"),
    ]
    assert told["missing"] == {"ledger": f"finetune ledger {run.path}"}
    text = text_of(run)
    for part in (
        "−1.250 to −0.750",
        "shows changes over 12.5 points",
        "20 gained, 2 lost, of 40",
        "p = 0.25",
        "greedy",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("regression", "failed", "kind", "sentence"),
    [
        ("better", [], "better", "Better on 2 of 2 domain tasks; no harm seen on 1 regression task."),
        ("worse", [], "mixed", "Better on 2 of 2 domain tasks; worse on 1 of 1 regression task (general)."),
        ("worse", ["a rule: one", "a rule: two"], "worse", GATED),
        ("no evidence", ["a rule"], "worse", GATED),
    ],
)
def test_harm_is_in_the_sentence_and_a_failed_gate_before_all(
    regression: str, failed: list[str], kind: str, sentence: str, tmp_path: Path
) -> None:
    tasks = evaluation()["tasks"]
    tasks[2]["pairs"][0]["verdict"] = regression
    run = evaluated(tmp_path, tasks=tasks, gate={"rules": ["a rule"], "failed": failed})
    verdict = report(run, run.report)["verdict"]
    assert (verdict["kind"], verdict["sentence"]) == (kind, sentence)
    assert text_of(run).count("FAIL") == 1 + bool(failed)


def test_without_a_regression_set_it_says_that_nothing_watched(tmp_path: Path) -> None:
    worse = [task("answers", "exact", "domain", (0.5, 0.2), (-0.3, -0.4, -0.2), "worse")]
    run = evaluated(tmp_path, tasks=worse)
    verdict = report(run, run.report)["verdict"]
    assert (verdict["kind"], verdict["sentence"]) == ("worse", "Worse on 1 of 1 domain task (answers).")
    assert verdict["beneath"].startswith("Nothing watched for harm")


@pytest.mark.parametrize("verdict", ["better", "worse", "no evidence"])
def test_a_gate_that_was_not_asked_in_full_is_not_told_as_passed(verdict: str, tmp_path: Path) -> None:
    tasks = evaluation()["tasks"]
    tasks[2]["pairs"][0]["verdict"] = verdict
    gate = {"rules": ["a rule"], "failed": [], "not_asked": ["general drops", "b & c"]}
    run = evaluated(tmp_path, tasks=tasks, gate=gate)
    told = report(run, run.report)
    assert told["verdict"]["kind"] == "mixed"
    unasked = "2 rules of the recipe's gate were not asked: general drops; b & c."
    assert told["verdict"]["sentence"].startswith(f"Not judged in full: {unasked} Better on 2 of 2")
    assert text_of(run).count("not asked general drops") == 1
    assert told["gate"]["not_asked"] == ("general drops", "b & c")


def test_a_failed_gate_tells_what_was_not_asked_beneath(tmp_path: Path) -> None:
    run = evaluated(tmp_path, gate={"rules": ["a", "b"], "failed": ["a: 1"], "not_asked": ["c"]})
    verdict = report(run, run.report)["verdict"]
    assert verdict["sentence"] == "Not to be shipped as it is: 1 of 2 rules failed."
    assert verdict["beneath"].startswith("1 rule of the recipe's gate was not asked: c. Better on 2 of 2")


def test_a_set_of_which_the_base_gets_nothing_right_watches_for_no_harm(tmp_path: Path) -> None:
    tasks = evaluation()["tasks"]
    tasks[2] = task("general", "choice", "regression", (0.0, 0.0), (0.0, -0.05, 0.05), "no evidence", flips=(0, 0))
    run = evaluated(tmp_path, tasks=tasks)
    verdict = report(run, run.report)["verdict"]
    assert verdict["sentence"] == (
        "Better on 2 of 2 domain tasks; general cannot show harm, as the base answers none of it right."
    )
    assert verdict["beneath"] == "Nothing watched for harm: no regression set that was asked can show it."
    assert "the base answers none of it right: it cannot show harm" in text_of(run)


def test_the_same_answers_counted_by_two_tasks_count_once(tmp_path: Path) -> None:
    tasks = evaluation()["tasks"]
    tasks.insert(1, tasks[0] | {"name": "again", "kind": "choice", "majority": {"label": "a <b>", "share": 0.5}})
    run = evaluated(tmp_path, tasks=tasks, also=[item | {"task": "again"} for item in items()])
    told = report(run, run.report)
    assert told["verdict"]["sentence"].startswith("Better on 2 of 2 domain tasks")
    assert [row["same_as"] for row in told["tasks"]] == [None, "answers", None, None]
    text = text_of(run)
    assert "again 40 items the same answers as answers always saying “a &lt;b&gt;” 50.0 %" in text
    assert "again · the same answers as answers" in text
    assert run.report.read_text().count('<details class="flip">') == 2 + 12


def test_as_many_right_answers_of_other_items_are_not_the_same_answers(tmp_path: Path) -> None:
    tasks = evaluation()["tasks"]
    tasks.insert(1, tasks[0] | {"name": "again"})
    others = [{**item, "task": "again", "item": 39 - item["item"]} for item in items()]
    run = evaluated(tmp_path, tasks=tasks, also=others)
    assert report(run, run.report)["verdict"]["sentence"].startswith("Better on 3 of 3 domain tasks")


def test_one_answer_to_everything_stands_beside_the_score_that_does_not_beat_it(tmp_path: Path) -> None:
    tasks = evaluation()["tasks"]
    tasks[0]["majority"] = {"label": "yes", "share": 0.75}
    run = evaluated(tmp_path, tasks=tasks)
    beneath = report(run, run.report)["verdict"]["beneath"]
    assert beneath.startswith("answers: tuned is not shown to beat always saying 'yes' (75.0 %).")
    assert "always saying “yes” 75.0 %" in text_of(run)


def test_what_quantising_cost_is_told_by_its_size_and_not_in_red(tmp_path: Path) -> None:
    tasks = evaluation()["tasks"]
    form = "gguf/x-q4.gguf"
    tasks[1]["scores"][form] = {"value": 1.0002, "low": 0.9, "high": 1.1}
    change = {"value": 0.0002, "low": 0.0001, "high": 0.0003}
    pair = {"one": "tuned", "other": form, "difference": change, "verdict": "worse", "sees": 0.0001}
    tasks[2]["scores"][form] = {"value": 0.55, "low": 0.5, "high": 0.6}
    tasks[1]["pairs"].append(pair)
    harm = {"value": -0.25, "low": -0.4, "high": -0.1}
    tasks[2]["pairs"].append({**pair, "one": "base", "difference": harm})
    run = evaluated(tmp_path, tasks=tasks)
    verdict = report(run, run.report)["verdict"]
    assert verdict["beneath"].endswith(
        "What quantising cost x-q4.gguf: on held_out loss 0.0002 nats a token, 0.02 % of the tuning's effect. "
        "x-q4.gguf is worse than the base on general, and the tuned model is not."
    )
    assert "tuned → x-q4.gguf" in text_of(run)
    assert run.report.read_text().count('<span class="chip ">▼ worse</span>') == 1


def test_a_task_of_the_harness_is_told_with_its_metric_and_its_examples(tmp_path: Path) -> None:
    perplexity = harness_task("wikitext", (12.5, 15.25), (2.75, 1.5, 4.0), few_shot=[0], better="lower")
    right = harness_task("gsm8k", (0.5, 0.25), (-0.25, -0.5, -0.1), flips={"gained": 0, "lost": 10})
    rouge = harness_task("rouge", (0.5, 0.25), (-0.25, -0.5, -0.1), few_shot=[0, 5], hub={"dataset": "a/b"})
    empty = harness_task("empty", None, None)
    run = evaluated(tmp_path, tasks=[*evaluation()["tasks"], perplexity, right, rouge, empty])
    told = report(run, run.report)
    assert [(row["task"], row["before"], row["difference"]) for row in told["tasks"][3:]] == [
        ("wikitext", "12.500", "+2.750 figure"),
        ("gsm8k", "50.0 %", "−25.0 points"),
        ("rouge", "0.500", "−0.250 figure"),
    ]
    assert "worse on 3 of 4 regression tasks (wikitext, gsm8k, rouge)" in told["verdict"]["sentence"]
    assert told["verdict"]["beneath"].startswith("empty tells nothing: no item of it had a figure.")
    text = text_of(run)
    for part in (
        "figure of lm_eval 0.4.13, no example before the question version 2",
        "figure of lm_eval 0.4.13, 5 examples before the question version 2",
        "figure of lm_eval 0.4.13, 0 or 5 examples before the question version 2 · a/b",
        "empty 0 items figure of lm_eval 0.4.13, 5 examples before the question version 2 no item of it had a figure",
    ):
        assert part in text


def test_an_answer_that_was_weighed_is_not_told_as_none(tmp_path: Path) -> None:
    weighed = items()
    for item in weighed:
        for side in item["sides"].values():
            side["answer"] = None
    weighed[0]["sides"]["gguf/x.gguf"] = {"answer": None, "score": None}
    tasks = [harness_task("weighed", (0.25, 0.75), (0.5, 0.3, 0.7), flips={"gained": 19, "lost": 2})]
    run = evaluated(tmp_path, tasks=tasks, also=[item | {"task": "weighed"} for item in weighed])
    report(run, run.report)
    text = text_of(run)
    assert "chosen by likelihood" in text
    assert "19 gained, 2 lost" in text, "an item without a figure of every side is left out"
    assert "no answer" not in text


def test_what_was_not_made_yet_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    run = trained(tmp_path / "a")
    told = report(run, run.report)
    assert told["verdict"]["sentence"] == "Held-out loss fell, from 2.000 to 1.000 nats a token."
    assert told["missing"].keys() == {"evaluation", "ledger"}
    text = text_of(run)
    assert "finetune evaluate runs/legal-0001 " in text
    assert "finetune ledger runs/legal-0001 " in text
    assert "answers that begin alike: 6 of 8" in text
    assert "from train" in text
    run = begun(tmp_path / "b")
    assert report(run, run.report)["missing"]["training"] == f"finetune train --resume {run.path}"
    assert "The training is not finished." in text_of(run)


def test_plan_and_measure_stand_side_by_side(tmp_path: Path) -> None:
    run = trained(tmp_path)
    report(run, run.report)
    text = text_of(run)
    assert "peak of the tensors on the GPU 4.00 GiB 3.00 GiB × 0.75" in text
    assert "4 s ×" in text, "the median of 3, 5 and 4 seconds"
    assert "too long, left out 4, 4%" in text
    assert "90 rows learnt from 10 rows held out 20,000 tokens an epoch 25% of them learnt" in text


def test_no_text_of_the_run_becomes_markup_and_what_hides_is_spelt_out(tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    report(run, run.report)
    page = run.report.read_text()
    assert "<script" not in page
    assert page.count("</style>") == 1
    assert "default-src 'none'" in html.unescape(page)
    assert not re.search(r'(src|href)="(?!#)', page), "nothing is fetched"
    said = re.findall(r'<pre class="said[^>]*>(.*?)</pre>', page, flags=re.DOTALL)
    assert any("&lt;script&gt;alert(1)&lt;/script&gt;\\u202e" in each for each in said)
    assert HOSTILE[-1] not in page


def test_flips_are_all_counted_and_twelve_of_a_kind_shown(tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    report(run, run.report)
    page = run.report.read_text()
    assert page.count('<details class="flip">') == 2 + 12
    assert page.index(">lost<") < page.index(">gained<")
    assert "and 8 more; all of them are in eval/items.jsonl" in text_of(run)


def _not_json(run: Run) -> None:
    run.evaluation.write_text("{")


def _a_field_is_gone(run: Run) -> None:
    told = evaluation()
    del told["tasks"][1]["better"]
    atomic.write_json(run.evaluation, told)


def _another_format(run: Run) -> None:
    atomic.write_json(run.evaluation, evaluation() | {"format": 2})


def _a_torn_item(run: Run) -> None:
    with run.evaluated_items.open("a") as file:
        file.write('{"task": "answers"\n')


def _a_ledger_of_nothing(run: Run) -> None:
    run.ledger.write_text("{}")


@pytest.mark.parametrize(
    ("harm", "where", "why"),
    [
        (_not_json, "evaluation.json", "Invalid JSON"),
        (_a_field_is_gone, "evaluation.json  tasks.1.better", "Field required"),
        (_another_format, "evaluation.json  format", "Input should be 1"),
        (_a_torn_item, "items.jsonl:41", "Invalid JSON"),
        (_a_ledger_of_nothing, "ledger.json  examples", "Field required"),
    ],
)
def test_a_damaged_file_is_named_with_its_place(
    harm: Callable[[Run], None], where: str, why: str, tmp_path: Path
) -> None:
    run = evaluated(tmp_path)
    told = json.loads(run.manifest.read_text())
    told["stages"].pop()  # so that no hash is told of these files
    atomic.write_json(run.manifest, told)
    harm(run)
    with pytest.raises(ArtifactError, match=why) as caught:
        report(run, run.report)
    assert where in caught.value.problems[0].where
    assert not run.report.exists()


def test_an_evaluation_that_is_not_the_one_that_was_proven_is_refused(tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    run.evaluation.write_text(run.evaluation.read_text().replace('"better"', '"worse"'))
    with pytest.raises(ArtifactError, match="not the one that was proven") as caught:
        report(run, run.report)
    assert caught.value.problems[0].fix == f"finetune evaluate {run.path}"


def test_marks_lie_where_the_figures_say_and_better_is_right() -> None:
    fall = Interval(-0.5, -1.0, 0.0)
    scale = forest_scale([(fall, 0.25)])
    middle, reach = FOREST_WIDTH / 2, FOREST_WIDTH / 2 - 10
    found = mark(fall, 0.25, scale, turned=True)
    assert (found.low, found.value, found.high) == pytest.approx(
        (middle, middle + reach / 2.1, middle + reach / 1.05), abs=0.1
    )
    assert found.unseen == pytest.approx((middle - reach / 4.2, middle + reach / 4.2), abs=0.1)
    assert mark(fall, None, scale, turned=False).high == middle
    assert [tick.label for tick in forest_ticks(scale, 100)] == ["100", "50", "0", "50", "100"]
    assert forest_scale([]).high == 1.0


def test_an_axis_has_round_numbers_around_all_it_holds() -> None:
    assert [tick.label for tick in axis(0.13, 7.8, 0, 100)[1]] == ["0", "2", "4", "6", "8"]
    assert axis(1.0, 1.0, 0, 100)[1][0].label == "1"
    assert [tick.label for tick in axis(-0.2, 0.2, 0, 100)[1]] == ["−0.2", "−0.1", "0", "0.1", "0.2"]


def test_a_long_curve_is_thinned_and_a_figure_that_is_not_finite_left_out() -> None:
    records: list[dict[str, Any]] = [{"step": step, "loss": 1.0} for step in range(1, 2001)]
    found = loss_curve([*records, {"step": 5, "loss": float("inf")}, {"step": 0, "held_out_loss": 2.0}], 2000)
    assert found is not None
    assert "held" not in found, "held-out losses are points, and nothing joins them"
    assert found["train"].count("L") == 499
    assert found["thinned"] == 4
    assert [point["x"] for point in found["points"]] == [46.0]
    assert max(tick.at for tick in found["x_ticks"]) <= CURVE_WIDTH
    assert loss_curve([], 10) is None
    assert loss_curve([{"step": 1, "loss": float("nan")}], 10) is None


def test_a_number_that_rounds_to_nothing_has_both_signs() -> None:
    assert [signed(told) for told in ("0.0", "-0.0", "1.5", "-1.5")] == ["±0.0", "±0.0", "+1.5", "−1.5"]


def test_a_share_has_as_many_decimals_as_tell_it_from_nothing_and_from_all() -> None:
    shares = (0.9998292, 0.99989, 1.0, 0.0, 0.00012, 0.783, 1.0002, -0.0001, 1e-17, 1 - 1e-9)
    told = ["99.98 %", "99.99 %", "100.0 %", "0.0 %", "0.01 %", "78.3 %", "100.02 %", "−0.01 %", "0.0 %", "100.0 %"]
    assert [percent(share) for share in shares] == told


def test_inputs_of_a_stage_are_written_as_one_would(tmp_path: Path) -> None:
    digest = "2de613af" * 8
    assert named(digest) == digest[:20]
    assert named({"held_out loss": digest, "exact": "ab" * 32}) == "held_out loss 2de613af, exact abababab"
    assert named({"scored": 1500, "of": [1, True, None], "part": {"a": "b"}}) == (
        "scored 1,500, of (1, yes, none), part (a b)"
    )
    assert named("a text that is longer than twenty letters") == "a text that is longer than twenty letters"
    run = trained(tmp_path)
    stage(run, "export", {"items": {"held_out loss": digest}, "merged": "runs/legal-0001/merged"}, {}, [])
    report(run, run.report)
    assert "in items held_out loss 2de613af" in text_of(run)
    assert "in merged runs/legal-0001/merged" in text_of(run)


def test_the_command_prints_a_table_and_last_the_page(tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    done = CliRunner().invoke(app, ["report", str(run.path)])
    lines = done.stdout.splitlines()
    assert lines[0].startswith("legal-0001: Better on 2 of 2 domain tasks")
    assert any(line.split()[:4] == ["answers", "40", "25.0", "%"] for line in lines)
    assert lines[-1] == str(run.report)
    other = tmp_path / "other.html"
    done = CliRunner().invoke(app, ["report", str(run.path), "--out", str(other), "--json"])
    assert json.loads(done.stdout)["report"] == str(other)
    assert other.is_file()


def test_a_report_is_made_without_torch(tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    heavy = "{'torch', 'transformers', 'datasets', 'peft', 'matplotlib', 'pandas', 'pyarrow'}"
    script = f"import sys; from finetune.cli.app import app; app(['report', {str(run.path)!r}], standalone_mode=False)"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; print('imported', sorted({heavy} & set(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "imported []"


def test_a_p_is_told_beside_what_it_is_among_many_and_turns_one_under_the_other() -> None:
    assert chance(0.0004, None) == "p < 0.001"
    assert chance(0.02, 0.06) == "p = 0.020, of all tasks p = 0.060"
    assert chance(0.5, 0.5) == "p = 0.50"
    assert chance(None, None) == ""
    assert words([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ["x"]}]) == (
        'user: Hi\n\nassistant: [\n "x"\n]'
    )

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
from report_run import HOSTILE, begun, evaluated, evaluation, task, trained
from typer.testing import CliRunner

from finetune.cli.app import app
from finetune.errors import ArtifactError
from finetune.report import report
from finetune.report.drawing import CURVE_WIDTH, FOREST_WIDTH, axis, forest_scale, forest_ticks, loss_curve, mark
from finetune.report.evaluation import words
from finetune.report.telling import chance, signed
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


def test_another_form_that_is_worse_than_the_tuned_model_is_named(tmp_path: Path) -> None:
    tasks = evaluation()["tasks"]
    tasks[0]["scores"]["gguf/x-q4.gguf"] = {"value": 0.5, "low": 0.4, "high": 0.6}
    change = {"value": -0.25, "low": -0.4, "high": -0.1}
    pair = {"one": "tuned", "other": "gguf/x-q4.gguf", "difference": change, "verdict": "worse", "sees": 0.1}
    tasks[0]["pairs"].append(pair)
    run = evaluated(tmp_path, tasks=tasks)
    assert report(run, run.report)["verdict"]["beneath"].endswith("x-q4.gguf is worse than the tuned model on answers.")
    assert "tuned → x-q4.gguf" in text_of(run)


def test_what_was_not_made_yet_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    run = trained(tmp_path / "a")
    told = report(run, run.report)
    assert told["verdict"]["sentence"] == "Held-out loss fell, from 2.000 to 1.000 nats a token."
    assert told["missing"].keys() == {"evaluation", "ledger"}
    text = text_of(run)
    assert f"finetune evaluate {run.path}" in text
    assert f"finetune ledger {run.path}" in text
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
        (_a_ledger_of_nothing, "ledger.json", "lacks steps"),
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
    assert found["train"].count("L") == 499
    assert found["thinned"] == 4
    assert [point["x"] for point in found["points"]] == [46.0]
    assert max(tick.at for tick in found["x_ticks"]) <= CURVE_WIDTH
    assert loss_curve([], 10) is None
    assert loss_curve([{"step": 1, "loss": float("nan")}], 10) is None


def test_a_number_that_rounds_to_nothing_has_both_signs() -> None:
    assert [signed(told) for told in ("0.0", "-0.0", "1.5", "-1.5")] == ["±0.0", "±0.0", "+1.5", "−1.5"]


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

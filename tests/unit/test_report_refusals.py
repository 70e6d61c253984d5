"""A report takes nobody's file, tells nobody's machine, and of a damaged run where the damage is."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import platform
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from report_run import evaluated, items, trained, whole
from typer.testing import CliRunner

from finetune.cli.app import app
from finetune.cli.carding import BILL, CARD
from finetune.cli.targets import check_made
from finetune.errors import ArtifactError, FinetuneError, RecipeError
from finetune.report import MARK, report, written
from finetune.report.places import Places, places_of
from finetune.run import Run, atomic

ODD = (
    *(float("nan"), float("inf"), 1e308, -1e308, 10**400, 10**40, -1, 0, 1e-320, True),
    *("x", "", "\ud800", None, [], {}, [1], {"a": 1}),
)

MUTATIONS = 8
"""Of each file."""


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields where anything lies in a value."""
    if place:
        yield place
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(each, (*place, key))


def mutated(value: Any, place: tuple[Any, ...], *odd: Any) -> Any:
    """Puts something odd in a place; without it, nothing stays there."""
    value = copy.deepcopy(value)
    holder = value
    for key in place[:-1]:
        holder = holder[key]
    if odd:
        holder[place[-1]] = odd[0]
    else:
        del holder[place[-1]]
    return value


def as_lines(value: Any) -> str:
    return "".join(json.dumps(line) + "\n" for line in value)


def files(run: Run) -> dict[Path, tuple[Any, Any]]:
    """Gives of each file of a run what is in it, and how that is written."""
    of_json = (run.evaluation, run.ledger, run.router, run.manifest, run.plan)
    return {
        **{file: (json.loads(file.read_text()), json.dumps) for file in of_json},
        run.metrics: ([json.loads(line) for line in run.metrics.read_text().splitlines()], as_lines),
        run.evaluated_items: (items()[:2], as_lines),
        run.recipe: (yaml.safe_load(run.recipe.read_text()), yaml.safe_dump),
    }


def test_whatever_one_value_of_a_file_is_the_page_is_made_or_the_damage_told(tmp_path: Path) -> None:
    run, drawn, told = whole(tmp_path), random.Random(0), []
    written(run)
    for file, (value, write) in files(run).items():
        before = file.read_bytes()
        every = list(places(value))
        for _ in range(MUTATIONS):
            place, odd = drawn.choice(every), drawn.choice([(), *((each,) for each in ODD)])
            file.write_bytes(write(mutated(value, place, *odd)).encode("utf-8", "surrogatepass"))
            try:
                written(run)[1].encode()
            except FinetuneError as error:
                told.append((file.name, place, odd, error.problems))
        file.write_bytes(before)
    written(run)
    assert len(told) > 3 * MUTATIONS
    assert [each for each in told if not all(problem.where and problem.fix for problem in each[-1])] == []


@pytest.mark.parametrize(
    ("name", "place", "odd", "where", "why"),
    [
        (
            "evaluation",
            ("tasks", 0, "pairs", 0, "difference", "high"),
            1e308,
            "tasks.0.pairs.0.difference.high",
            "fini",
        ),
        ("evaluation", ("tasks", 0, "scores"), {}, "tasks.0.pairs.0", "it compares base, of which there is no score"),
        ("evaluation", ("tasks", 0, "pairs", 0, "verdict"), "good", "tasks.0.pairs.0.verdict", "Input should be"),
        ("evaluation", ("tasks", 0, "pairs", 0, "p"), float("nan"), "tasks.0.pairs.0.p", ""),
        ("evaluation", ("tasks", 1, "items"), "many", "tasks.1.items", "valid integer"),
        ("ledger", ("steps",), [], "steps", "none has a loss"),
        ("ledger", ("steps", 1, "loss", "low"), float("nan"), "steps.1.loss.low", "not finite"),
        ("ledger", ("steps", 1, "from_trained"), None, "steps.1", "not how far from the trained model's"),
        ("ledger", ("steps", 1, "loss"), None, "steps.1", "no word why"),
        ("router", ("layers",), [], "layers", "at least 1"),
        ("manifest", ("data", "rows"), "many", "data.rows", "valid integer"),
        ("manifest", ("stages", 0, "seconds"), float("nan"), "stages.0.seconds", ""),
        ("plan", ("step_seconds",), float("inf"), "step_seconds", "not finite"),
    ],
)
def test_a_value_that_no_command_writes_is_named(
    name: str, place: tuple[Any, ...], odd: Any, where: str, why: str, tmp_path: Path
) -> None:
    run = whole(tmp_path)
    file = {"evaluation": run.evaluation, "ledger": run.ledger, "router": run.router, "plan": run.plan}.get(name)
    file = file or run.manifest
    file.write_text(json.dumps(mutated(json.loads(file.read_text()), place, odd)))
    with pytest.raises(ArtifactError) as caught:
        report(run, run.report)
    problem = caught.value.problems[0]
    assert problem.where == f"{file}  {where}"
    assert why in problem.why
    assert "finetune " in problem.fix, "the command that makes it again"
    assert not run.report.exists()


def test_a_page_names_no_place_of_the_machine_that_it_was_made_on(tmp_path: Path) -> None:
    rows, home = tmp_path / "my rows" / "legal rows.jsonl", Path.home()
    notes = [f"{rows}:3 was cut", f"{home}/.cache/x kept; see https://a.org/b/c.", "3 / 4 of /opt/models/Qwen3.6/x"]
    run = evaluated(tmp_path, notes=notes, sides={"base": {"what": str(home / "base")}, "tuned": {"what": "../../x"}})
    wishes = yaml.safe_load(run.recipe.read_text())
    wishes["base_path"] = os.path.relpath(tmp_path / "bases of mine" / "Qwen", run.path)
    wishes["data"]["train"] = str(rows)
    run.recipe.write_text(yaml.safe_dump(wishes, width=1000))
    told = report(Run(run.path.absolute()), run.report)
    page = run.report.read_text()
    for part in (str(tmp_path), tmp_path.name, str(home), "/opt", "../", "bases of mine", "my rows", "cache"):
        assert part not in page
    for part in ("legal rows.jsonl:3 was cut", "x kept; see https://a.org/b/c.", "3 / 4 of x", "base_path: Qwen"):
        assert part in page
    assert "finetune ledger runs/legal-0001<" in page
    assert told["missing"] == {"ledger": f"finetune ledger {run.path}"}, "who makes it here copies it as it is"


def test_what_was_asked_and_answered_is_shown_as_it_was(tmp_path: Path) -> None:
    asked = [{**items()[20], "prompt": "what is in /usr/share/dict/words?"}]
    run = evaluated(tmp_path, also=asked)
    report(run, run.report)
    assert "/usr/share/dict/words" in run.report.read_text()


def test_names_of_user_and_host_are_left_out_where_they_stand_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", "/home/carolina")
    monkeypatch.setattr(platform, "node", lambda: "gpu-box-7")
    found = places_of(trained(tmp_path))
    told = "by carolina on gpu-box-7, of carolina/rows and carolina-small, in ~/x/y"
    assert found.without(told) == "by … on …, of carolina/rows and carolina-small, in y"
    assert replace(found, names=None).without("/home/carolina, a/home/carolina") == "~, a/home/carolina"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/a/b/c.jsonl:12  loss", "c.jsonl:12  loss"),
        ("rows:/mnt/x/y", "rows:y"),
        ("'../../x y/z'", "'x y/z'"),
        (r"C:\Users\me\rows.jsonl", "rows.jsonl"),
        ("file:///home/me/x.html", "x.html"),
        ("and/or, 3/4, https://a.org/b/c, owner/name, ./here/x, runs/a/b", None),
        ("/no_think", None),
        ("../..", "…"),
    ],
)
def test_of_a_path_its_last_part_is_told(text: str, told: str | None) -> None:
    assert Places((), None).without(text) == (text if told is None else told)


def test_a_page_says_of_which_evaluation_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for run in (evaluated(tmp_path / "a"), trained(tmp_path / "b")):
        report(run, run.report)
        digest = hashlib.sha256(run.evaluation.read_bytes()).hexdigest() if run.evaluation.exists() else ""
        head = run.report.read_text().partition("<style>")[0]
        assert (
            f'<meta name="finetune-run" content="legal-0001">\n<meta name="finetune-evaluation" content="{digest}">'
            in head
        )


@pytest.mark.parametrize("name", ["manifest.json", "recipe.yaml", "ledger.json", "eval", "eval/evaluation.json"])
def test_a_page_takes_the_place_of_no_file_of_the_run(name: str, tmp_path: Path) -> None:
    run = evaluated(tmp_path)
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    done = CliRunner().invoke(app, ["report", str(run.path), "--out", str(run.path / name)])
    assert isinstance(done.exception, RecipeError)
    assert done.exception.problems[0].where == f"--out {run.path / name}"
    assert {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()} == before


def test_a_page_is_written_over_a_page_and_over_nothing_else(tmp_path: Path) -> None:
    run, page, mine, link = evaluated(tmp_path), tmp_path / "x.html", tmp_path / "mine.html", tmp_path / "link.html"
    mine.write_text("<p>mine")
    link.symlink_to(mine)
    for _ in range(2):
        for out in ([], ["--out", str(page)], ["--out", str(run.path / "second.html")]):
            assert CliRunner().invoke(app, ["report", str(run.path), *out]).exit_code == 0
    for out in (mine, link):
        done = CliRunner().invoke(app, ["report", str(run.path), "--out", str(out)])
        assert isinstance(done.exception, RecipeError)
        assert done.exception.problems[0].fix == "--out another.html"
    assert mine.read_text() == "<p>mine"
    assert link.is_symlink()
    for device in ("/dev/full", "/dev/null"):
        with pytest.raises(RecipeError, match="not a regular file"):
            check_made("--out", Path(device), run, MARK)


def test_a_page_for_standard_output_is_printed(tmp_path: Path) -> None:
    run, taken = evaluated(tmp_path), tmp_path / "taken.html"
    script = f"from finetune.cli.app import app; app(['report', {str(run.path)!r}, '--out', '/dev/stdout'])"
    with taken.open("wb") as out:
        done = subprocess.run([sys.executable, "-c", script], stdout=out, stderr=subprocess.PIPE, text=True, check=True)
    assert os.path.islink("/dev/stdout")
    assert taken.read_text() == written(run)[1]
    assert done.stderr.startswith("legal-0001: Better on 2 of 2")


def test_a_card_is_written_over_a_card_and_over_no_file_of_the_run(tmp_path: Path) -> None:
    run, card = trained(tmp_path), tmp_path / "README.md"
    check_made("--out", card, run, CARD)
    card.write_text(f"---\nlicense: mit\n---\n\n{CARD}base `ab`.\n")
    check_made("--out", card, run, CARD)
    for file in (run.recipe, run.manifest, run.report, run.ledger, run.adapter, run.lock):
        with pytest.raises(RecipeError, match="the place of what is read"):
            check_made("--out", file, run, CARD)
    with pytest.raises(RecipeError, match="somebody else's"):
        check_made("--bom", card, run, BILL)


def test_the_table_folds_the_same_answers_and_tells_what_was_not_asked(tmp_path: Path) -> None:
    run = whole(tmp_path)
    told = json.loads(run.evaluation.read_text())
    told["tasks"].insert(1, told["tasks"][0] | {"name": "again", "kind": "choice"})
    told["gate"] = {"rules": ["a"], "failed": ["a: 1"], "not_asked": ["general drops"]}
    atomic.write_json(run.evaluation, told)
    run.evaluated_items.write_text(as_lines([*items(), *(item | {"task": "again"} for item in items())]))
    lines = CliRunner().invoke(app, ["report", str(run.path)]).stdout.splitlines()
    folded = next(line for line in lines if line.startswith("again"))
    assert folded.split() == ["again", "40", "the", "same", "answers", "as", "answers"]
    assert [line for line in lines if line.startswith("gate")] == ["gate failed: a: 1", "gate not asked: general drops"]

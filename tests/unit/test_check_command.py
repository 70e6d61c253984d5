"""`finetune data check` through the command line: exit codes, report, page, JSON. No torch."""

from __future__ import annotations

import html.parser
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lensing import make_base

from finetune.check.pictures import ticks
from finetune.check.similar import NAMED

PLAIN = [{"prompt": f"What is item {i} called?", "completion": f"It is called thing {i * 7}."} for i in range(60)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Makes a base of a byte tokenizer, Qwen3.6's template and no weights, and a recipe of it."""
    base = tmp_path / "base"
    base.mkdir()
    make_base(base)
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (tmp_path / "recipe.yaml").write_text("base: ./base\ndata: {train: rows.jsonl, eval: 0.1, max_length: 200}\n")
    return tmp_path


def run(folder: Path, rows: list[dict[str, Any]] | str, *words: str) -> subprocess.CompletedProcess[str]:
    text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text)
    program = "import sys; from finetune.cli import main; sys.argv[0] = 'finetune'\ntry: main()\nfinally: " + (
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, "data", "check", "recipe.yaml", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_good_rows_give_nothing_but_figures(folder: Path) -> None:
    done = run(folder, PLAIN, "--quiet")
    assert (done.returncode, done.stderr) == (0, "False\n")
    assert done.stdout.splitlines()[-1] == "nothing found"
    assert "rows       54 to learn, 6 held out" in done.stdout


def test_warnings_leave_the_exit_code_alone_and_all_stand_in_the_report(folder: Path) -> None:
    rows = [*PLAIN, *({"prompt": f"Mail {i}?", "completion": f"x{i}y@siemens.de"} for i in range(9))]
    done = run(folder, rows, "--report", "problems.jsonl")
    assert done.returncode == 0
    assert "warning: e-mail addresses  [personal-email: 9]" in done.stdout
    assert done.stdout.count("this looks like an e-mail address") == 3
    assert "  and 6 more" in done.stdout.splitlines()
    assert "siemens" not in done.stdout
    told = [json.loads(line) for line in (folder / "problems.jsonl").read_text().splitlines()]
    assert sorted(finding["place"] for finding in told) == sorted(f"rows.jsonl:{61 + i}" for i in range(9))
    assert {finding["field"] for finding in told} == {"completion.content"}
    assert "siemens" not in (folder / "problems.jsonl").read_text()


def test_what_is_private_is_masked_in_findings_of_every_kind(folder: Path) -> None:
    twice = {"prompt": "Write to jane.doe@siemens.de", "completion": "Dear [Your Name], jane.doe@siemens.de wrote."}
    done = run(folder, [*PLAIN, twice, twice], "--report", "problems.jsonl", "--page", "check.html", "--json")
    assert {"duplicate-exact", "placeholder", "personal-email"} <= set(json.loads(done.stdout)["counts"])
    for told in (done.stdout, (folder / "problems.jsonl").read_text(), (folder / "check.html").read_text()):
        assert "siemens" not in told


def test_what_training_would_refuse_is_told_as_errors_with_exit_code_3(folder: Path) -> None:
    done = run(folder, '{"prompt": "a"}\n{"prompt": 1, "completion": "b"}\nx\n', "--json", "--quiet")
    assert done.returncode == 3
    told = json.loads(done.stdout)
    assert told["refused"]
    assert [(f["code"], f["severity"], f["place"], f["field"]) for f in told["findings"]] == [
        ("refused", "error", "rows.jsonl:1", "completion"),
        ("refused", "error", "rows.jsonl:2", "prompt"),
        ("refused", "error", "rows.jsonl:3", ""),
    ]


def test_rows_that_are_all_too_long_are_refused_after_everything_else_was_told(folder: Path) -> None:
    done = run(folder, PLAIN, "--set", "data.max_length=16")
    assert done.returncode == 3
    assert "no example is left to learn" in done.stdout
    assert "languages  English" in done.stdout


def test_each_example_that_is_left_out_is_named_with_its_tokens(folder: Path) -> None:
    rows = [*PLAIN, {"prompt": "Tell me more", "completion": "Word, and more. " * 40}]
    done = run(folder, rows, "--json", "--set", "data.eval=0")
    told = json.loads(done.stdout)
    (found,) = told["findings"]
    assert (found["code"], found["place"]) == ("too-long", "rows.jsonl:61")
    assert found["fix"] == f"data.max_length: {told['figures']['tokens']['longest']}"
    assert sum(told["figures"]["tokens"]["counts"]) == 61


class Page(html.parser.HTMLParser):
    """Collects what a page would run or fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {name for name, _ in attrs}
        if tag in ("script", "img", "link", "iframe") or names & {"src", "href", "onclick", "onerror"}:
            self.wrong.append(f"{tag} {attrs}")


def test_the_page_fetches_nothing_and_runs_nothing_that_a_row_says(folder: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)> [Your Name]"
    rows = [*PLAIN, {"prompt": evil, "completion": evil + " indeed"}, {"prompt": evil, "completion": evil + " indeed"}]
    done = run(folder, rows, "--page", "check.html")
    assert done.returncode == 0, done.stderr
    text = (folder / "check.html").read_text()
    page = Page()
    page.feed(text)
    assert page.wrong == []
    assert "&lt;script&gt;alert(1)" in text
    assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "")


def test_a_report_that_cannot_be_written_is_an_error_of_ours(folder: Path) -> None:
    done = run(folder, PLAIN, "--report", "nowhere/problems.jsonl")
    assert done.returncode == 6
    assert "Traceback" not in done.stderr


def test_a_large_group_names_a_few_and_counts_the_rest(folder: Path) -> None:
    done = run(folder, [*PLAIN, *[{"prompt": "The same?", "completion": "The same."}] * 20], "--json")
    (found,) = [f for f in json.loads(done.stdout)["findings"] if f["code"].startswith("duplicate")]
    assert len(found["others"]) == 19
    assert found["why"].endswith(f"and {19 - NAMED} more")


def test_ticks_are_round_and_few() -> None:
    assert ticks(11_570) == [0, 2000, 4000, 6000, 8000, 10000]
    assert ticks(7) == [0, 1, 2, 3, 4, 5, 6, 7]


def test_a_file_whose_name_is_not_utf_8_is_checked_like_any_other(tmp_path: Path) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in PLAIN)
    (tmp_path / os.fsdecode(b"rows\xff.jsonl")).write_text(rows)
    program = "import sys; from finetune.cli import main; sys.argv[0] = 'finetune'; main()"
    command = [sys.executable, "-c", program, "data", "check", b"rows\xff.jsonl", "--quiet", "--page", "page.html"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"file       rows\udcff.jsonl: JSON Lines; prompt and completion 60" in done.stdout
    assert r"rows\udcff.jsonl" in (tmp_path / "page.html").read_text()


def test_without_a_tokenizer_too_what_is_not_read_of_a_folder_is_told(tmp_path: Path) -> None:
    row = '<r id="7"><question>What is {n}?</question><answer>A number.</answer></r>'
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.xml").write_text(f"<d>{row * 3}<e>{row * 2}</e></d>")
    (tmp_path / "rows" / "guide.md").write_text("# How")
    program = "import sys; from finetune.cli import main; sys.argv[0] = 'finetune'; main()"
    command = [sys.executable, "-c", program, "data", "check", "rows", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    notes = [line.removeprefix("note: ") for line in done.stdout.splitlines() if line.startswith("note: ")]
    assert notes[:3] == [
        "columns that are not learnt: @id (3 rows)",
        "2 rows are not learnt: they stand in d/e/r of the XML, the records that are read in d/r",
        "rows: not read: guide.md (Markdown beside other files)",
    ]


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (("--page", "base/config.json"), "--page another.json"),
        (("--report", "base/tokenizer.json"), "--report another.json"),
        (("--page", "same.html", "--report", "./same.html"), "--page another.html"),
    ],
)
def test_no_file_is_replaced_that_the_command_did_not_make(folder: Path, words: tuple[str, ...], fix: str) -> None:
    before = {file.name: file.read_bytes() for file in (folder / "base").iterdir()}
    done = run(folder, PLAIN, *words, "--quiet")
    assert done.returncode == 2
    assert f"  fix   {fix}\n" in done.stderr
    assert {file.name: file.read_bytes() for file in (folder / "base").iterdir()} == before


def test_its_own_report_and_page_are_replaced(folder: Path) -> None:
    words = ("--page", "page.html", "--report", "report.jsonl", "--quiet")
    for _ in range(2):
        assert run(folder, [*PLAIN, PLAIN[0]], *words).returncode == 0
    (folder / "report.jsonl").write_text("")
    assert run(folder, PLAIN, *words).returncode == 0

"""`finetune data look`, called as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from lensing import TRUNCATED, make_base, prepared, read_page, write_recipe
from typer.testing import CliRunner

from finetune.cli.app import app
from finetune.errors import ArtifactError, RecipeError
from finetune.lens import SIDES, by_place, by_row, worst

ROOT = Path(__file__).parents[2]

REPORT = """
import sys
from finetune.cli import main
sys.argv = ["finetune", *sys.argv[1:]]
try:
    main()
finally:
    print("imported:", *sorted(set(sys.modules) & {"torch", "transformers", "datasets", "numpy"}), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("byte-base"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    write_recipe(folder)
    return folder


def look(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", REPORT, "data", "look", "recipe.yaml", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(folder / "cache"), **variables}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)


def test_json_is_of_the_very_example_and_nothing_heavy_is_imported(folder: Path, base: Path) -> None:
    done = look(folder, "--tokenizer", str(base), "--json", "--row", "2")
    assert (done.returncode, done.stderr) == (0, "imported:\n")
    (told,) = json.loads(done.stdout)
    example = prepared(folder, base).train[1]
    cells = [(each["fate"], cell) for each in told["stretches"] for cell in each["cells"]]
    assert [i for _, cell in cells for i in cell["ids"]] == example.ids
    assert [fate == "learnt" for fate, cell in cells for _ in cell["ids"]] == example.learnt
    assert (told["tokens"], told["learnt"]) == (len(example), sum(example.learnt))


def here(folder: Path, base: Path, *words: str) -> str:
    """Runs the command in this process; gives what it prints, and raises what it raises."""
    asked = ["data", "look", "recipe.yaml", "--tokenizer", str(base), *words]
    with chdir(folder):
        return CliRunner().invoke(app, asked, catch_exceptions=False).stdout


def test_a_page_is_written_and_said(folder: Path, base: Path) -> None:
    assert here(folder, base, "--html", "look.html") == "wrote look.html, 0.0 MB: 6 examples\n"
    assert len(read_page((folder / "look.html").read_text())) == 6
    told = here(folder, base, "--html", "look.html", "--count", "2")
    assert told == "wrote look.html, 0.0 MB: 2 examples of 6; --count 6 writes all\n"
    assert "1 examples\n" in here(folder, base, "--html", "look.html", "--place", "rows.jsonl:2")
    with pytest.raises(ArtifactError, match="this cannot be written"):
        here(folder, base, "--html", "absent/look.html")


def test_a_pipe_gets_marks_and_colour_comes_when_it_is_asked_for(folder: Path, base: Path) -> None:
    piped = here(folder, base)
    assert "\x1b" not in piped
    assert "⟦" in piped
    colored = here(folder, base, "--color")
    assert "\x1b[1;" in colored
    assert "⟦" not in colored
    ascii_only = look(folder, "--tokenizer", str(base), PYTHONIOENCODING="ascii").stdout
    assert ascii_only.isascii()
    assert "[[" in ascii_only


def test_without_a_base_the_cure_is_told(folder: Path) -> None:
    done = look(folder)
    assert done.returncode == 6
    assert done.stderr.splitlines()[:4] == [
        "error: the tokenizer of a/b is not on disk",
        "  where recipe.yaml:1  base",
        "  why   without it nobody knows the tokens; its files and its template are enough, no weights are wanted",
        "  fix   hf download a/b tokenizer.json tokenizer_config.json chat_template.jinja --local-dir b-tokenizer "
        "&& finetune data look recipe.yaml --tokenizer b-tokenizer",
    ]


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (("--row", "1", "--worst", "longest"), "leave out --worst"),
        (("--row", "99"), "--row 5"),
        (("--side", "left-out"), "--side train"),
        (("--place", "nonsense"), "--place rows.jsonl:1"),
        (("--place", "rows.jsonl:9"), "--place rows.jsonl:4"),
        (("--place", "other.jsonl:2"), "--place rows.jsonl:2"),
        (("--place", "held.jsonl:1", "--side", "train"), "--place held.jsonl:1 --side held-out"),
    ],
)
def test_a_choice_that_finds_nothing_tells_one_that_does(
    words: tuple[str, ...], fix: str, folder: Path, base: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        here(folder, base, *words)
    assert [problem.fix for problem in caught.value.problems] == [fix]
    if fix.startswith("--"):
        assert "tokens" in here(folder, base, *fix.split())


# Choosing


def test_rows_are_counted_from_one_and_a_place_finds_all_its_examples(tmp_path: Path, base: Path) -> None:
    dataset = prepared(tmp_path, base)
    assert [shown.example for shown in by_row(dataset, "train", 2, 2)] == dataset.train[1:3]
    assert [shown.example for shown in by_row(dataset, "held-out", 1, 5)] == dataset.held_out
    for place in ("rows.jsonl:3", f"{tmp_path}/rows.jsonl:3", os.path.relpath(tmp_path / "rows.jsonl") + ":3"):
        assert [shown.example for shown in by_place(dataset, SIDES, place, None)] == dataset.train[2:4]
    assert len(by_place(dataset, SIDES, "rows.jsonl:3", 1)) == 1
    with pytest.raises(RecipeError, match="this names no row"):
        by_place(dataset, SIDES, "rows.jsonl", None)


def test_the_worst_come_worst_first(tmp_path: Path, base: Path) -> None:
    dataset = prepared(tmp_path, base, *TRUNCATED)

    def lengths(kind: Any, count: int = 9) -> list[int]:
        return [shown.num_tokens for shown in worst(dataset, SIDES, kind, count)]

    every = [len(e) + len(e.cut) for e in [*dataset.train, *dataset.held_out, *dataset.left_out]]
    assert lengths("longest") == sorted(every, reverse=True)
    assert lengths("longest", 1) == [max(every)]
    assert lengths("truncated") == [len(dataset.left_out[0]), *(len(e) + len(e.cut) for e in dataset.train if e.cut)]
    shares = [shown.num_learnt / len(shown.example) for shown in worst(dataset, SIDES, "least-learnt", 9)]
    assert shares == sorted(shares)
    assert len(shares) == len(every) - len(dataset.left_out)
    assert worst(prepared(tmp_path, base), SIDES, "truncated", 9) == []


def test_what_is_not_there_is_said(folder: Path, base: Path) -> None:
    words = ("--worst", "truncated")
    longest = max(map(len, prepared(folder, base).train))
    assert here(folder, base, *words) == f"nothing was cut: the longest example has {longest:,} of 2,048 tokens\n"
    told = here(folder, base, *words, "--set", "data.max_length=230")
    assert "example 1 left out as too long\n1,153 tokens, more than max_length 230: nobody sees them\n" in told


def test_no_file_is_replaced_that_the_command_did_not_make(folder: Path, base: Path) -> None:
    kept = (base / "chat_template.jinja").read_bytes()
    with pytest.raises(RecipeError, match="this file is somebody else's"):
        here(folder, base, "--html", str(base / "chat_template.jinja"))
    assert (base / "chat_template.jinja").read_bytes() == kept
    for _ in range(2):
        assert here(folder, base, "--html", "twice.html").startswith("wrote twice.html")

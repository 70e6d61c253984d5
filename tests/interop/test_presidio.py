"""Names and identity numbers by spaCy and Microsoft Presidio: real pipelines of rules, made here. No network."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from names import planted_numbers

from finetune.check import Figures, Finding, Findings, check_rows
from finetune.check.identities import identities, numbers
from finetune.check.pipelines import PIECE, open_pipelines, pipeline_of
from finetune.check.presidio import is_full, names_of, open_presidio
from finetune.data import Row
from finetune.data.messages import row_from
from finetune.errors import OutsideError, RecipeError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

NAMES = {"en": ("Jane Doherty", "Kofi Mensah", "Okafor", "PO Box 4"), "zh": ("张伟",), "pl": ("Anna Nowak",)}

PROGRAM = """
import sys
asked = []
sys.addaudithook(lambda event, _: asked.append(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
sys.modules.update(dict.fromkeys({blocked!r}))
from finetune.cli import main
sys.argv[0] = "finetune"
try: main()
finally: print(sorted({{"spacy", "presidio_analyzer"}} & set(sys.modules)), asked, file=sys.stderr)
"""


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Saves a pipeline of each language that knows a few names, and one that knows none."""
    import spacy

    made = {}
    for language, names in NAMES.items():
        pipeline = spacy.blank(language)
        ruler: Any = pipeline.add_pipe("entity_ruler")
        ruler.add_patterns([{"label": "PERSON", "pattern": name} for name in names])
        made[language] = str(tmp_path_factory.mktemp("pipelines") / language)
        pipeline.to_disk(made[language])
    made["none"] = str(tmp_path_factory.mktemp("pipelines") / "none")
    spacy.blank("en").to_disk(made["none"])
    return made


def run(folder: Path, rows: list[dict[str, Any]], *words: str, blocked: tuple[str, ...] = ()) -> Any:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    command = [sys.executable, "-c", PROGRAM.format(blocked=blocked), "data", "check", "rows.jsonl", "--quiet", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def told(rows: list[dict[str, Any]], *pipelines: str) -> tuple[list[Finding], list[str]]:
    """Checks rows; gives what Presidio and our own patterns told, and its notes."""
    made = [row_from(value, f"rows.jsonl:{i}") for i, value in enumerate(rows, 1)]
    presidio, findings, found = open_presidio(pipelines), Findings(), list[Finding]()
    findings.hand_on = found.append
    check_rows(((row, "learnt") for row in made if isinstance(row, Row)), findings, Figures(), presidio)
    return [each for each in found if each.code.startswith("personal")], list(presidio.notes())


def test_a_row_is_told_once_with_all_its_names_and_each_number_by_itself(folders: dict[str, str]) -> None:
    asked = "Who is the tenant, and what is on the form? Ask Kofi Mensah."
    answer = "It is Jane Doherty. Jane Doherty and Okafor know it. The NHS number is 493 824 2192."
    found, notes = told([{"prompt": asked, "completion": answer}], folders["en"])
    assert found == [
        Finding(
            "personal-id",
            "warning",
            "rows.jsonl:1",
            "completion.content",
            "this looks like a British NHS number",
            "the model may say it to anybody",
            "replace it with an invented one",
            "49… (12 characters)",
        ),
        Finding(
            "personal-name",
            "warning",
            "rows.jsonl:1",
            "completion.content",
            "this names 2 people",
            "the model may say it to anybody",
            "replace names with invented ones, unless they are public figures",
            "Ko… (11 characters), Ja… (12 characters)",
        ),
    ]
    assert notes == []


def test_names_of_one_word_are_counted_in_a_note(folders: dict[str, str]) -> None:
    rows = [{"prompt": "Who is it that called?", "completion": "It was Okafor who called."}] * 2
    assert told(rows, folders["en"]) == (
        [],
        ["2 rows with names of one word only, such as first names: not told"],
    )


def test_what_our_own_patterns_find_is_told_once_and_as_theirs(folders: dict[str, str]) -> None:
    row = {"prompt": "What is it?", "completion": "NHS number; the phone is 493 824 2192, or so it is said."}
    found, _ = told([row], folders["en"])
    assert [(each.code, each.snippet) for each in found] == [("personal-phone", "49… (12 characters)")]
    text = "password: Kx9qT7wJane Doherty"
    assert names_of(text, [(text.index("Jane"), len(text))]) == []
    assert names_of(text[9:], [(text.index("Jane") - 9, len(text) - 9)]) == ["Jane Doherty"]


def test_a_system_prompt_that_rows_share_is_told_once(folders: dict[str, str]) -> None:
    def chat(i: int) -> dict[str, Any]:
        said = ("system", "You are the assistant of Jane Doherty."), ("user", f"Hi {i}?"), ("assistant", f"Yes, {i}.")
        return {"messages": [{"role": role, "content": content} for role, content in said]}

    found, _ = told([chat(i) for i in range(600)], folders["en"])
    assert [(each.place, each.field, each.why) for each in found] == [
        ("rows.jsonl:1", "messages[0].content", "a run's files are shared, and what is read can be said")
    ]


def test_each_text_goes_to_the_pipeline_of_its_language(folders: dict[str, str]) -> None:
    rows = [
        {"prompt": "What is the name of the owner?", "completion": "It is Jane Doherty, and that is all I know."},
        {"prompt": "他叫什么名字？", "completion": "他叫张伟。"},
        {"prompt": "Как его зовут?", "completion": "Его зовут Jane Doherty, насколько мне известно сегодня."},
    ]
    places = {
        ("en",): ["rows.jsonl:1"],
        ("zh",): ["rows.jsonl:2"],
        ("en", "zh"): ["rows.jsonl:1", "rows.jsonl:2"],
    }
    missing = {
        ("en",): {"1 row in Chinese": "zh", "1 row in Cyrillic": "ru or uk or mk or bg or sr"},
        ("zh",): {"1 row in English": "en", "1 row in Cyrillic": "ru or uk or mk or bg or sr"},
        ("en", "zh"): {"1 row in Cyrillic": "ru or uk or mk or bg or sr"},
    }
    for languages, wanted in places.items():
        found, notes = told(rows, *(folders[language] for language in languages))
        assert [each.place for each in found] == wanted
        assert set(notes) == {
            f"{rows} not searched for names of people: no pipeline for {codes} was named"
            for rows, codes in missing[languages].items()
        }


def test_of_a_name_of_two_characters_one_is_shown(folders: dict[str, str]) -> None:
    (found,), _ = told([{"prompt": "他叫什么名字？", "completion": "他叫张伟。"}], folders["zh"])
    assert found.snippet == "张… (2 characters)"


def test_a_text_too_short_to_tell_goes_with_its_row_and_then_to_the_first_that_reads_it(
    folders: dict[str, str],
) -> None:
    polish, english, chinese = open_pipelines([folders["pl"], folders["en"], folders["zh"]])
    three = (chinese, polish, english)
    assert pipeline_of("Latin letters", "English", three) == english
    assert pipeline_of("Latin letters", "", three) == polish
    assert pipeline_of("Latin letters", "", (chinese,)) is None
    assert pipeline_of("German", "English", three) is None
    assert pipeline_of("Chinese", "", three) == chinese
    assert pipeline_of("no letters", "", three) is None


def test_in_a_text_longer_than_a_pipeline_takes_each_name_is_found_where_it_stands(folders: dict[str, str]) -> None:
    text = "Jane Doherty and Kofi Mensah. " * (3 * PIECE // 30)
    ((pipeline,), wanted) = open_pipelines([folders["en"]]), []
    for name in ("Jane Doherty", "Kofi Mensah"):
        at = text.find(name)
        while at >= 0:
            wanted.append((at, at + len(name)))
            at = text.find(name, at + 1)
    assert list(pipeline.people(["", text])) == [[], sorted(wanted)]


def test_numbers_of_twenty_countries_are_found_beside_their_words_only() -> None:
    wanted, whole = identities(), set[str]()
    for seed in range(5):
        for kind, sentence in planted_numbers(random.Random(seed)):
            (found,) = numbers(sentence, wanted)
            stretch = sentence[found.start : found.end]
            assert stretch.rstrip(".") in sentence, kind
            assert list(numbers(f"We counted {stretch} of them.", wanted)) == [], kind
            whole.add(found.name)
    assert len(whole) == 20


@pytest.mark.parametrize(
    "text",
    [
        "The passport number is 123456789.",
        "NHS number 000 000 0000",
        "Begin automating their 4 sites from 2019 on in the frying pan",
        "The driving licence costs 43 pounds since 2019.",
        "A barcode: 123456789012",
        "The result is -0.3571428571, and medicare does not matter",
    ],
)
def test_look_alikes_are_left_alone(text: str) -> None:
    assert list(numbers(text, identities())) == []


def test_a_full_name_has_two_words_or_is_written_without_spaces() -> None:
    assert [is_full(name) for name in ("Jane Doherty", "Okafor", "张伟", "伟", "김민수")] == [
        True,
        False,
        True,
        False,
        True,
    ]


def test_nothing_of_a_name_or_number_stands_in_report_page_or_terminal(folders: dict[str, str], tmp_path: Path) -> None:
    row = {"prompt": "Who is Jane Doherty?", "completion": "Dear [Your Name], PESEL 84072315783 is Kofi Mensah's."}
    words = ("--presidio", folders["en"], "--report", "problems.jsonl", "--page", "check.html")
    done = run(tmp_path, [row, row], *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "['presidio_analyzer', 'spacy'] []"
    assert "warning: names of people  [personal-name: 2]" in done.stdout
    assert "warning: rows that stand there more than once, word for word" in done.stdout
    for text in (done.stdout, (tmp_path / "problems.jsonl").read_text(), (tmp_path / "check.html").read_text()):
        assert "Ja…" in text
        assert "Doherty" not in text
        assert "Mensah" not in text
        assert "84072315783" not in text


def test_without_the_option_neither_package_is_imported(tmp_path: Path) -> None:
    done = run(tmp_path, [{"prompt": "Who is Jane Doherty?", "completion": "A tenant."}])
    assert (done.returncode, done.stderr) == (0, "[] []\n")
    assert "names of people" not in done.stdout


def test_without_the_extra_it_is_told_what_to_install_and_no_report_is_begun(tmp_path: Path) -> None:
    words = ("--presidio", "en_core_web_sm", "--report", "problems.jsonl")
    done = run(tmp_path, [{"prompt": "a", "completion": "b"}], *words, blocked=("presidio_analyzer",))
    assert done.returncode == 5
    assert done.stderr.splitlines()[:4] == [
        "error: names of people take an extra",
        "  where --presidio en_core_web_sm",
        "  why   presidio_analyzer cannot be imported",
        "  fix   pip install 'finetune-proven[presidio]'",
    ]
    assert not (tmp_path / "problems.jsonl").exists()


def test_what_is_no_pipeline_is_told_with_its_cure(folders: dict[str, str], tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    (outer / "inner").mkdir(parents=True)
    (outer / "inner" / "config.cfg").write_text("[nlp]\nlang = 'en")
    wrong = {
        ("xx_none_such",): (OutsideError, "python -m spacy download xx_none_such"),
        (str(tmp_path / "nowhere"),): (RecipeError, "--presidio en_core_web_sm"),
        (str(outer),): (RecipeError, f"--presidio {outer / 'inner'}"),
        (str(outer / "inner"),): (
            OutsideError,
            f"--presidio en_core_web_sm   # or copy {outer / 'inner'} anew from where it came",
        ),
        (folders["en"], folders["none"]): (RecipeError, f"--presidio {folders['en']}"),
    }
    for names, (kind, fix) in wrong.items():
        with pytest.raises(kind) as error:
            open_pipelines(names)
        (problem,) = error.value.problems
        assert (problem.fix, problem.where.startswith("--presidio")) == (fix, True)


def test_a_pipeline_that_finds_no_names_finds_numbers_and_says_so(folders: dict[str, str]) -> None:
    row = {"prompt": "Who is the tenant?", "completion": "It is Jane Doherty, whose PESEL is 84072315783."}
    found, notes = told([row], folders["none"])
    assert [each.code for each in found] == ["personal-id"]
    why = "it has neither ner nor entity_ruler, only a tokenizer"
    assert notes == [f"the pipeline {folders['none']} finds no names of people: {why}"]

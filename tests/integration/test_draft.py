"""`finetune data draft` against a teacher that answers, stumbles, refuses and lies, over real HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path += [str(Path(__file__).parents[1] / "unit")]

from draft_files import PAGE, pdf_bytes
from teacher_server import Server, listening, pairs

from finetune.data import read_rows
from finetune.draft import Settings, Wishes, asking, draft, foresee
from finetune.endpoints import endpoint
from finetune.errors import OutsideError

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.upper().endswith(("_PROXY", "API_KEY"))}

CHUNKS = 12

INSTANTS = (1, 4, 6, 9)
"""Replies in the journal at which the process is killed."""


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    with listening(server) as address:
        yield address


@pytest.fixture
def guide(tmp_path: Path) -> Path:
    """A document of CHUNKS chunks."""
    part = "# Part {0}\n\nThe valve {0}a opens at {1} degrees. The lever {0}b locks the drum{2}.\n\n"
    text = "".join(part.format(number, 100 + number, " and the door" * 14) for number in range(CHUNKS))
    (tmp_path / "guide.md").write_text(text)
    return tmp_path / "guide.md"


def words(url: str, *more: str) -> list[str]:
    command = [sys.executable, "-m", "finetune", "data", "draft", "guide.md", "--teacher", url, "--model", "teacher"]
    return [*command, "--chunk-tokens", "90", *more]


def finetune(url: str, folder: Path, *more: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", **variables}
    done = subprocess.run(
        words(url, *more), capture_output=True, text=True, check=False, cwd=folder, env=environment, timeout=60
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def report(url: str, folder: Path, *more: str, **variables: Any) -> dict[str, Any]:
    told = json.loads(finetune(url, folder, "--json", *more, **variables).stdout)
    assert isinstance(told, dict)
    return told


def rows(folder: Path, name: str = "drafted.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_every_chunk_is_asked_once_and_every_row_can_be_learnt_and_leads_back(
    server: Server, url: str, guide: Path, tmp_path: Path
) -> None:
    told = report(url, tmp_path, "--price-in", "1", "--price-out", "10")
    assert sorted(server.asked.values()) == [1] * CHUNKS
    assert server.most_at_once <= 4
    assert told["asked"] == told["chunks"] == CHUNKS
    assert told["pairs"] == {"kept": 2 * CHUNKS, "dropped": {}}
    assert (told["now"]["read_tokens"], told["now"]["written_tokens"]) == (100 * CHUNKS, 10 * CHUNKS)
    assert told["now"]["cost"] == pytest.approx(CHUNKS * (100 + 10 * 10) / 1e6)
    assert len(read_rows(tmp_path / "drafted.jsonl")) == 2 * CHUNKS
    lines = guide.read_text().splitlines()
    for row in rows(tmp_path):
        source = row["source"]
        first, last = source["lines"]
        assert source["quote"] in "\n".join(lines[first - 1 : last])
        assert source["heading"] == [f"Part {row['completion'].split()[2][:-1]}"]
        assert (source["file"], source["model"]) == ("guide.md", "teacher")


def test_the_same_command_again_asks_nothing_and_an_edited_document_its_changed_chunk(
    server: Server, url: str, guide: Path, tmp_path: Path
) -> None:
    finetune(url, tmp_path)
    first = (tmp_path / "drafted.jsonl").read_bytes()
    assert report(url, tmp_path)["asked"] == 0
    assert (tmp_path / "drafted.jsonl").read_bytes() == first
    guide.write_text(guide.read_text().replace("at 105 degrees", "at 205 degrees"))
    told = report(url, tmp_path)
    assert (told["asked"], told["answered_before"]) == (1, CHUNKS - 1)
    assert server.asked.total() == CHUNKS + 1
    assert sum("205" in row["completion"] for row in rows(tmp_path)) == 1
    assert report(url, tmp_path, "--per-chunk", "2")["asked"] == CHUNKS


@pytest.mark.slow
def test_killed_at_any_instant_it_goes_on_and_ends_as_if_it_had_not_been(
    server: Server, url: str, guide: Path, tmp_path: Path
) -> None:
    finetune(url, tmp_path, "--out", "unkilled.jsonl")
    expected = (tmp_path / "unkilled.jsonl").read_bytes()
    server.asked.clear()
    server.answered.clear()
    server.seconds = 0.05
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    wishes = Wishes((guide,), Settings("teacher", chunk_tokens=90), tmp_path / "drafted.jsonl")
    passages = {name: chunk.text.strip() for name, chunk in foresee(wishes).chunks.items()}
    journal, known = tmp_path / "drafted.jsonl.journal", list[str]()
    for wanted in INSTANTS:
        before = server.asked.copy()
        process = subprocess.Popen(words(url, "--quiet"), cwd=tmp_path, env=environment)
        while len(noted(journal)) < wanted:
            assert process.poll() is None
            time.sleep(0.002)
        process.kill()
        process.wait()
        time.sleep(0.2)  # the server ends what it was asked
        assert all(server.asked[passages[name]] == before[passages[name]] for name in known)  # not asked again
        known = noted(journal)
    told = report(url, tmp_path)
    assert told["answered_before"] == len(known)
    assert (tmp_path / "drafted.jsonl").read_bytes() == expected
    assert len(noted(journal)) == len(set(noted(journal))) == CHUNKS
    assert server.asked.total() - CHUNKS <= 4 * len(INSTANTS)  # what was on its way, and nothing else


def noted(journal: Path) -> list[str]:
    """What a journal knows to be answered; the last line may be torn."""
    if not journal.exists():
        return []
    lines = journal.read_bytes().split(b"\n")[:-1]
    return [line["asked"] for line in map(json.loads, lines) if "asked" in line]


@pytest.mark.slow
def test_a_torn_last_line_is_dropped_and_its_chunk_asked_again(
    server: Server, url: str, guide: Path, tmp_path: Path
) -> None:
    finetune(url, tmp_path)
    expected = (tmp_path / "drafted.jsonl").read_bytes()
    journal = tmp_path / "drafted.jsonl.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    answered = [line for line in lines if b'"asked"' in line]
    (tmp_path / "drafted.jsonl").unlink()
    (tmp_path / "drafted.rejected.jsonl").unlink()
    for torn in (answered[-1][:-1], answered[-1][:-20], answered[-1][:1], b"\0" * 50):
        journal.write_bytes(b"".join(answered[:-1]) + torn)
        server.asked.clear()
        finetune(url, tmp_path)
        assert server.asked.total() == 1
        assert (tmp_path / "drafted.jsonl").read_bytes() == expected
        (tmp_path / "drafted.jsonl").unlink()
        (tmp_path / "drafted.rejected.jsonl").unlink()
    journal.write_bytes(answered[0] + b"garbage\n" + answered[1])
    done = finetune(url, tmp_path, code=6)
    assert "error: the journal is damaged\n  where drafted.jsonl.journal:2" in done.stderr
    fix = next(line for line in done.stderr.splitlines() if line.startswith("  fix")).split(None, 1)[1]
    subprocess.run(fix.partition("   ")[0], shell=True, check=True, cwd=tmp_path)
    assert report(url, tmp_path)["answered_before"] == 1


def test_ctrl_c_waits_for_what_is_on_its_way_and_writes_it(
    server: Server, url: str, guide: Path, tmp_path: Path
) -> None:
    server.seconds = 0.4
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    process = subprocess.Popen(words(url), cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    while server.asked.total() < 6:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 75, told
    assert "error: stopped by SIGINT\n  fix   finetune data draft guide.md" in told
    assert server.asked.total() == server.answered.total() < CHUNKS
    assert len(noted(tmp_path / "drafted.jsonl.journal")) == server.asked.total()
    assert len(rows(tmp_path)) == 2 * server.asked.total()
    server.seconds = 0
    report(url, tmp_path)
    assert sorted(server.asked.values()) == [1] * CHUNKS


def test_a_second_process_is_refused_with_the_name_of_the_first(
    server: Server, url: str, guide: Path, tmp_path: Path
) -> None:
    answer, wait = server.reply, threading.Event()
    server.reply = lambda passage: answer(passage) if wait.wait(60) else None
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    first = subprocess.Popen(words(url, "--limit", "1", "--quiet"), cwd=tmp_path, env=environment)
    while not server.asked:
        time.sleep(0.01)
    done = finetune(url, tmp_path, code=73)
    wait.set()
    assert f"process {first.pid} on" in done.stderr
    assert first.wait(30) == 0


def test_it_asks_again_after_429_500_and_broken_connections_and_waits_as_it_was_told(
    server: Server, url: str, guide: Path, tmp_path: Path
) -> None:
    faults = ["429 1", "500", "cut", "hang-up", "page", "503 0"]
    order: list[str] = []

    def fault(server: Server, passage: str, times: int) -> str:
        if passage not in order:
            order.append(passage)
        number = order.index(passage)
        return faults[number] if number < len(faults) and times == 1 else ""

    server.fault = fault
    told = report(url, tmp_path)
    assert told["pairs"]["kept"] == 2 * CHUNKS
    assert sorted(server.asked.values()) == [1] * (CHUNKS - len(faults)) + [2] * len(faults)
    assert told["seconds"] >= 1


@pytest.mark.parametrize("tries", [2])
def test_a_server_that_stays_down_ends_it_and_what_was_answered_is_written(
    tries: int, server: Server, url: str, guide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "TRIES", tries)
    server.fault = lambda server, passage, times: "500" if server.answered.total() >= 3 else ""
    out = tmp_path / "drafted.jsonl"
    wishes = Wishes((guide,), Settings("teacher", chunk_tokens=90), out, parallel=1)
    with pytest.raises(OutsideError, match="the server does not answer"):
        draft(wishes, foresee(wishes), endpoint(url, "teacher"), lambda: False, lambda told: None)
    assert len(rows(tmp_path)) == 6
    assert server.asked.total() == 3 + tries


@pytest.mark.parametrize(
    ("change", "more", "code", "told"),
    [
        ({"key": "right"}, (), 5, "error: the server refuses the key"),
        ({}, ("--model", "teach"), 5, "error: the server has no model teach"),
        ({"models": []}, (), 5, "error: the server knows no such model or no such path"),
        ({"fault": lambda *told: "400"}, (), 5, "error: the server refuses what it is asked"),
        ({"fault": lambda *told: "429 3600"}, (), 5, "error: the server wants to be left alone for long"),
        ({"fault": lambda *told: "402"}, (), 5, "error: the account has no credit left"),
        ({"elsewhere": "http://localhost:1"}, (), 5, "fix   --teacher http://localhost:1/v1"),
        ({"reply": lambda passage: "I cannot do that."}, (), 3, "error: no pair was kept"),
    ],
)
def test_what_no_patience_mends_ends_at_once(
    change: dict[str, Any],
    more: tuple[str, ...],
    code: int,
    told: str,
    server: Server,
    url: str,
    guide: Path,
    tmp_path: Path,
) -> None:
    for name, value in change.items():
        setattr(server, name, value)
    began = time.monotonic()
    done = finetune(url, tmp_path, *more, code=code, OPENAI_API_KEY="sk-very-secret")
    assert told in done.stderr
    assert time.monotonic() - began < 10
    everything = done.stdout + done.stderr + "".join(f.read_text() for f in tmp_path.iterdir())
    assert "sk-very-secret" not in everything


def test_the_models_that_a_server_lists_are_told_and_the_nearest_is_the_fix(
    server: Server, url: str, guide: Path, tmp_path: Path
) -> None:
    told = finetune(url, tmp_path, "--model", "teachr", code=5).stderr
    assert "why   it has teacher, other\n  fix   --model teacher" in told


def test_a_key_is_sent_to_the_server_that_was_named_and_to_no_other(
    server: Server, url: str, guide: Path, tmp_path: Path
) -> None:
    server.key = "sk-very-secret"
    finetune(url, tmp_path, "--limit", "1", "--key-env", "MY_KEY", MY_KEY="sk-very-secret\n")
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer sk-very-secret"}
    assert all("sk-very-secret" not in file.read_text() for file in tmp_path.iterdir())
    other = Server()
    with listening(other) as elsewhere:
        server.elsewhere = elsewhere
        finetune(url, tmp_path, code=5, OPENAI_API_KEY="sk-very-secret")
    assert other.calls == []


def test_a_server_that_does_not_know_json_by_name_is_asked_plainly(
    server: Server, url: str, guide: Path, tmp_path: Path
) -> None:
    server.takes_json = False
    assert report(url, tmp_path, "--parallel", "1")["asked"] == CHUNKS
    assert server.calls.count("POST /v1/chat/completions") == CHUNKS + 1


@pytest.mark.parametrize("more", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_the_url_may_end_in_v1_or_not(more: str, server: Server, url: str, guide: Path, tmp_path: Path) -> None:
    finetune(f"{url}{more}", tmp_path, "--limit", "1")
    assert "POST /v1/chat/completions" in server.calls


def test_an_api_under_another_path_is_found(server: Server, url: str, guide: Path, tmp_path: Path) -> None:
    server.prefix = "/proxy/v1"
    finetune(f"{url}/proxy", tmp_path, "--limit", "1")
    assert server.calls[-1] == "POST /proxy/v1/chat/completions"


def test_what_the_teacher_makes_up_is_dropped_and_nothing_is_lost(
    server: Server, url: str, guide: Path, tmp_path: Path
) -> None:
    good: list[str] = []

    def reply(passage: str) -> str | None:
        (first, *_) = made = pairs(passage, 2)
        good.append(first["answer"])
        match len(good):
            case 1:
                return f"<think>Let me see {{</think>```json\n{json.dumps({'pairs': made})}\n```"
            case 2:
                return json.dumps({"pairs": [first | {"answer": "As an AI I cannot tell."}, made[1]]})
            case 3:
                return json.dumps({"pairs": [first | {"quote": "The moon is made of cheese"}, made[1]]})
            case 4:
                return json.dumps({"pairs": [first | {"answer": "It opens at 999 degrees."}, made[1]]})
            case 5:
                return '{"pairs": [{"question": "What'
            case 6:
                return None
            case _:
                return json.dumps({"pairs": made})

    server.reply, server.usage = reply, False
    told = report(url, tmp_path, "--parallel", "1")
    assert told["pairs"] == {
        "kept": 2 * CHUNKS - 7,
        "dropped": {
            "the reply is not readable": 2,
            "a number of the answer does not stand in the passage": 1,
            "a refusal": 1,
            "the quote does not stand in the passage": 1,
        },
    }
    assert told["now"]["estimated_replies"] == CHUNKS
    assert told["now"]["read_tokens"] > 100 * CHUNKS
    rejected = rows(tmp_path, "drafted.rejected.jsonl")
    assert [line["reason"] for line in rejected[:2]] == ["a refusal", "the quote does not stand in the passage"]
    assert rejected[0]["answer"] == "As an AI I cannot tell."
    assert "estimated for 12 replies" in finetune(url, tmp_path, "--per-chunk", "2").stdout


def test_rows_that_were_mended_by_hand_are_not_written_over(
    server: Server, url: str, guide: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.jsonl").write_text("{}\n")
    assert "error: the file is not a draft" in finetune(url, tmp_path, "--out", "mine.jsonl", code=3).stderr
    finetune(url, tmp_path)
    with (tmp_path / "drafted.jsonl").open("a") as file:
        file.write('{"prompt": "mine", "completion": "too"}\n')
    done = finetune(url, tmp_path, code=3)
    assert "error: the file was changed since it was drafted" in done.stderr
    fix = next(line for line in done.stderr.splitlines() if line.startswith("  fix")).split(None, 1)[1]
    subprocess.run(fix, shell=True, check=True, cwd=tmp_path)
    assert report(url, tmp_path)["asked"] == 0
    assert len(rows(tmp_path, "drafted.mine.jsonl")) == 2 * CHUNKS + 1


def test_a_dry_run_asks_nothing_and_leaves_nothing(server: Server, url: str, guide: Path, tmp_path: Path) -> None:
    told = report(url, tmp_path, "--dry-run", "--price-in", "1", "--price-out", "2")
    assert told["chunks"] == CHUNKS
    assert told["cost"] == pytest.approx((told["read_tokens"] + 2 * told["written_tokens"]) / 1e6, rel=1e-3)
    assert server.calls == []
    assert [file.name for file in tmp_path.iterdir()] == ["guide.md"]


def test_html_and_pdf_are_drafted_from_with_their_lines_and_pages(server: Server, url: str, tmp_path: Path) -> None:
    (tmp_path / "guide.md").write_text("A guide of one line that is long enough to be asked about it.")
    (tmp_path / "page.html").write_text(PAGE)
    (tmp_path / "a.pdf").write_bytes(
        pdf_bytes("The first page says that the pump runs.", "Oil it every month of the year.")
    )
    finetune(url, tmp_path, "page.html", "a.pdf")
    places = {(row["source"]["file"], *row["source"].get("pages", ["line"])) for row in rows(tmp_path)}
    assert places == {("guide.md", "line"), ("page.html", "line"), ("a.pdf", 1, 1), ("a.pdf", 2, 2)}


@pytest.mark.parametrize(
    ("more", "code", "told"),
    [
        (("--teacher", "localhost:11434"), 2, "fix   --teacher http://localhost:11434"),
        (("--teacher", "ftp://host"), 2, "error: --teacher is the URL of a server"),
        (("--teacher", "http://user:pw@host/v1"), 2, "error: --teacher holds more than a URL should"),
        (("--teacher", "user:pw@host"), 2, "fix   --teacher http://host"),
        (("--teacher", "http://[::1"), 2, "error: --teacher is no URL"),
        (("--teacher", "http://127.0.0.1:1"), 5, "error: nobody answers there"),
        (("--teacher", "http://host:99999"), 2, "error: --teacher is no URL"),
        (("--out", "nowhere/a.jsonl"), 2, "fix   mkdir -p nowhere"),
        (("--out", "."), 2, "error: --out is a folder"),
        (("--key-env", "NO_SUCH_KEY"), 2, "error: NO_SUCH_KEY is not set"),
        (("--price-in", "1"), 2, "error: a cost has two finite prices"),
        (("missing.md",), 3, "error: the document cannot be read"),
        (("--model", " "), 2, "error: the model has no name"),
    ],
)
def test_a_wrong_word_is_told_with_its_fix(
    more: tuple[str, ...], code: int, told: str, guide: Path, tmp_path: Path
) -> None:
    done = finetune("http://127.0.0.1:9", tmp_path, *more, code=code)
    assert told in done.stderr
    assert "pw@" not in done.stderr


def test_a_key_that_would_travel_in_the_clear_is_warned_of() -> None:
    assert endpoint("http://10.0.0.5:8000", "m", "key").is_overheard
    assert not endpoint("http://10.0.0.5:8000", "m").is_overheard
    assert not endpoint("https://10.0.0.5:8000", "m", "key").is_overheard
    assert not endpoint("http://127.0.0.1:8000", "m", "key").is_overheard
    assert "key" not in repr(endpoint("https://host", "m", "key"))


def test_a_disliked_chunk_is_told_and_the_others_are_asked(
    server: Server, url: str, guide: Path, tmp_path: Path
) -> None:
    server.fault = lambda server, passage, times: "400" if "valve 5a" in passage else ""
    told = report(url, tmp_path, "--parallel", "1")
    assert told["unanswered"] == 1
    assert told["pairs"] == {"kept": 2 * (CHUNKS - 1), "dropped": {"the server refused the chunk": 1}}


def test_many_threads_ask_at_once(server: Server, url: str, guide: Path, tmp_path: Path) -> None:
    server.seconds = 0.3
    report(url, tmp_path, "--parallel", "6")
    assert server.most_at_once == 6
    assert threading.active_count() < 20

"""What is wrong with a data file is told with its place, a rule and a way out; nothing ends in a traceback."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_files import EVERY, ROWS, parquet, records, table, workbook

from finetune.data.files import EXAMPLE, MAX_RECORD_BYTES, Raw, data_files, parse, read_raw, sniff
from finetune.errors import DataError, FinetuneError, Problem


def told(file: Path) -> list[Problem]:
    """Reads a file to its end or to what ends it, and gives its problems."""
    problems = []
    try:
        sniff(file, file.name)
        for raw in read_raw(file, file.name):
            value = parse(raw, file.name) if isinstance(raw, Raw) else raw
            if isinstance(value, Problem):
                problems.append(value)
            else:
                json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except FinetuneError as error:
        problems += error.problems
    return problems


class Wrong(NamedTuple):
    """A file, and its first problem."""

    name: str
    content: bytes | str
    what: str
    line: str
    fix: str


TWICE = '[\n{"a": 1},\n{"b": 1, "b": 2},\n{"a": 3}\n]'
LABELS = "Hi there,greet\nBye,leave\nHey,greet\nYo,greet\n"
UTF8 = "the text is not UTF-8"
DEEP = '{"a": ' + "[" * 70 + "]" * 70 + "}"
UNCLOSED = 'close it with ", and write a quote inside it as ""'
NAMED = "sed '1s/^\\xef\\xbb\\xbf//'; } > a.named.csv"

FILES = [
    # JSON
    Wrong("a.json", "[[1], [2]]", "the file is a list of numbers, not of rows", ":1", EXAMPLE),
    Wrong("a.json", '["x"]', "the file is a list of texts, not of rows", ":1", "cat a.json | jq -c '.[] | {text: .}'"),
    Wrong(
        "a.json",
        '[[{"role": "user"}, {}]]',
        "the file is a list of lists, not of rows",
        ":1",
        "cat a.json | jq -c '.[] | {messages: .}' > a.rows.jsonl",
    ),
    Wrong(
        "a.json",
        json.dumps({f"{n}": "yes" for n in range(50)}, indent=1),
        "the file is an object of texts, not of rows",
        ":2",
        "cat a.json | jq -c 'to_entries[] | {id: .key, label: .value}' > a.rows.jsonl",
    ),
    Wrong(
        "a.json",
        '{"train": [{"a": 1}],\n "test": [{"a": 2}]}',
        "the file holds several lists of rows: train, test",
        ":1",
        "cat a.json | jq -c '.[\"train\"][]' > a.rows.jsonl",
    ),
    Wrong("a.json", TWICE, "the record is not JSON that can be learnt from", ":3", 'keep one "b"'),
    Wrong("a.json", '{\n"k": {},\n"k": {}\n}', 'the key "k" stands twice', ":3", 'keep one "k"'),
    Wrong("a.json", '[\n{"a": NaN}]', "the record is not JSON that can be learnt from", ":2", "write null"),
    Wrong("a.json", f"[{DEEP}]", "the record is not JSON that can be learnt from", ":1", "keep what is nested"),
    Wrong("a.json", '[{"a": "\\ud83d"}]', "the record is not JSON that can be learnt from", ":1", "remove \\ud83d"),
    Wrong("a.json", "[" * 100_000, "the file is not JSON", ":1", "jq empty a.json"),
    Wrong("a.json", '[\n{"a": 1},\n]', "the file is not JSON", ":3", "remove the comma before the closing bracket"),
    Wrong("a.json", '[\n{"a": 1,}]', "the file is not JSON", ":2", "remove the comma before the closing bracket"),
    Wrong("a.json", '[\n{"a": 1}\n{"a": 2}]', "the file is not JSON", ":3", 'put a comma before {"a": 2}]'),
    Wrong("a.json", "[{'a': None}]", "the file is not JSON", ":1", "write it with json.dumps(rows), not str(rows)"),
    Wrong("a.json", '[\n{"a": 1},\n{"a": "x', "the file is not JSON", ":3", "jq empty a.json"),
    Wrong("a.json", '[\n{"a": 1}\n', "the file is not JSON", ":3", "tail -c 200 a.json"),
    Wrong(
        "a.json", '[\n{"a": 1}]\nx', "something follows the end of the JSON", ":3", "remove what follows, from line 3"
    ),
    Wrong("a.json", '[{"a": 1}]\n[{"a": 1}]', "several lists follow one another", ":2", "cat a.json | jq -c '.[]'"),
    Wrong("a.json", '{\n"a": 1}\n{\n"a": 2}', "several objects follow one another", ":3", "cat a.json | jq -c ."),
    Wrong("a.json", "[]", "the file holds no rows", ":1", EXAMPLE),
    Wrong("a.jsonl", '{"a": 1,\n{"a": 2}\n', "the line is not JSON", ":1", "write the row in one line"),
    Wrong("a.jsonl", '{"a": 1}\n[1]\n', "a row is a JSON object", ":2", EXAMPLE),
    # tables
    Wrong("a.csv", "x,y\n1,2\n1,2,3\n", "the row has more fields than the head", ":3", "put a field that holds ','"),
    Wrong("a.csv", 'x,y\n"1\n2",2\n1\n', "the row has fewer fields than the head", ":4", "add what is missing, or ','"),
    Wrong(
        "a.json",
        '{"prompt": {"0": "x"},\n"b": {"0": 1}}',
        "the file holds its rows column by column",
        ":1",
        "cat a.json",
    ),
    Wrong("a.csv", "x,y\n1,2\n", "", "", ""),
    Wrong(
        "a.csv", "x,x\n1,2\n", 'two columns of the table are called "x"', ":1", "{ printf 'x,x_2\\n'; cat a.csv | tail"
    ),
    Wrong(
        "a.csv", ",x\n1,2\n", "column 1 of the table has no name", ":1", "{ printf 'index,x\\n'; cat a.csv | tail -n +2"
    ),
    Wrong("a.csv", "7,x\n1,2\n", "the first row of the table is not its head", ":1", "{ printf 'column1,column2\\n'"),
    Wrong("a.csv", LABELS, "the first row of the table is not its head", ":1", NAMED),
    Wrong("a.csv", 'x,y\n1,2\n1,"2\n3,4\n', "a quote is never closed", ":3", UNCLOSED),
    Wrong(
        "a.csv",
        'x,y\n"1"2,3\n',
        "the quotes of the row do not work out",
        ":2",
        'write a quote inside a quoted field as ""',
    ),
    Wrong(
        "a.csv", "x,y\r1,2\r", "the line breaks of the table are mixed", ":1", "tr '\\r' '\\n' < a.csv > a.lines.csv"
    ),
    Wrong("a.csv", "x,y\n", "the file holds no rows", ":1", EXAMPLE),
    Wrong("a.csv", "x,y\n1,é\n".encode("cp1252"), UTF8, ":2", "iconv -f cp1252 -t utf-8 a.csv > a.utf8.csv"),
    Wrong("a.tsv", "x\ty\n1\t合同\n".encode("gb18030"), UTF8, ":2", "iconv -f gb18030 -t utf-8 a.tsv > a.utf8.tsv"),
    Wrong("a.csv", "x,y\n1,2\n".encode("utf-16"), UTF8, ":1", "cat a.csv | iconv -f utf-16 -t utf-8 > a.utf8.csv"),
    # text and XML
    Wrong("a.txt", "one\ncafé\n".encode("cp1252"), UTF8, ":2", "iconv -f cp1252 -t utf-8 a.txt > a.utf8.txt"),
    Wrong("a.txt", "one, two\n".encode("utf-16-le"), UTF8, ":1", "cat a.txt | iconv -f utf-16le -t utf-8 > a.utf8.txt"),
    Wrong("a.txt", b"x" * 300_000 + b"\n\0", "the file is not text", ":2", "file a.txt"),
    Wrong("a.xml", "<a><b>1</b><b>2</b></a>", "no element of the XML is a record", ":1", "xmllint --format a.xml"),
    Wrong("a.xml", "<?xml version='1.0'?>\n<a>\n<b></a>", "the XML is not well-formed", ":3", "xmllint --noout a.xml"),
    Wrong("a.xml", '<!DOCTYPE a [<!ENTITY b "c">]>\n<a>&b;</a>', "the XML has a DTD", ":1", "remove <!DOCTYPE"),
    Wrong("a.xml", "<a>" * 70 + "</a>" * 70, "the XML is nested too deep", ":1", "xmllint --format a.xml"),
    Wrong(
        "a.xml",
        f"<a>{'<p><x>1</x><y>2</y></p><q><x>1</x><y>2</y></q>' * 2}</a>",
        "the XML holds several kinds of records",
        ":1",
        "xmllint --format a.xml",
    ),
    Wrong("a.txt", "<!DOCTYPE html>\n<html></html>", "the file is a web page", ":1", "pandoc -f html -t plain"),
    # what is not read
    Wrong("a.txt", "", "the file holds no rows", ":1", EXAMPLE),
    Wrong("a.txt", " \n\n", "the file holds no rows", ":1", EXAMPLE),
    Wrong("a.txt", b"\1\0\2\3" * 20, "the file is binary", "", "file a.txt"),
    Wrong("a.txt", "%PDF-1.7 ...", "the file is a PDF", "", "pdftotext -layout a.txt a.converted.txt"),
    Wrong(
        "a.xls",
        b"\xd0\xcf\x11\xe0\xa1\xb1",
        "the file is an old Office file (.xls, .doc)",
        "",
        "libreoffice --headless",
    ),
    Wrong("a.arrow", b"ARROW1\0\0", "the file is an Arrow file", "", "python -c 'import sys, datasets;"),
    Wrong("a.jsonl.zst", b"\x28\xb5\x2f\xfd\0", "the file is packed with zstd", "", "zstd -d a.jsonl.zst"),
    Wrong("a.gz", gzip.compress(b'{"a": 1}\n' * 999)[:-20], "the gzip is damaged", "", "gzip -tv a.gz"),
    Wrong("a.gz", gzip.compress(b'{"a": 1}\n')[:-8] + b"\0" * 8, "the gzip is damaged", "", "gzip -tv a.gz"),
    Wrong(
        "a.parquet", EVERY["Parquet"][:-9], "the Parquet file is cut off or damaged", "", "python -c 'import pyarrow"
    ),
    Wrong("a.xlsx", EVERY["Excel"][:-99], "the zip or Excel file is cut off or damaged", "", "unzip -t a.xlsx"),
]


@pytest.mark.parametrize("wrong", FILES, ids=[f"{n} {wrong.what or 'good'}" for n, wrong in enumerate(FILES)])
def test_a_wrong_file_is_told_with_line_and_fix(wrong: Wrong, tmp_path: Path) -> None:
    file = tmp_path / wrong.name
    file.write_bytes(wrong.content if isinstance(wrong.content, bytes) else wrong.content.encode())
    problems = told(file)
    if not wrong.what:
        assert problems == []
        return
    first = problems[0]
    assert (first.what, first.where.partition("  ")[0]) == (wrong.what, wrong.name + wrong.line)
    assert wrong.fix in first.fix
    assert first.why


SHELL = [
    Wrong("a.json", '["x", "y"]', "", "", '{"text":"x"}'),
    Wrong("a.json", '[[{"role": "user"}, {"role": "x"}]]', "", "", '{"messages":[{"role":"user"},{"role":"x"}]}'),
    Wrong("a.json", json.dumps({f"{n}": "yes" for n in range(50)}), "", "", ""),
    Wrong("a.json", '{"train": [{"a": 1}], "test": [{"a": 2}]}', "", "", '{"a":1}'),
    Wrong("a.json", '{\n"a": 1}\n{\n"a": 2}', "", "", '{"a":1}\n{"a":2}'),
    Wrong("a.json", '[{"a": 1}]\n[{"a": 2}]', "", "", '{"a":1}\n{"a":2}'),
    Wrong(
        "a.json", '{"q": {"0": "007", "1": "b"}, "a": {"0": 1, "1": 2}}', "", "", '{"q":"007","a":1}\n{"q":"b","a":2}'
    ),
    Wrong("a.csv", '\n",x",",x"\n1,2\n', "", "", '",x",",x_2"\n1,2'),
    Wrong("a.csv", ",x%\\\n1,2\n", "", "", "index,x%\\\n1,2"),
    Wrong("a.csv.gz", gzip.compress(b"\xef\xbb\xbf7,x\n1,2\n"), "", "", "column1,column2\n7,x\n1,2"),
    Wrong("a.tsv", "x\tx\n1\t2\n", "", "", "x\tx_2\n1\t2"),
    Wrong("a.csv", "x,y\r1,2\r", "", "", "x,y\n1,2"),
    Wrong("a b.csv", "x,y\n1,é\n".encode("cp1252"), "", "", "x,y\n1,é"),
    Wrong("a.txt.gz", gzip.compress("合同\n".encode("gb18030")), "", "", "合同"),
    Wrong("a.csv", "x,y\n1,é\n".encode("utf-16"), "", "", "x,y\n1,é"),
]


@pytest.mark.parametrize("wrong", SHELL, ids=range(len(SHELL)))
def test_the_command_that_a_file_is_told_to_be_mended_with_mends_it(wrong: Wrong, tmp_path: Path) -> None:
    file = tmp_path / wrong.name
    file.write_bytes(wrong.content if isinstance(wrong.content, bytes) else wrong.content.encode())
    (problem,) = told(file)
    fix = problem.fix.replace("| python ", f"| {sys.executable} ")
    if "jq" in problem.fix and not shutil.which("jq"):
        pytest.skip("jq is not installed")
    before = {*tmp_path.iterdir()}
    subprocess.run(["bash", "-ec", fix], cwd=tmp_path, check=True)
    (made,) = {*tmp_path.iterdir()} - before
    assert made.read_text().startswith(wrong.fix)
    assert told(made) == []


def test_after_a_wrong_record_the_others_are_read(tmp_path: Path) -> None:
    for name, text, good in (
        ("a.json", TWICE, [(2, {"a": 1}), (4, {"a": 3})]),
        ("a.csv", 'x,y\n1,2\n"1"2,3\n1\n3,4\n', [(2, {"x": "1", "y": "2"}), (5, {"x": "3", "y": "4"})]),
    ):
        (tmp_path / name).write_text(text)
        found = [raw for raw in read_raw(tmp_path / name, name) if isinstance(raw, Raw)]
        assert [(raw.line, raw.value) for raw in found] == good


@pytest.mark.parametrize("around", ['{"a": "%s"}\n{"a": 2}\n', '{"a": 1}\n{"a": "%s"}\n', '[{"a": 1},\n{"a": "%s"}]'])
def test_a_record_that_is_too_long_is_refused(around: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text(around % ("x" * MAX_RECORD_BYTES))
    (problem,) = told(file)
    line = 1 if around.startswith('{"a": "') else 2
    assert (problem.what, problem.where) == ("the line is too long for a row", f"rows.json:{line}")


def test_a_typed_value_that_has_no_form_in_json_is_told_with_row_and_column(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    file.write_bytes(parquet([{"a": 1, "b": [{"c": b"x"}]}, {"a": 2, "b": [{"c": b"\xff\xd8"}]}]))
    good, bad = list(read_raw(file, "rows.parquet"))
    assert good == Raw(1, {"a": 1, "b": [{"c": "x"}]})
    assert isinstance(bad, Problem)
    assert (bad.what, bad.where) == ("the column holds 2 bytes that are not text", "rows.parquet:row 2  b[0].c")
    assert bad.fix.endswith(" rows.parquet b rows.text.parquet")


def test_cells_that_hold_errors_or_have_no_column_are_told_with_their_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.xlsx"
    file.write_bytes(workbook(("rows", [["x", "y"], ["#N/A", 1], [1, 2, 3], [4, 5]])))
    error, more, good = list(read_raw(file, "rows.xlsx"))
    assert isinstance(error, Problem)
    assert (error.what, error.where) == ("the cell holds the error #N/A", "rows.xlsx:row 2  x")
    assert isinstance(more, Problem)
    assert (more.what, more.where) == ("the row has more cells than the head", "rows.xlsx:row 3")
    assert good == Raw(4, {"x": 4, "y": 5})
    file.write_bytes(workbook(("rows", [["x", None, "y"], [1, 2, 3]])))
    (problem,) = told(file)
    assert (problem.what, problem.where) == ("column 2 of the table has no name", "rows.xlsx:row 1")


@pytest.mark.parametrize(
    ("part", "what"),
    [("word/document.xml", "a Word document"), ("content.xml", "an OpenDocument file"), ("x", "a zip")],
)
def test_a_zip_that_is_no_workbook_is_named(part: str, what: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as archive:
        archive.writestr(part, "x")
    (problem,) = told(tmp_path / "a.xlsx")
    assert problem.what.startswith(f"the file is {what}")


def test_what_is_not_there_or_no_file_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "rows.jsonl").symlink_to("gone")
    for name, what in (
        ("absent.jsonl", f"there is no file {tmp_path}/absent.jsonl"),
        ("pipe", f"{tmp_path}/pipe is not a regular file"),
        ("empty", f"the folder {tmp_path}/empty holds no data files"),
        ("broken", f"there is no file {tmp_path}/broken/rows.jsonl"),
    ):
        with pytest.raises(DataError) as caught:
            data_files(tmp_path / name)
        assert caught.value.problems[0].what == what
        assert caught.value.problems[0].fix
    for name, what in (("absent", "the data cannot be read"), ("empty", "empty is a folder, not a file of rows")):
        (problem,) = told(tmp_path / name)
        assert problem.what == what


def test_a_file_that_vanishes_while_it_is_read_is_told(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text('{"7": {"q": 1}, "8": {"q": 2}}')
    rows = read_raw(file, "rows.json")
    file.unlink()
    with pytest.raises(DataError, match="the data cannot be read"):
        next(rows)


XML = b"<?xml version='1.0'?>\n<D><F>x</F><Q><P i='1'><A>one <b>t</b></A><B>b&amp;c</B></P><P><A>2</A><B/></P></Q></D>"
SOURCES = [*EVERY.values(), XML, b"# Title\n\ntext, more\nand *so* on\n", gzip.compress(EVERY["CSV"])]
PIECES = [b'"', b"{", b"}", b"[", b"]", b",", b"\n", b"\r", b"\\", b"\0", b"\xff", b";", b"\t", b"<", b">", b"&", b""]
PIECES += [b"NaN", b"1e999", b"\\ud800", b"9" * 30, b"<!DOCTYPE a>", b":", b"null", b"|", b"'"]


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """Replaces, doubles, deletes or cuts bytes of a good file; in a workbook, those of one part of it."""
    seed, source = draw(st.integers(0, 2**32)), draw(st.sampled_from(SOURCES))
    rng = random.Random(seed)
    if source is not EVERY["Excel"] or draw(st.booleans()):
        return mutated(source, rng)
    with zipfile.ZipFile(io.BytesIO(source)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    chosen = rng.choice(list(parts))
    parts[chosen] = mutated(parts[chosen], rng)
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return raw.getvalue()


def mutated(source: bytes, rng: random.Random) -> bytes:
    data = bytearray(source)
    for _ in range(rng.randint(1, 4)):
        at, change = rng.randrange(len(data) + 1), rng.random()
        if change < 0.4:
            data[at : at + rng.randint(0, 3)] = rng.choice(PIECES)
        elif change < 0.6:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif change < 0.8:
            data[at:at] = data[rng.randrange(len(data) + 1) :][:50]
        elif change < 0.9:
            del data[at : at + rng.randint(1, 40)]
        else:
            del data[at:]
    return bytes(data)


def is_told_well(content: bytes, file: Path) -> None:
    file.write_bytes(content)
    for problem in told(file):
        assert problem.where.startswith(file.name), problem
        assert problem.what, problem
        assert problem.why, problem
        assert problem.fix, problem


@settings(max_examples=200, deadline=None, derandomize=True)
@given(content=mutants(), suffix=st.sampled_from(["", ".csv", ".json", ".xml"]))
def test_a_mutated_file_is_read_or_told(content: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    is_told_well(content, tmp_path_factory.getbasetemp() / f"mutant{suffix}")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(content=st.binary(max_size=60) | st.text(max_size=20).map(str.encode), packed=st.booleans())
def test_random_bytes_are_read_or_told(content: bytes, packed: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    is_told_well(gzip.compress(content) if packed else content, tmp_path_factory.getbasetemp() / "random")


cells = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\r\t"), max_size=20)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=6), name=st.sampled_from(["CSV", "TSV", "JSON list"])
)
def test_what_was_written_is_read(
    rows: list[tuple[str, str]], name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    expected: list[dict[str, Any]] = [{"prompt": a, "completion": b} for a, b in rows]
    file = tmp_path_factory.getbasetemp() / "written.csv"
    content = json.dumps(expected, indent=1).encode() if name == "JSON list" else table(expected, EVERY_SEPARATOR[name])
    file.write_bytes(content)
    assert [value for _, value in records(file)] == expected


EVERY_SEPARATOR = {"CSV": ",", "TSV": "\t"}


def test_the_limit_of_a_field_is_that_of_a_record(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    rows = [{"prompt": "x" * 1_000_000, "completion": "y"}, *ROWS]
    file.write_bytes(table(rows, ","))
    assert [value for _, value in records(file)] == rows
    assert csv.field_size_limit() == MAX_RECORD_BYTES

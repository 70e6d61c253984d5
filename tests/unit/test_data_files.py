"""Any usual data file becomes records: the format is found by content, and each record knows its place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections import Counter
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from finetune.data.files import Format, LeftOut, Raw, data_files, look_into, parse, place, read_raw, sniff
from finetune.errors import DataError, Problem

ROWS = [
    {"prompt": 'What, "exactly"?\nAnd why?', "completion": "合同; a\tb"},
    {"prompt": "", "completion": "|"},
    {"prompt": "c", "completion": "café 🙂"},
]


def records(file: Path) -> list[tuple[int, dict[str, Any]]]:
    """Reads a file that has no problems: the places and the values."""
    found = []
    for raw in read_raw(file, file.name):
        assert isinstance(raw, Raw), raw
        value = parse(raw, file.name)
        assert isinstance(value, dict), value
        found.append((raw.line, value))
    return found


def table(rows: list[dict[str, Any]], separator: str, lineterminator: str = "\r\n") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=separator, lineterminator=lineterminator)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def workbook(*sheets: tuple[str, list[list[Any]]]) -> bytes:
    from openpyxl import Workbook

    book = Workbook()
    book.remove(book.active)
    for title, rows in sheets:
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    raw = io.BytesIO()
    book.save(raw)
    return raw.getvalue()


def parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    import pyarrow
    import pyarrow.parquet

    raw = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), raw, **options)
    return raw.getvalue()


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


EVERY = {
    "JSON Lines": lines(ROWS),
    "JSON list": json.dumps(ROWS, indent=1).encode(),
    "JSON object of rows": json.dumps({"version": 2, "data": ROWS}, ensure_ascii=False, indent=2).encode(),
    "CSV": table(ROWS, ","),
    "TSV": table(ROWS, "\t"),
    "CSV (;)": table(ROWS, ";", "\n"),
    "CSV (|)": table(ROWS, "|"),
    "Parquet": parquet(ROWS),
    "Excel": workbook(("rows", [list(ROWS[0]), *(list(row.values()) for row in ROWS)])),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", list(EVERY))
def test_the_same_rows_come_out_of_every_format_whatever_the_file_is_called(
    name: str, packed: bool, tmp_path: Path
) -> None:
    file = tmp_path / "rows.dat"
    file.write_bytes(gzip.compress(EVERY[name]) if packed else EVERY[name])
    fmt = sniff(file, "rows.dat")
    assert (fmt.name, fmt.gzip, fmt.unit) == (name, packed, "row" if name in ("Parquet", "Excel") else "line")
    assert [value for _, value in records(file)] == ROWS


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("Parquet", "Excel")])
def test_a_mark_of_utf_8_at_the_beginning_is_no_part_of_the_first_row(name: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.dat"
    file.write_bytes(b"\xef\xbb\xbf" + EVERY[name])
    assert [value for _, value in records(file)] == ROWS


def test_a_record_of_a_pretty_list_has_the_line_where_it_begins(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text('\n[\n  {\n    "a": "x\\ny"\n  },\n\n  {"a": 2}, {"a": 3},\n  [{"a": 4}]\n]\n')
    assert records(file) == [(3, {"a": "x\ny"}), (7, {"a": 2}), (7, {"a": 3}), (8, {"a": 4})]


def test_a_list_that_is_read_in_many_pieces_is_the_list(tmp_path: Path) -> None:
    rows = [{"id": n, "text": 'ä{[,]}\n"' * (n % 5000)} for n in range(0, 20_000, 31)]
    file = tmp_path / "rows.json"
    text = json.dumps(rows, ensure_ascii=False, indent=1)
    assert len(text) > 4 * 2**20
    file.write_text(text)
    found = records(file)
    assert [value for _, value in found] == rows
    every = text.splitlines()
    assert all(every[line - 1] == " {" and every[line].strip() == f'"id": {row["id"]},' for line, row in found)


def test_a_row_of_a_table_has_the_line_where_it_begins(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b'text,label\r\n"a\r\n\r\n""b""",x\r\n\r\nc,\r\n')
    assert records(file) == [(2, {"text": 'a\r\n\r\n"b"', "label": "x"}), (6, {"text": "c", "label": ""})]


def test_a_space_after_each_separator_belongs_to_no_field(tmp_path: Path) -> None:
    file = tmp_path / "rows"
    file.write_text('text, label\n"a, b", "c"\nd, e\n')
    assert records(file) == [(2, {"text": "a, b", "label": "c"}), (3, {"text": "d", "label": "e"})]


def test_an_object_keyed_by_id_gives_each_value_its_id(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text('{\n "7": {"q": 1},\n "8": {"id": "own",\n "q": 2}\n}')
    assert records(file) == [(2, {"id": "7", "q": 1}), (3, {"id": "own", "q": 2})]
    file.write_text('{"7": {"q": 1}, "8": {"q": 2}}')
    assert sniff(file, "x").name == "JSON object of rows"
    assert records(file) == [(1, {"id": "7", "q": 1}), (1, {"id": "8", "q": 2})]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "Hi"}]},
        {"dialogue": [{"role": "user", "content": "Hi"}]},
        {"prompt": {"a": 1}, "completion": {"b": 2}},
        {"title": "a", "body": "b"},
        {"id": 1, "tags": ["a"], "about": {}},
    ],
)
def test_one_object_is_one_row_in_one_line_or_in_many(row: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    for indent in (None, 1):
        file.write_text(json.dumps(row, indent=indent))
        assert records(file) == [(1, row)]


def test_the_list_of_rows_in_an_object_is_found_and_keeps_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text('{"version": "1", "data": [\n{"a": 1},\n{"a": 2}],\n"more": [1]}')
    assert records(file) == [(2, {"a": 1}), (3, {"a": 2})]


def test_lines_stay_bytes_until_they_are_parsed(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_bytes(b'\xef\xbb\xbf\n{"a": 1}\n \n{"a": 2')
    assert list(read_raw(file, "x")) == [Raw(2, b'{"a": 1}\n'), Raw(4, b'{"a": 2')]
    broken = parse(Raw(4, b'{"a": 2'), "x")
    assert isinstance(broken, Problem)
    assert (broken.what, broken.where) == ("the line is not JSON", "x:4")


def test_typed_columns_come_out_as_json_could_hold_them(tmp_path: Path) -> None:
    rows = [
        {
            "chat": [{"role": "user", "content": "Hi"}],
            "deep": {"a": [[1], []], "b": None},
            "when": datetime(2026, 1, 2, 3, 4, 5),
            "price": Decimal("1.50"),
            "raw": b"caf\xc3\xa9",
            "score": float("nan"),
        }
    ]
    file = tmp_path / "rows.parquet"
    file.write_bytes(parquet(rows))
    plain = {"when": "2026-01-02T03:04:05", "price": "1.50", "raw": "café", "score": None}
    assert records(file) == [(1, rows[0] | plain)]


def test_rows_of_parquet_are_counted_over_row_groups(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    file.write_bytes(parquet([{"n": n} for n in range(1000)], row_group_size=300))
    assert records(file) == [(n + 1, {"n": n}) for n in range(1000)]


def test_the_first_sheet_with_rows_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.xlsx"
    head, day = ["text", "n", "when"], datetime(2026, 1, 2)
    rows = [[], head, ["a", 1, day], [None, None, None], ["b", 2.5, datetime(2026, 1, 2, 3)], [None, True]]
    file.write_bytes(workbook(("cover", []), ("rows", rows), ("notes", [["x"]])))
    fmt = sniff(file, "x")
    assert fmt.note == 'the sheet "rows" is read; not read: cover, notes'
    assert records(file) == [
        (3, {"text": "a", "n": 1, "when": "2026-01-02"}),
        (5, {"text": "b", "n": 2.5, "when": "2026-01-02T03:00:00"}),
        (6, {"text": "", "n": True, "when": ""}),
    ]
    assert place("rows.xlsx", fmt, 3) == "rows.xlsx:row 3"
    assert place("rows.csv", Format("CSV"), 3) == "rows.csv:3"


def test_the_repeated_element_of_xml_is_the_record(tmp_path: Path) -> None:
    file = tmp_path / "rows.xml"
    file.write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<Doc id="1"><Focus>F</Focus><Sub><A>1</A></Sub>\n<Pairs>\n'
        '<Pair pid="1">\n<Q t="x"> Is 1 &lt; 2? </Q><A>Yes, <b>it</b> is.\n</A></Pair>\n'
        "<Pair><Q>Which?</Q><A/><See><Url>u</Url><Url>v</Url></See></Pair>\n<Pair><Q>c</Q><A>d</A></Pair></Pairs></Doc>"
    )
    assert records(file) == [
        (4, {"@pid": "1", "Q@t": "x", "Q": "Is 1 < 2?", "A": "Yes, it is."}),
        (7, {"Q": "Which?", "A": "", "See": {"Url": ["u", "v"]}}),
        (8, {"Q": "c", "A": "d"}),
    ]
    file.write_text("<Doc><Focus>F</Focus><Pair><Q>a</Q><A>b</A></Pair></Doc>")
    assert records(file) == [(1, {"Q": "a", "A": "b"})]
    file.write_bytes("<?xml version='1.0' encoding='utf-16'?><d><r><q>é</q><a>合</a></r></d>".encode("utf-16"))
    assert records(file) == [(1, {"q": "é", "a": "合"})]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("text", "\n\nDear Sir,\nthank you for the letter, it came,\n\nand so on,\n"),
        ("text", "[客户]: 你好\n[律师]: 您好\n"),
        ("text", "[1] Smith, 2020\n[2] Jones, 2021\n"),
        ("text", "[see](http://x.y) for more\n"),
        ("text", "{{name}} says hi\n"),
        ("text", "<think>hm\nso it is\n"),
        ("text", '"Well," she said.\n"No," he said.\n'),
        ("text", "7\n8\n9\n"),
        ("text", "\tOnce upon a time\n\tthere was\n"),
        ("text", "| a | b |\n| c | d |\n| e | f |\n"),
        ("Markdown", "# Title\n\nfirst, second\n"),
        ("Markdown", '<p align="center">\n<img src="a.png">\n</p>\n\n## Title\n'),
    ],
)
def test_prose_is_one_document_and_no_table(name: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "document"
    file.write_text(text)
    assert sniff(file, "x") == Format(name)
    assert records(file) == [(len(text) - len(text.lstrip("\n")) + 1, {"text": text})]


def test_a_table_of_one_column_is_known_by_its_name_alone(tmp_path: Path) -> None:
    for name, expected in (("texts.csv", [{"text": "a"}, {"text": "b"}]), ("texts.txt", [{"text": "text\na\nb\n"}])):
        (tmp_path / name).write_text("text\na\nb\n")
        assert [value for _, value in records(tmp_path / name)] == expected


def test_a_long_first_row_does_not_hide_the_table(tmp_path: Path) -> None:
    rows = [{"text": "long, " * 100_000, "label": "a"}, {"text": "b", "label": "c"}]
    file = tmp_path / "rows"
    file.write_bytes(table(rows, ","))
    assert records(file) == [(2, rows[0]), (3, rows[1])]


def test_attributes_of_xml_are_columns_by_where_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "rows.xml"
    row = '<r xmlns:x="u" id="7"><q lang="en">a</q><o key="A">1</o><o key="B">2</o><s><t n="3">x</t></s><a>b</a></r>'
    file.write_text(f"<d>{row}{row}</d>")
    value = {"@id": "7", "q@lang": "en", "o@key": ["A", "B"], "s.t@n": "3", "q": "a", "o": ["1", "2"]}
    assert records(file) == [(1, {**value, "s": {"t": "x"}, "a": "b"})] * 2


def test_records_at_another_depth_of_xml_are_left_out_and_told_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "rows.xml"
    row, other = "<r><q>a</q><a>b</a></r>", "<e><f>1</f><g>2</g></e>"
    file.write_text(f"<d><h><t>1</t><u>2</u></h>{row * 3}<x>{row}</x><y><z>{other * 2}</z></y></d>")
    found = list(read_raw(file, "rows.xml"))
    assert found[:3] == [Raw(1, {"q": "a", "a": "b"})] * 3
    where = "they stand in {} of the XML, the records that are read in d/r"
    assert found[3:] == [LeftOut(where.format("d/x/r"))] + [LeftOut(where.format("d/y/z/e"))] * 2


def test_a_folder_gives_its_data_files_by_name(tmp_path: Path) -> None:
    for name in (
        "b/2.json",
        "b/10.csv",
        "a.parquet",
        "README.md",
        "a.md",
        "LICENSE",
        "x_LICENSE.txt",
        ".hidden/a.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    for name in (
        "b/cat.PNG",
        "model.safetensors",
        "rows.zip",
        "load.py",
        ".DS_Store",
        "dataset_infos.json",
        "c.tsv.gz",
    ):
        (tmp_path / name).write_text("x")
    os.mkfifo(tmp_path / "pipe")
    names = [str(file.relative_to(tmp_path)) for file in data_files(tmp_path)]
    assert names == ["a.parquet", "b/10.csv", "b/2.json", "c.tsv.gz"]
    assert data_files(tmp_path / "README.md") == [tmp_path / "README.md"]


def test_a_folder_tells_what_is_not_read_of_it_and_why(tmp_path: Path) -> None:
    for name in ("a.jsonl", "terms_of_notice.txt", "guide.md", *(f"{n}.png" for n in range(5)), ".hidden", "~$a.xlsx"):
        (tmp_path / name).write_text("x")
    (tmp_path / "more").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(tmp_path / "pipe")
    found = look_into(tmp_path)
    assert found.files == [tmp_path / "a.jsonl"]
    assert set(found.note().removeprefix("not read: ").split("; ")) == {
        "more (a link to a folder)",
        "terms_of_notice.txt (by its name it tells of the data)",
        "0.png, 1.png, 2.png and 2 more (no data by its name)",
        "pipe (no regular file)",
        "guide.md (Markdown beside other files)",
    }
    for name in ("terms_of_notice.txt", "pipe", "more", *(f"{n}.png" for n in range(5))):
        (tmp_path / name).unlink()
    (tmp_path / "a.jsonl").unlink()
    assert (look_into(tmp_path).files, look_into(tmp_path).note()) == ([tmp_path / "guide.md"], "")


def test_a_folder_of_markdown_alone_is_a_folder_of_documents(tmp_path: Path) -> None:
    for name in ("README.md", "b.md", "a.md", "logo.png"):
        (tmp_path / name).write_text("# x")
    assert data_files(tmp_path) == [tmp_path / "a.md", tmp_path / "b.md"]


def public(folder: Path) -> dict[str, tuple[str, int]]:
    """The format of each public file, and its number of records as its publisher or another parser counts them."""
    listed = {
        "legal_lawbench_zh": ("JSON list", {"1-1.json": 500, "1-2.json": 500, "3-6.json": 500}),
        "medical_pubmedqa": ("JSON object of rows", {"ori_pqal.json": 1000}),
        "medical_medqa_medxpert": ("JSON Lines", {"medqa_input.jsonl": 1273, "mmlu_medical_input.jsonl": 1089}),
        "medical_medquad_xml": ("XML", {"0000003_5.xml": 8, "0000027_1.xml": 10, "0000008.xml": 28}),
        "finance_tatqa": ("JSON list", {"tatqa_dataset_dev.json": 278}),
        "finance_banking77": ("CSV", {"train.csv": 10003, "test.csv": 3080}),
        "manufacturing_assetopsbench": ("CSV", {"alert_events.csv": 1466}),
        "pref_hh_rlhf": ("JSON Lines", {"test.jsonl.gz": 2312}),
        "general_gsm8k": ("JSON Lines", {"test.jsonl": 1319}),
        "general_ifeval": ("JSON Lines", {"input_data.jsonl": 541}),
        "code_humaneval": ("JSON Lines", {"HumanEval.jsonl.gz": 164}),
        "manufacturing_failuresensoriq": ("JSON Lines", {"filtered_data_all_Mar_30_2025.jsonl": 2667}),
        "tools_bfcl": (
            "JSON Lines",
            {
                **dict.fromkeys(
                    ("BFCL_v4_multiple.json", "BFCL_v4_parallel.json", "BFCL_v4_multi_turn_base.json"), 200
                ),
                **dict.fromkeys((f"possible_answer__BFCL_v4_{name}.json" for name in ("multiple", "parallel")), 200),
                **dict.fromkeys(("BFCL_v4_simple_python.json", "possible_answer__BFCL_v4_simple_python.json"), 400),
                "BFCL_v4_irrelevance.json": 240,
            },
        ),
        "formats_llamafactory": (
            "JSON list",
            {
                **dict.fromkeys(("dpo_en_demo.json", "dpo_zh_demo.json", "kto_en_demo.json"), 300),
                "alpaca_en_demo.json": 999,
                "alpaca_zh_demo.json": 1000,
                "identity.json": 91,
                "glaive_toolcall_en_demo.json": 300,
            },
        ),
        "formats_fastchat": ("JSON list", {"dummy_conversation.json": 500}),
        "formats_mlx": ("JSON Lines", {"lora__train.jsonl": 1000, "lora__valid.jsonl": 100, "lora__test.jsonl": 100}),
        "legal_legalbench": (
            "TSV",
            {
                **{f"{task}__train.tsv": 5 for task in ("abercrombie", "hearsay", "proa")},
                **{f"cuad_{task}__train.tsv": 6 for task in ("governing_law", "cap_on_liability")},
                "contract_nli_confidentiality_of_agreement__train.tsv": 8,
                "contract_nli_no_licensing__train.tsv": 8,
            },
        ),
    }
    found = {f"{sub}/{file}": (name, count) for sub, (name, files) in listed.items() for file, count in files.items()}
    more = {
        "wiki_demo.txt": ("text", 1),
        "c4_demo.jsonl": ("JSON Lines", 300),
        "v1_sft_demo.jsonl": ("JSON Lines", 500),
    }
    more |= {"v1_dpo_demo.jsonl": ("JSON Lines", 10), "reason_tool_use_demo_50.jsonl": ("JSON Lines", 50)}
    more |= {"dataset_info.json": ("JSON object of rows", 104)}
    found |= {f"formats_llamafactory/{file}": told for file, told in more.items()}
    chats = {"MockRetailDomainEnv-few_shot.jsonl": ("JSON Lines", 69), "gpt-4o-airline.first60.json": ("JSON list", 60)}
    chats |= {"MockAirlineDomainEnv-few_shot.jsonl": ("JSON Lines", 19)}
    found |= {f"cs_taubench/{file}": told for file, told in chats.items()}
    found |= {
        "formats_fastchat/question.jsonl": ("JSON Lines", 80),
        "formats_mlx/wwdc25__valid.jsonl": ("JSON Lines", 144),
    }
    found |= {"formats_fastchat/judge_prompts.jsonl": ("JSON Lines", 8)}
    found |= {"manufacturing_assetopsbench/all_utterance.jsonl": ("JSON Lines", 141)}
    assert all((folder / file).is_file() for file in found)
    return found


@pytest.fixture
def folder() -> Path:
    if "FINETUNE_TEST_DATA" not in os.environ:
        pytest.skip("FINETUNE_TEST_DATA is not set: the public data sets are not here")
    return Path(os.environ["FINETUNE_TEST_DATA"])


def test_public_data_sets_are_read_whole(folder: Path) -> None:
    told = public(folder)
    read = {}
    for file in told:
        name = sniff(folder / file, file).name
        read[file] = (name, len(records(folder / file)))
    assert read == told


def test_what_is_no_rows_among_public_files_is_told(folder: Path) -> None:
    with pytest.raises(DataError, match="the file is a list of texts, not of rows"):
        list(read_raw(folder / "finance_banking77" / "categories.json", "x"))
    with pytest.raises(DataError, match="the file is an object of texts, not of rows"):
        list(read_raw(folder / "medical_pubmedqa" / "test_ground_truth.json", "x"))


def test_a_folder_of_public_files_is_listed_without_what_tells_of_them(folder: Path) -> None:
    suffixes = Counter(file.suffix for file in data_files(folder / "legal_legalbench"))
    assert suffixes == {".tsv": 7, ".txt": 7}
    assert [file.name for file in data_files(folder / "medical_pubmedqa")] == [
        "ori_pqal.json",
        "test_ground_truth.json",
    ]


def test_values_are_those_of_other_readers(folder: Path) -> None:
    with (folder / "finance_banking77" / "train.csv").open(newline="", encoding="utf-8") as stream:
        expected = list(csv.DictReader(stream))
    assert [value for _, value in records(folder / "finance_banking77" / "train.csv")] == expected
    file = folder / "medical_pubmedqa" / "ori_pqal.json"
    assert [value for _, value in records(file)] == [
        {"id": key} | row for key, row in json.loads(file.read_text()).items()
    ]

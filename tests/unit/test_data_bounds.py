"""A small file never becomes a large one in memory: what would is refused with its row and column."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from test_data_files import workbook

from finetune.data.files import MAX_RECORD_BYTES, Raw, read_raw, sniff
from finetune.data.files.row_bytes import row_bytes
from finetune.errors import DataError, Problem

MIB = 2**20


def told(file: Path) -> tuple[list[int], list[Problem]]:
    """Reads a file to its end or to what ends it: the places of its good rows, and its problems."""
    good: list[int] = []
    problems: list[Problem] = []
    try:
        for found in read_raw(file, file.name):
            if isinstance(found, Raw):
                good.append(found.line)
            else:
                problems.append(found)
    except DataError as error:
        problems += error.problems
    return good, problems


def written(file: Path, columns: dict[str, Any], **options: Any) -> Path:
    pyarrow.parquet.write_table(pa.table(columns), file, compression="zstd", **options)
    assert file.stat().st_size < 40_000
    return file


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read as Linux tells them")
def test_a_text_that_stands_once_in_a_file_and_in_every_row_is_in_memory_a_few_times(tmp_path: Path) -> None:
    text, count = "x" * (4 * MIB), 300
    file = written(tmp_path / "a.parquet", {"prompt": pa.DictionaryArray.from_arrays([0] * count, [text])})
    code = "import re, sys; from pathlib import Path; from finetune.data.files import read_raw; "
    code += "print(sum(len(r.value['prompt']) for r in read_raw(Path(sys.argv[1]), 'a'))); "
    # not getrusage's figure, which begins with that of the process that started this one
    code += r"print(re.search(r'VmHWM:\s+(\d+) kB', Path('/proc/self/status').read_text())[1])"
    command = [sys.executable, "-c", code, str(file)]
    total, peak_kib = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert total == 4 * MIB * count  # 1.2 GiB, one after another
    assert peak_kib < 512 * 1024


LISTS = pa.ListArray.from_arrays(pa.array([0, 4_000_000], pa.int32()), pa.repeat(7, 4_000_000))


@pytest.mark.parametrize(
    ("columns", "options", "where", "what"),
    [
        ({"q": ["a", "x" * (MAX_RECORD_BYTES + 1), "b"]}, {}, "row 2  q", "the row is too long"),
        ({"q": ["a"], "l": LISTS}, {}, "row 1  l.list.element", "the row is too long"),
        ({"q": [["x" * 1000] * 10_000, ["y"]]}, {}, "row 1  q", "the row is too long"),
        ({"q": [[{"c": "x" * 1000}] * 10_000, []]}, {}, "row 1  q", "the row is too long"),
        ({"q": ["x" * (9 * MIB)]}, {"use_dictionary": False}, "row 1  q", "the row is too long"),
    ],
)
def test_a_row_that_is_too_long_is_named_with_its_column(
    columns: dict[str, Any], options: dict[str, Any], where: str, what: str, tmp_path: Path
) -> None:
    good, (problem,) = told(written(tmp_path / "a.parquet", columns, **options))
    assert (problem.what, problem.where) == (what, f"a.parquet:{where}")
    assert problem.why.endswith(f"a row has at most {MAX_RECORD_BYTES:,}")
    rows = len(next(iter(columns.values())))
    assert good == [row for row in range(1, rows + 1) if f"row {row} " not in where]


def test_a_column_that_swells_a_thousandfold_is_not_read(tmp_path: Path) -> None:
    texts = pa.repeat("x" * MIB, 300)
    _, (problem,) = told(written(tmp_path / "a.parquet", {"q": texts}, use_dictionary=False))
    assert problem.what == "the column swells beyond measure when it is unpacked"
    assert problem.where == "a.parquet:row 1  q"
    assert problem.fix.endswith(" a.parquet a.small.parquet")


def test_two_columns_of_one_name_are_refused_and_the_fix_names_them_apart(tmp_path: Path) -> None:
    table = pa.table([["a"], ["b"], ["c"]], names=["q", "q", "r"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    good, (problem,) = told(tmp_path / "a.parquet")
    assert (good, problem.what) == ([], 'two columns of the table are called "q"')
    fix = problem.fix.replace("python ", f"{sys.executable} ", 1)
    subprocess.run(fix, shell=True, cwd=tmp_path, check=True)
    (row,) = read_raw(tmp_path / "a.named.parquet", "a")
    assert row == Raw(1, {"q": "a", "q_2": "b", "r": "c"})


EVERY_TYPE: dict[str, Any] = {
    "text": pa.array(["ä", None]),
    "large": pa.array(["abc", ""], pa.large_string()),
    "category": pa.array(["x", "yy"]).dictionary_encode(),
    "bytes": pa.array([b"abc", None], pa.binary(3)),
    "number": pa.array([1, None]),
    "truth": pa.array([True, None]),
    "nothing": pa.nulls(2),
    "decimal": pa.array([Decimal("1.5"), None]),
    "list": pa.array([["a", "bb", None], None]),
    "pair": pa.array([["a", "bb"], None], pa.list_(pa.string(), 2)),
    "struct": pa.array([{"a": "x", "b": [1, 2]}, None]),
    "map": pa.array([[("k", "vv")], []], pa.map_(pa.string(), pa.string())),
}


def test_the_bytes_of_every_type_are_counted() -> None:
    sizes = {name: row_bytes(column) for name, column in EVERY_TYPE.items()}
    assert sizes == {
        "text": [2, 0],
        "large": [3, 0],
        "category": [1, 2],
        "bytes": [3, 3],
        "number": [8, 8],
        "truth": [1, 1],
        "nothing": [1, 1],
        "decimal": [16, 16],
        "list": [3, 0],
        "pair": [3, 0],
        "struct": [17, 0],
        "map": [3, 0],
    }
    assert row_bytes(EVERY_TYPE["list"].slice(1)) == [0]


def test_texts_that_stay_in_their_dictionaries_come_out_the_same(tmp_path: Path) -> None:
    rows = 3000
    columns = {name: column.take(pa.array([0, 1] * (rows // 2))) for name, column in EVERY_TYPE.items()}
    columns["long"] = pa.array(["x" * 200_000, "y"]).take(pa.array([0, 1] * (rows // 2)))  # 300 MB, and told so
    found = [raw.value for raw in read_raw(written(tmp_path / "a.parquet", columns), "a") if isinstance(raw, Raw)]
    plain = {name: column.to_pylist() for name, column in EVERY_TYPE.items()}
    rest = {"bytes": ["abc", None], "decimal": ["1.5", None], "pair": [["a", "bb"], None], "long": ["x" * 200_000, "y"]}
    rest["map"] = [[["k", "vv"]], []]
    one, other = ({name: values[n] for name, values in (plain | rest).items()} for n in (0, 1))
    assert found == [one, other] * (rows // 2)


def zipped(file: Path, parts: dict[str, str]) -> Path:
    """Writes a workbook of openpyxl's with some parts replaced."""
    with zipfile.ZipFile(io.BytesIO(workbook(("rows", [["q", "a"], ["b", "c"]])))) as archive:
        whole = {name: archive.read(name).decode() for name in archive.namelist()} | parts
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    texts = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}"/></Types>'
    if "xl/sharedStrings.xml" in parts:
        whole["[Content_Types].xml"] = whole["[Content_Types].xml"].replace("</Types>", texts)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in whole.items():
            archive.writestr(name, content)
    assert file.stat().st_size < 40_000
    return file


MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
SHEET = f'<worksheet xmlns="{MAIN}"><sheetData>{{}}</sheetData>{{}}</worksheet>'
HEAD = '<row r="1"><c r="A1" t="str"><v>q</v></c><c r="B1" t="str"><v>a</v></c></row>'
LONG, EMPTY = "x" * (MAX_RECORD_BYTES + 1), f"<{'e' * 999}/>"


def sheet(rows: str, after: str = "") -> dict[str, str]:
    return {"xl/worksheets/sheet1.xml": SHEET.format(HEAD + rows, after)}


@pytest.mark.parametrize(
    ("parts", "where"),
    [
        (sheet(f'<row r="3"><c r="B3" t="inlineStr"><is><t>{LONG}</t></is></c></row>'), ":row 3  B3"),
        (sheet(f'<row r="3"><c r="B3" t="str"><v>{LONG}</v></c></row>'), ":row 3  B3"),
        (sheet(f"<row>{EMPTY * (MAX_RECORD_BYTES // 999)}</row>"), ":row 2"),
        (
            {"xl/sharedStrings.xml": f"<sst><si><t>a</t></si><si><t>{LONG}</t></si></sst>"},
            "  xl/sharedStrings.xml, text 2",
        ),
    ],
)
def test_a_row_of_a_workbook_that_is_too_long_is_told_before_it_is_read(
    parts: dict[str, str], where: str, tmp_path: Path
) -> None:
    _, (problem,) = told(zipped(tmp_path / "a.xlsx", parts))
    assert (problem.what, problem.where) == ("the row is too long", f"a.xlsx{where}")


def test_a_text_that_stands_once_in_a_workbook_and_in_every_cell_of_a_row_is_told(tmp_path: Path) -> None:
    cells = "".join(f'<c t="s"><v>{int(n > 0)}</v></c>' for n in range(300))
    head = "".join(f'<c t="str"><v>c{n}</v></c>' for n in range(300))
    rows = f'<row r="1">{head}</row><row r="2">{cells}</row><row r="3"><c t="str"><v>good</v></c></row>'
    texts = f"<sst xmlns='{MAIN}'><si><t>a</t></si><si><t>{'x' * 30_000}</t></si></sst>"
    file = zipped(
        tmp_path / "a.xlsx", {"xl/worksheets/sheet1.xml": SHEET.format(rows, ""), "xl/sharedStrings.xml": texts}
    )
    good, (problem,) = told(file)
    assert (good, problem.what, problem.where) == ([3], "the row is too long", "a.xlsx:row 2  c1")


def test_a_part_that_unpacks_into_more_than_is_held_is_told(tmp_path: Path) -> None:
    file = tmp_path / "a.xlsx"
    file.write_bytes(workbook(("rows", [["q", "a"], ["b", "c"]])))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("xl/big.xml", "w") as part:
        for _ in range(257):
            part.write(b" " * MIB)
    _, (problem,) = told(file)
    assert (problem.what, problem.where) == ("the workbook is too large", "a.xlsx")


def test_merged_cells_and_formulas_without_a_value_are_told_with_the_first_of_them(tmp_path: Path) -> None:
    rows = '<row r="2"><c r="A2"><f>1+1</f><v>2</v></c><c r="B2" t="str"><f>T(1)</f><v></v></c></row>'
    rows += '<row r="3"><c r="A3"><f>A2</f><v/></c><c r="B3"><f>A2</f></c></row>'
    file = zipped(tmp_path / "a.xlsx", sheet(rows, '<mergeCells count="1"><mergeCell ref="A2:A3"/></mergeCells>'))
    assert sniff(file, "a.xlsx").note == (
        "1 range of merged cells has a value in the first cell alone, first A2:A3; 2 formulas have no value yet, "
        "first A3: until the file is saved in Excel or LibreOffice, they are empty"
    )
    assert list(read_raw(file, "a")) == [Raw(2, {"q": 2, "a": ""})]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (f"<r><q>{LONG}</q><a>b</a></r>", "the record is too long for a row"),
        (f"<r>{EMPTY * (MAX_RECORD_BYTES // 999)}<a>b</a></r>", "the record is too long for a row"),
        (f'<r k="{LONG}"><q>a</q><a>b</a></r>', "the record is too long for a row"),
        (f'<r k="{LONG * 2}"><q>a</q><a>b</a></r>', "a tag is too long for a row"),
        (f"<r><q>a</q><!--{LONG * 2}--><a>b</a></r>", "a tag is too long for a row"),
    ],
)
def test_a_record_of_xml_has_the_bound_of_a_row_whatever_it_is_made_of(row: str, what: str, tmp_path: Path) -> None:
    file = tmp_path / "a.xml"
    file.write_text(f"<d>\n<r><q>a</q><a>b</a></r>\n{row}\n</d>")
    _, (problem,) = told(file)
    assert (problem.what, problem.where.partition("  ")[0]) == (what, "a.xml:3")

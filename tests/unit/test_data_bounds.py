"""A small file never becomes a large one in memory: what would is refused with its row and column."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from finetune.data.files import MAX_RECORD_BYTES, Raw, read_raw
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


def test_a_text_that_stands_once_in_a_file_and_in_every_row_is_in_memory_a_few_times(tmp_path: Path) -> None:
    text, count = "x" * (4 * MIB), 300
    file = written(tmp_path / "a.parquet", {"prompt": pa.DictionaryArray.from_arrays([0] * count, [text])})
    code = "import resource, sys; from pathlib import Path; from finetune.data.files import read_raw; "
    code += "print(sum(len(r.value['prompt']) for r in read_raw(Path(sys.argv[1]), 'a'))); "
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
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

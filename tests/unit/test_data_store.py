"""Files are rendered once: by one process or by several, into memory or into a cache, always the same examples."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from lensing import make_base

from finetune.data import Dataset, Example, prepare
from finetune.data import filling as rendering
from finetune.data.crew import on_all
from finetune.data.entries import KEPT_SECONDS
from finetune.data.store import Writer
from finetune.errors import DataError, RecipeError
from finetune.recipe import load

ROWS = [{"prompt": f"Question {i}?", "completion": f"Answer {i}.", "who": f"customer {i % 7}"} for i in range(700)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("byte-base"))


@pytest.fixture
def every_file_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "SMALL_BYTES", 0)


def prepared(folder: Path, base: Path, data: str, cache: Path | None = None) -> Dataset:
    (folder / "recipe.yaml").write_text(f"base: a/b\ndata: {data}\n")
    return prepare(load(folder / "recipe.yaml"), base, cache or folder / "cache")


def write(file: Path, rows: list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def entries(cache: Path) -> list[Path]:
    return [entry for entry in cache.iterdir() if entry.is_dir()]


@pytest.mark.usefixtures("every_file_is_cached")
def test_what_is_mapped_from_the_cache_is_what_was_rendered(tmp_path: Path, base: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS)
    first = prepared(tmp_path, base, "{train: rows.jsonl}")
    (entry,) = entries(tmp_path / "cache")
    times = {file.name: file.stat().st_mtime_ns for file in entry.iterdir()}
    again = prepared(tmp_path, base, "{train: rows.jsonl}")
    assert times == {file.name: file.stat().st_mtime_ns for file in entry.iterdir()}
    assert again.sha256 == first.sha256
    assert (again.train, again.held_out, again.counts, again.notes) == (
        first.train,
        first.held_out,
        first.counts,
        first.notes,
    )


@pytest.mark.usefixtures("every_file_is_cached")
@pytest.mark.parametrize(
    "change",
    ["data: {train: rows.jsonl, preserve_thinking: true}", "system: Be brief.\ndata: {train: rows.jsonl}", "rows"],
)
def test_another_setting_or_another_row_makes_another_cache(change: str, tmp_path: Path, base: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS[:30])
    prepared(tmp_path, base, "{train: rows.jsonl}")
    if change == "rows":
        write(tmp_path / "rows.jsonl", ROWS[:31])
        change = "data: {train: rows.jsonl}"
    (tmp_path / "other.yaml").write_text(f"base: a/b\n{change}\n")
    prepare(load(tmp_path / "other.yaml"), base, tmp_path / "cache")
    assert len(entries(tmp_path / "cache")) == 2


@pytest.mark.usefixtures("every_file_is_cached")
@pytest.mark.parametrize("name", ["ids.u32", "rows.u64", "told.json"])
def test_a_cache_that_is_not_whole_is_made_again(name: str, tmp_path: Path, base: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS[:50])
    first = prepared(tmp_path, base, "{train: rows.jsonl}").sha256
    (entry,) = entries(tmp_path / "cache")
    os.truncate(entry / name, (entry / name).stat().st_size // 2)
    assert prepared(tmp_path, base, "{train: rows.jsonl}").sha256 == first
    (entry,) = entries(tmp_path / "cache")
    assert (entry / name).stat().st_size


@pytest.mark.usefixtures("every_file_is_cached")
def test_damage_that_keeps_the_length_is_seen(tmp_path: Path, base: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS[:50])
    first = prepared(tmp_path, base, "{train: rows.jsonl}").sha256
    (entry,) = entries(tmp_path / "cache")
    (entry / "ids.u32").write_bytes(bytes((entry / "ids.u32").stat().st_size))
    assert prepared(tmp_path, base, "{train: rows.jsonl}").sha256 == first


@pytest.mark.usefixtures("every_file_is_cached")
def test_only_what_is_ours_and_old_is_swept_out_of_the_cache(tmp_path: Path, base: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS[:5])
    cache, old = tmp_path / "cache", 40 * 86_400
    (cache / "thesis").mkdir(parents=True)
    (cache / ("0" * 32)).mkdir()
    (cache / "link").symlink_to("nowhere")
    for name in ("thesis", "0" * 32):
        os.utime(cache / name, (1e9, 1e9))
    assert old > KEPT_SECONDS
    prepared(tmp_path, base, "{train: rows.jsonl}")
    assert {entry.name for entry in entries(cache)} >= {"thesis"}
    assert not (cache / ("0" * 32)).exists()
    assert (cache / "link").is_symlink()


@pytest.mark.usefixtures("every_file_is_cached")
def test_a_file_that_changes_while_it_is_read_leaves_no_cache(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "rows.jsonl", ROWS[:9])
    read = rendering.read_raw

    def rewriting(*named: Any) -> Iterator[Any]:
        yield from read(*named)
        write(tmp_path / "rows.jsonl", ROWS[9:18])

    monkeypatch.setattr(rendering, "read_raw", rewriting)
    with pytest.raises(DataError, match="the file changed while it was read"):
        prepared(tmp_path, base, "{train: rows.jsonl}")
    assert entries(tmp_path / "cache") == []


@pytest.mark.usefixtures("every_file_is_cached")
def test_rows_that_are_wrong_leave_no_cache_and_the_next_run_tells_them_again(tmp_path: Path, base: Path) -> None:
    write(tmp_path / "rows.jsonl", [*ROWS[:5], {"prompt": "", "completion": "x"}])
    for _ in range(2):
        with pytest.raises(DataError, match="the user says nothing"):
            prepared(tmp_path, base, "{train: rows.jsonl}")
        assert entries(tmp_path / "cache") == []


def test_several_processes_render_what_one_does(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "rows.jsonl", [*ROWS, {"prompt": " ", "completion": "x"}, *ROWS[:3]])
    words = "{train: rows.jsonl, eval: 0}"
    with pytest.raises(DataError) as alone:
        prepared(tmp_path, base, words)
    monkeypatch.setattr(rendering, "PARALLEL_BYTES", 0)
    with pytest.raises(DataError) as together:
        prepared(tmp_path, base, words)
    assert together.value.problems == alone.value.problems
    assert alone.value.problems[0].where == f"{tmp_path}/rows.jsonl:701  prompt"
    write(tmp_path / "rows.jsonl", ROWS)
    many = prepared(tmp_path, base, words)
    monkeypatch.undo()
    assert prepared(tmp_path, base, words).train == many.train


def test_a_process_that_ends_by_itself_is_told_and_nobody_waits_for_it() -> None:
    with pytest.raises(RuntimeError, match="ended by itself: 3"):
        list(on_all(2, os._exit, [3, 3, 3]))


def test_several_processes_never_run_the_script_that_asked_for_them(tmp_path: Path) -> None:
    script = tmp_path / "script.py"  # without `if __name__ == "__main__"`
    script.write_text("from finetune.data.crew import on_all\nprint(list(on_all(2, abs, [-1, 2, -3])))\n")
    path = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=path, check=False)
    assert (done.stdout, done.stderr) == ("[1, 2, 3]\n", "")


@pytest.mark.usefixtures("every_file_is_cached")
def test_a_cache_that_takes_nothing_is_told_once_and_nothing_is_left(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        write(tmp_path / name, ROWS[:50] if name == "a.jsonl" else ROWS[50:99])
    (tmp_path / "file").write_text("")
    words = "{train: [a.jsonl, b.jsonl], eval: 0}"
    unkept = prepared(tmp_path, base, words, tmp_path / "file" / "cache")
    kept = prepared(tmp_path, base, words)
    assert (unkept.train, unkept.sha256) == (kept.train, kept.sha256)
    note = f"what was rendered is not kept for the next run: {tmp_path}/file/cache: Not a directory "
    assert set(unkept.notes) - set(kept.notes) == {note + "(FINETUNE_DATA_CACHE names another folder)"}
    assert len(unkept.notes) == len(kept.notes) + 1
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.usefixtures("every_file_is_cached")
def test_a_full_disk_under_the_cache_is_told_and_the_rows_lie_elsewhere(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "rows.jsonl", ROWS[:50])
    write_as_ever = Writer.add

    def full(writer: Writer, *told: Any) -> None:
        if writer.folder is not None and tmp_path / "cache" in writer.folder.parents:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_as_ever(writer, *told)

    monkeypatch.setattr(Writer, "add", full)
    made = prepared(tmp_path, base, "{train: rows.jsonl, eval: 0}")
    assert len(made.train) == 50
    assert any(f"not kept for the next run: {tmp_path}/cache: the disk is full" in note for note in made.notes)
    assert entries(tmp_path / "cache") == []


@pytest.mark.usefixtures("every_file_is_cached")
def test_where_no_folder_can_be_written_the_way_out_is_named(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    write(tmp_path / "rows.jsonl", ROWS[:5])
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="the cache of rendered rows cannot be written") as caught:
        prepared(tmp_path, base, "{train: rows.jsonl}", tmp_path / "file" / "cache")
    assert caught.value.problems[0].fix == "FINETUNE_DATA_CACHE=/another/folder"


# Several sources


def test_a_weight_repeats_rows_or_takes_a_part_of_them(tmp_path: Path, base: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS[:40])
    write(tmp_path / "b.jsonl", ROWS[100:300])
    made = prepared(tmp_path, base, "{train: [a.jsonl, {path: b.jsonl, weight: 0.5}], eval: 0}")
    half = made.counts.examples - 40
    assert 80 <= half <= 120  # drawn by content: 100 are expected of 200, and 99 in 100 draws lie within
    made = prepared(tmp_path, base, "{train: [a.jsonl, {path: b.jsonl, weight: 2}], eval: 0}")
    assert made.counts.examples == 40 + 2 * 200
    assert len({example.place for example in made.train}) == 240
    assert any(note.startswith(f"{tmp_path}/b.jsonl: 400 examples an epoch, 91% of the") for note in made.notes)


def test_a_weight_thins_both_sides_alike(tmp_path: Path, base: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS)
    made = prepared(tmp_path, base, "{train: {path: a.jsonl, weight: 0.5}, eval: 0.5}")
    assert abs(made.counts.examples - made.counts.held_out_examples) <= 1
    assert 310 <= made.counts.examples + made.counts.held_out_examples <= 390  # 350 are expected of 700


def test_a_customer_who_is_held_out_is_not_mixed_in_either(tmp_path: Path, base: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS[:350])
    numbered = [{**row, "who": row["who"]} for row in ROWS[350:]]
    write(tmp_path / "b.jsonl", numbered)
    made = prepared(tmp_path, base, "{train: [a.jsonl, {path: b.jsonl, share: 0.4}], group: who, eval: 0.15}")
    lines = {name: (tmp_path / name).read_text().splitlines() for name in ("a.jsonl", "b.jsonl")}

    def customers(examples: Sequence[Example]) -> set[str]:
        places = [example.place.rpartition("/")[2].split(":") for example in examples]
        return {json.loads(lines[file][int(line) - 1])["who"] for file, line in places}

    assert customers(made.held_out)
    assert not customers(made.train) & customers(made.held_out)


def test_shares_that_leave_nothing_are_refused(tmp_path: Path, base: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS[:5])
    with pytest.raises(RecipeError, match="the shares leave nothing"):
        prepared(tmp_path, base, "{train: [{path: a.jsonl, share: 0.6}, {path: a.jsonl, share: 0.6}]}")


def test_a_share_is_of_all_examples_and_none_of_it_is_held_out(tmp_path: Path, base: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS[:100])
    write(tmp_path / "general.jsonl", [*ROWS[:100], *ROWS[200:600]])
    made = prepared(tmp_path, base, "{train: [a.jsonl, {path: general.jsonl, share: 0.2}], eval: 0.1}")
    general = [e for e in made.train if "general" in e.place]
    own = [e for e in made.train if "general" not in e.place]
    assert (len(own), len(general)) == (90, round(0.2 * 90 / 0.8))
    assert not any("general" in example.place for example in made.held_out)
    learnt = {tuple(example.ids) for example in made.train}
    assert not learnt & {tuple(example.ids) for example in made.held_out}  # a general row like one held out is left out


def test_a_share_that_the_source_cannot_fill_is_noted(tmp_path: Path, base: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS[:90])
    write(tmp_path / "b.jsonl", ROWS[200:210])
    made = prepared(tmp_path, base, "{train: [a.jsonl, {path: b.jsonl, share: 0.5}], eval: 0}")
    assert f"{tmp_path}/b.jsonl: 10 examples an epoch, 10% of the examples, 10% of the tokens" in "\n".join(made.notes)
    assert "(a share of 50% is wished)" in "\n".join(made.notes)


def test_a_group_is_never_cut_and_near_the_share_is_held_out(tmp_path: Path, base: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS)
    made = prepared(tmp_path, base, "{train: rows.jsonl, eval: 0.15, group: who}")
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()

    def customers(examples: object) -> set[str]:
        return {json.loads(lines[int(e.place.rpartition(":")[2]) - 1])["who"] for e in examples}  # type: ignore

    assert not customers(made.train) & customers(made.held_out)
    assert (len(customers(made.held_out)), len(made.held_out)) == (1, 100)


def test_rows_that_differ_by_case_spaces_and_punctuation_stand_on_one_side(tmp_path: Path, base: Path) -> None:
    alike = [{**row, "prompt": row["prompt"].upper().replace("?", " ?!")} for row in ROWS[:200]]
    write(tmp_path / "rows.jsonl", ROWS[:200] + alike)
    made = prepared(tmp_path, base, "{train: rows.jsonl, eval: 0.2}")
    sides = [{int(e.place.rpartition(":")[2]) % 200 for e in side} for side in (made.train, made.held_out)]
    assert not sides[0] & sides[1]
    assert len(made.held_out) == 80


def test_a_missing_source_of_a_list_is_told_at_its_line(tmp_path: Path, base: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS[:5])
    with pytest.raises(DataError, match=r"there is no file row\.jsonl") as caught:
        prepared(tmp_path, base, "\n  train:\n    - rows.jsonl\n    - {path: row.jsonl, weight: 2}")
    (problem,) = caught.value.problems
    assert problem.where.startswith(f"{tmp_path}/recipe.yaml:5")
    assert problem.fix == "path: rows.jsonl"


# Texts


def test_a_long_text_is_learnt_in_parts_that_hold_every_token_once(tmp_path: Path, base: Path) -> None:
    (tmp_path / "book.txt").write_text("The pump stopped. " * 40)
    made = prepared(tmp_path, base, "{train: book.txt, eval: 0, max_length: 100}")
    assert {len(example) <= 100 for example in made.train} == {True}
    ids = [i for example in made.train for i in example.ids]
    assert made.renderer.vocabulary.decode(ids) == "The pump stopped. " * 40 + "<|endoftext|>"
    assert all(all(example.learnt) and not example.cut for example in made.train)
    assert any(note.startswith("texts longer than 100 tokens are learnt in parts") for note in made.notes)

"""Metrics survive a torn line, tell a NaN, and go back to the step that training goes back to."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import pytest

from finetune.errors import ArtifactError, DoesNotFit
from finetune.run import metrics


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.jsonl"
    for step in range(1, 6):
        metrics.append(path, {"step": step, "loss": 1 / step})
    return path


def test_records_come_back_as_they_were_appended(path: Path) -> None:
    assert metrics.read(path) == [{"step": step, "loss": 1 / step} for step in range(1, 6)]
    assert metrics.read(path.with_name("none")) == []


def test_a_nan_is_a_string_in_the_file_and_a_float_again_when_read(path: Path) -> None:
    record = {"step": 6, "loss": math.nan, "grad": [math.inf, {"low": -math.inf}], "note": "Müller"}
    metrics.append(path, record)
    line = path.read_text().splitlines()[-1]
    assert json.loads(line) == {"step": 6, "loss": "nan", "grad": ["inf", {"low": "-inf"}], "note": "Müller"}
    assert repr(metrics.read(path)[-1]) == repr(record)


def test_a_torn_last_line_is_passed_over_wherever_it_tore(path: Path) -> None:
    whole = path.read_bytes()
    last_bytes = len(whole) - whole.rindex(b"\n", 0, -1) - 1
    for torn_bytes in range(1, last_bytes + 1):
        path.write_bytes(whole[:-torn_bytes])
        assert [record["step"] for record in metrics.read(path)] == [1, 2, 3, 4]
    path.write_bytes(whole + bytes(100))  # what some file systems leave after a power cut
    assert [record["step"] for record in metrics.read(path)] == [1, 2, 3, 4, 5]


def test_a_damaged_line_in_the_middle_is_named_and_the_fix_mends_it(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    for damage in ("{\n", "[]\n", '{"loss": 1}\n', "\n", "[" * 100_000 + "\n"):
        path.write_text("".join([*lines[:2], damage, *lines[3:]]))
        with pytest.raises(ArtifactError) as refusal:
            metrics.read(path)
        assert refusal.value.problems[0].where == f"{path}:3"
    assert refusal.value.problems[0].fix == f"sed -i 3d {path}"
    assert os.system(refusal.value.problems[0].fix) == 0
    assert [record["step"] for record in metrics.read(path)] == [1, 2, 4, 5]


def test_rewinding_keeps_what_was_measured_up_to_a_step_and_drops_a_torn_line(path: Path) -> None:
    kept = b"".join(path.read_bytes().splitlines(keepends=True)[:3])
    with path.open("a") as file:
        file.write('{"step": 2, "lo')
    metrics.rewind(path, 3)
    assert path.read_bytes() == kept
    metrics.append(path, {"step": 4, "loss": 0.5})
    assert [record["step"] for record in metrics.read(path)] == [1, 2, 3, 4]
    metrics.rewind(path, 0)
    assert path.read_bytes() == b""


def test_there_is_nothing_to_rewind_before_training_began(tmp_path: Path) -> None:
    metrics.rewind(tmp_path / "metrics.jsonl", 3)
    assert os.listdir(tmp_path) == []


def test_a_line_is_one_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    real = os.write

    def count(descriptor: int, data: bytes) -> int:
        written.append(data)
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", count)
    metrics.append(path, {"step": 6})
    assert written == [b'{"step": 6}\n']


def test_a_full_disk_leaves_no_part_of_a_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    whole = path.read_bytes()

    def half(descriptor: int, data: bytes) -> int:
        return real(descriptor, data[: len(data) // 2])

    def none(_: int, __: bytes) -> int:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    for write, what in ((half, "the disk is full"), (none, "the disk quota is used up")):
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with pytest.raises(DoesNotFit, match=what) as refusal:
                metrics.append(path, {"step": 6})
        assert refusal.value.problems[0].why.startswith("needs 12 bytes, ")
        assert refusal.value.problems[0].fix.endswith(f", then finetune train --resume {path.parent}")
        assert path.read_bytes() == whole


def test_a_loss_that_is_not_a_number_is_damage(path: Path) -> None:
    path.write_text('{"step": 1, "held_out_loss": null}\n')
    with pytest.raises(ArtifactError) as refusal:
        metrics.read(path)
    assert refusal.value.problems[0].why == "its loss is not a number"


def test_a_run_that_was_removed_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="the run's folder is gone"):
        metrics.append(tmp_path / "legal-0001" / "metrics.jsonl", {"step": 1})

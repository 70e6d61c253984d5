"""A write is whole or absent, in an order that a power cut cannot break, and a full disk is told as one."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune import atomic
from finetune.errors import ArtifactError, DoesNotFit


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was flushed and renamed, in order; a flushed file is named by what it was called then."""
    calls: list[tuple[str, str]] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def recorded(verb: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(source: Path, target: Path) -> None:
            real(source, target)
            calls.append((verb, target.name))

        return call

    def record_fsync(descriptor: int) -> None:
        fsync(descriptor)
        calls.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "rename", recorded("rename", rename))
    monkeypatch.setattr(os, "replace", recorded("replace", replace))
    return calls


def test_a_text_is_flushed_before_it_gets_its_name_and_the_name_after(
    tmp_path: Path, journal: list[tuple[str, str]]
) -> None:
    atomic.write_text(tmp_path / "plan.json", "{}")
    (first, staged), *rest = journal
    assert first == "fsync"
    assert staged.startswith(".plan.json.")
    assert rest == [("replace", "plan.json"), ("fsync", tmp_path.name)]
    assert os.listdir(tmp_path) == ["plan.json"]


def test_a_folder_is_published_files_first_then_the_name_then_the_parent(
    tmp_path: Path, journal: list[tuple[str, str]]
) -> None:
    staging = tmp_path / ".staging"
    (staging / "inner").mkdir(parents=True)
    (staging / "a.bin").write_bytes(b"a")
    (staging / "inner" / "b.bin").write_bytes(b"b")
    atomic.publish(staging, tmp_path / "final")
    *flushed, renamed, parent = journal
    assert sorted(flushed) == [("fsync", name) for name in (".staging", "a.bin", "b.bin", "inner")]
    assert (renamed, parent) == (("rename", "final"), ("fsync", tmp_path.name))


def test_a_folder_with_files_is_never_replaced(tmp_path: Path) -> None:
    for name in ("staging", "final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with pytest.raises(OSError, match="not empty"):
        atomic.publish(tmp_path / "staging", tmp_path / "final")
    assert (tmp_path / "final" / "file").read_text() == "final"


def test_a_link_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / "weights").symlink_to(tmp_path)
    with pytest.raises(ArtifactError, match="weights is neither a file nor a folder"):
        atomic.publish(tmp_path / "staging", tmp_path / "final")
    assert not (tmp_path / "final").exists()


def test_json_ends_with_a_newline_and_refuses_what_json_lacks(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    atomic.write_json(path, {"name": "Müller", "steps": 3})
    assert json.loads(path.read_text()) == {"name": "Müller", "steps": 3}
    assert path.read_text().endswith("}\n")
    with pytest.raises(ValueError, match="JSON compliant"):
        atomic.write_json(path, {"loss": math.nan})
    assert json.loads(path.read_text())["steps"] == 3


def test_a_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "file").write_bytes(data)
    assert atomic.sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("number", "what"),
    [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the disk quota is used up")],
)
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_a_full_disk_at_any_call_keeps_the_old_text_and_tells_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, what: str
) -> None:
    path = tmp_path / "manifest.json"
    path.write_text("old")

    def full(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(DoesNotFit, match=what) as refusal:
            atomic.write_text(path, "x" * 1234)
    problem = refusal.value.problems[0]
    assert problem.where == str(path)
    assert problem.why.startswith("needs 1,234 bytes, ")
    assert problem.why.endswith(" bytes were free")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["manifest.json"]


def test_another_error_of_the_system_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        atomic.write_text(tmp_path / "absent" / "file", "text")


def test_a_full_disk_is_recognised_in_the_words_of_another_library(tmp_path: Path) -> None:
    words = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(DoesNotFit, match="the disk is full"), atomic.full_disk_told(tmp_path / "x"):
        raise RuntimeError(words)


def test_a_foreign_error_on_a_disk_with_room_is_not_blamed_on_the_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="unexpected pos"), atomic.full_disk_told(tmp_path / "x"):
        raise RuntimeError("unexpected pos 64 vs 0")
    with pytest.raises(KeyboardInterrupt), atomic.full_disk_told(tmp_path / "x"):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_folder_may_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "big").symlink_to(tmp_path / "disk")
    atomic.write_text(tmp_path / "big" / "file", "text")
    (tmp_path / "staging").mkdir()
    atomic.publish(tmp_path / "staging", tmp_path / "big" / "folder")
    assert {entry.name for entry in (tmp_path / "disk").iterdir()} == {"file", "folder"}

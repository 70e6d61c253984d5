"""Saving is stopped by kill -9, by an error and by a full disk; what was saved before is there and verifies."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import DoesNotFit
from finetune.run import checkpoint

DISK_MEGABYTES = 1

NUM_KILLS = 20


def save_for_ever(checkpoints: Path, pipe: int) -> None:
    """What training does all day: save, tell, prune."""

    def fill(folder: Path) -> None:
        for name in ("weights", "optimizer"):
            (folder / name).write_bytes(os.urandom(4096))

    step = checkpoint.newest_verified(checkpoints).step
    while True:
        step += 1
        checkpoint.save(checkpoints, step, fill)
        os.write(pipe, b"%d\n" % step)
        checkpoint.prune(checkpoints, keep=2)


def save_until_killed(checkpoints: Path, seconds: float) -> int:
    """Kills a saving process some time after its first checkpoint; returns the last step it told."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            save_for_ever(checkpoints, writing)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        steps = [told.readline()]
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        steps += told.readlines()
    return int(steps[-1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_after_kill_9_at_any_instant_the_newest_checkpoint_verifies(tmp_path: Path) -> None:
    instants = random.Random(0)  # a save with its pruning takes about 0.03 s where flushing is slow
    for _ in range(NUM_KILLS):
        told = save_until_killed(tmp_path, seconds=instants.uniform(0, 0.03))
        newest = checkpoint.newest_verified(tmp_path)
        assert newest.refused == ()
        assert newest.step in (told, told + 1)  # it may die between saving and telling
        assert newest.path is not None
        assert checkpoint.verify(newest.path) is None
        assert len(os.listdir(tmp_path)) <= 3


def test_an_error_while_writing_is_passed_on_and_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "weights").write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        checkpoint.save(tmp_path, 1, fail)
    assert os.listdir(tmp_path) == []


def write(folder: Path) -> None:
    for name in ("weights", "optimizer", "state"):
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT)
        try:
            os.write(descriptor, bytes(1000))
        finally:
            os.close(descriptor)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["mkdir", "open", "write", "fsync", "replace", "rename"])
def test_a_full_disk_at_every_single_call_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    checkpoint.save(tmp_path, 1, write)
    real = getattr(os, call)
    budget = 0

    def full_after_budget(*arguments: Any, **options: Any) -> Any:
        nonlocal budget
        makes = call != "open" or arguments[1] & os.O_CREAT  # opening what is there needs no room
        budget -= bool(makes)
        if makes and budget < 0:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    num_refusals = 0
    for allowed in range(100):
        budget = allowed
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full_after_budget)
            try:
                checkpoint.save(tmp_path, 2, write)
            except DoesNotFit:
                num_refusals += 1
            else:
                break
        if (tmp_path / "checkpoint-2").exists():  # the very last flush failed: saved, but not sure of its name
            assert checkpoint.verify(tmp_path / "checkpoint-2") is None
        assert checkpoint.verify(tmp_path / "checkpoint-1") is None
        assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    assert num_refusals >= 1
    assert checkpoint.newest_verified(tmp_path).step == 2


@pytest.mark.parametrize("library", ["the system", "a library that hides the number"])
def test_a_disk_that_is_really_full_is_told_with_the_bytes_and_saving_goes_on_later(
    small_disk: Path, library: str
) -> None:
    def write_large(folder: Path) -> None:
        try:
            (folder / "weights").write_bytes(bytes(600_000))
        except OSError:
            if library == "the system":
                raise
            raise RuntimeError("unexpected pos 64 vs 0") from None

    checkpoint.save(small_disk, 1, write_large)
    with pytest.raises(DoesNotFit, match="the disk is full") as refusal:
        checkpoint.save(small_disk, 2, write_large)
    problem = refusal.value.problems[0]
    assert problem.where == str(small_disk)
    needed_bytes, free_bytes = (int(word.replace(",", "")) for word in problem.why.split() if word[0].isdigit())
    assert 600_000 < needed_bytes < 601_000
    assert 2**20 - 600_000 - 40_000 < free_bytes < 2**20 - 600_000  # tmpfs counts in pages
    assert f"free {needed_bytes - free_bytes:,} bytes or more" in problem.fix
    assert checkpoint.newest_verified(small_disk) == checkpoint.Newest(small_disk / "checkpoint-1", 1)
    assert os.listdir(small_disk) == ["checkpoint-1"]
    subprocess.run(["mount", "-o", "remount,size=2m", str(small_disk)], check=True)
    assert checkpoint.verify(checkpoint.save(small_disk, 2, write_large)) is None

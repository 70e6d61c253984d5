"""One process works in a run; the others are told which, and a dead one holds nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import finetune
from finetune.errors import ArtifactError, RunLocked
from finetune.run import Run, locked

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(finetune.__file__).parents[1])}

HOLDER = """
import os, sys, time
from pathlib import Path
from finetune.run import Run, locked
with locked(Run(Path(sys.argv[1]))):
    if sys.argv[2] == "alone":
        print(0, flush=True)
    elif os.fork() == 0:
        print(os.getpid(), flush=True)  # the worker tells that it runs
    time.sleep(60)
"""


class Holder:
    """A process that holds the lock, and perhaps a worker forked from it."""

    def __init__(self, run: Run, kind: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(run.path), kind], env=ENVIRONMENT, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        self.worker = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def holder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Holder]:
    holder = Holder(Run(tmp_path), request.param)
    yield holder
    holder.kill()
    if holder.worker:
        os.kill(holder.worker, signal.SIGKILL)


@pytest.mark.parametrize("holder", ["alone"], indirect=True)
def test_a_second_process_is_refused_with_the_name_of_the_first(tmp_path: Path, holder: Holder) -> None:
    with pytest.raises(RunLocked) as refusal, locked(Run(tmp_path)):
        pytest.fail("the lock was given twice")
    pid, host = holder.process.pid, os.uname().nodename
    assert refusal.value.exit_code == 73
    assert str(refusal.value).splitlines() == [
        "error: another process works in this run",
        f"  where {tmp_path}",
        f"  why   process {pid} on {host} holds .lock",
        f"  fix   wait until it ends, or stop it on {host}: kill {pid}",
    ]
    assert (tmp_path / ".lock").read_text() == f"{pid} {host}\n"


@pytest.mark.parametrize("holder", ["alone", "with a worker"], indirect=True)
def test_after_kill_9_of_the_holder_the_lock_is_free(tmp_path: Path, holder: Holder) -> None:
    holder.kill()
    with locked(Run(tmp_path)):
        assert (tmp_path / ".lock").read_text().split()[0] == str(os.getpid())


def test_the_lock_is_free_after_the_block_however_it_ends(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(ZeroDivisionError), locked(run):
        _ = 1 / 0
    with locked(run), pytest.raises(RunLocked), locked(run):
        pytest.fail("the lock was given twice")
    with locked(run):
        assert os.listdir(tmp_path) == [".lock"]


def test_a_holder_that_has_not_signed_yet_is_told_without_a_number(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with locked(run):
        run.lock.write_text("")
        with pytest.raises(RunLocked) as refusal, locked(run):
            pytest.fail("the lock was given twice")
    assert refusal.value.problems[0].fix == "wait until it ends"


def test_a_folder_in_the_place_of_the_lock_is_told(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(ArtifactError) as refusal, locked(Run(tmp_path)):
        pytest.fail("a folder cannot be held")
    assert refusal.value.problems[0].why == "Is a directory"

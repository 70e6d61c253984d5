"""The real torchrun and the real deepspeed launcher, given what `finetune launch` writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune.launch import Host, deepspeed_words
from finetune.launch.command import torchrun_flags
from finetune.launch.job import Job

BIN = Path(sys.executable).parent

WORKER = """
import os, signal, sys, time
heard = []
signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
os.write(1, ("|".join(["up", *sys.argv[1:]]) + "\\n").encode())  # at once, for two write to one pipe
deadline = time.monotonic() + 30  # nobody is left behind where the signal does not come
while not heard and time.monotonic() < deadline:
    time.sleep(0.05)
time.sleep(1)  # the step in progress, and the checkpoint
os.write(1, f"saved after {len(heard)} signal\\n".encode())
sys.exit(75)
"""


@pytest.mark.slow
def test_torchrun_hands_usr1_on_once_waits_and_ends_with_1(tmp_path: Path) -> None:
    (tmp_path / "finetune.py").write_text(WORKER)  # found before the package, for it is the working folder
    job = Job("r.yaml", (), "runs", "r", nodes=1, gpus_per_node=2, cpus_per_gpu=1, time="1:00:00")
    address = ("--node-rank=0", "--master-addr=127.0.0.1", f"--master-port={20000 + os.getpid() % 10000}")
    command = [
        BIN / "torchrun",
        *address,
        *torchrun_flags(job.nodes, job.gpus_per_node),
        "-m",
        "finetune",
        "train",
        "a $(b) 'c'.yaml",
    ]
    variables = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path, env=variables
    ) as torchrun:
        assert torchrun.stdout is not None
        up = [torchrun.stdout.readline() for _ in range(2)]
        assert up == ["up|train|a $(b) 'c'.yaml\n"] * 2
        time.sleep(1)  # workers are up before torchrun has noted that it started them; a signal in between is lost
        torchrun.send_signal(signal.SIGUSR1)
        assert torchrun.stdout.read() == "saved after 1 signal\n" * 2
        assert torchrun.wait(60) == 1  # not 75: why the sbatch script remembers that a stop was asked for


@pytest.mark.slow
def test_deepspeed_writes_the_words_into_the_remote_line_so_that_a_shell_gives_them_back(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("n1 slots=1\nn2 slots=1\n")
    (tmp_path / "pdsh").write_text('#!/bin/bash\nprintf "%s\\0" "$@" > "$CALLS"\n')
    (tmp_path / "pdsh").chmod(0o755)
    words = ["train", "it's $(touch pwned).yaml", "--set", 'system="a b" \\ `c` $d', "--set", "name=x;y"]
    hosts = [Host("n1", 1), Host("n2", 1)]
    command = deepspeed_words(tmp_path / "hosts", hosts, words, address="10.77.0.1")
    variables = {**os.environ, "PATH": f"{tmp_path}:{BIN}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}
    options = ["--no_ssh_check", "--launcher", "pdsh"]  # there are no such hosts to be asked
    subprocess.run(
        [command[0], *options, *command[1:]], check=True, cwd=tmp_path, env=variables, capture_output=True, timeout=120
    )
    called = (tmp_path / "calls").read_text().split("\0")[:-1]
    line = " ".join(called[called.index("n1,n2") + 1 :])  # as pdsh joins them for the remote shell
    assert "--master_addr=10.77.0.1 " in line
    passed = line.partition(" --no_local_rank finetune ")[2] or line.partition(" finetune ")[2]
    shell = subprocess.run(["bash", "-c", f"printf '%s\\0' {passed}"], check=True, capture_output=True, cwd=tmp_path)
    assert shell.stdout.decode().split("\0")[:-1] == words
    assert not (tmp_path / "pwned").exists()

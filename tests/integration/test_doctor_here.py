"""The doctor as a user calls it, on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from finetune.probes import packages, trials

ROOT = Path(__file__).parents[2]


def doctor(*words: str, folder: Path, **changed: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PYTHONPATH": str(ROOT),
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "finetune", "doctor", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env={**environment, **changed}, timeout=60
    )


def test_the_report_of_this_machine_is_complete_and_quick(tmp_path: Path) -> None:
    began = time.monotonic()
    done = doctor("--json", folder=tmp_path)
    assert time.monotonic() - began < 20
    told = json.loads(done.stdout)
    assert [set(check) for check in told] == [{"name", "state", "told", "fix"}] * 25
    assert {check["state"] for check in told} <= {"ok", "slow", "broken", "absent"}
    assert all(check["told"] and "\n" not in check["told"] + check["fix"] for check in told)
    assert done.returncode == (5 if any(check["state"] == "broken" for check in told) else 0)
    states = {check["name"]: check["state"] for check in told}
    assert len(states) == 25
    assert states["bitsandbytes"] == states["torch"] == "ok"
    assert "Traceback" not in done.stderr


def test_a_machine_where_nothing_can_be_found_is_told_without_a_traceback(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o000)
    (tmp_path / "work").mkdir()
    done = doctor(
        *("--online",),
        folder=tmp_path / "work",
        HOME=str(home),
        PATH=str(tmp_path / "nothing"),
        HF_TOKEN="not-a-token",
        CUDA_VISIBLE_DEVICES="7",
    )
    assert "Traceback" not in done.stderr + done.stdout
    assert "not-a-token" not in done.stderr + done.stdout
    lines = done.stdout.splitlines()
    token = next(line for line in lines if line.startswith("broken  Hub token"))
    assert "one in HF_TOKEN, but" in token
    assert done.returncode == 5
    assert "broken" in lines[-1]


def test_a_trial_that_fails_leaves_the_others(tmp_path: Path) -> None:
    told = trials.run(["no-such-trial", "fla", "deepspeed"], "cpu")
    assert isinstance(told["no-such-trial"], str)
    assert "KeyError: 'no-such-trial'" in told["no-such-trial"]
    assert isinstance(told["fla"], str) or "function" in told["fla"]
    assert told["deepspeed"] == {"version": packages.version_of("deepspeed")}

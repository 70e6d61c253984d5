"""Trainings of several processes against one: the same losses and adapters, killed and resumed on another number."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

ROWS = Path(__file__).parents[2] / "data_templates" / "demo" / "train.jsonl"
SPREAD = ("--set", "parallel.zero=2", "--set", "parallel.expert=2")

pytestmark = [pytest.mark.slow]


@dataclass(frozen=True)
class Folder:
    """A recipe and its runs."""

    path: Path

    def command(self, processes: int, *words: str) -> list[str]:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        return [sys.executable, *(launcher if processes > 1 else []), "-m", "finetune", "train", *words]

    def train(self, processes: int, *words: str) -> str:
        """Trains; gives what was printed."""
        done = subprocess.run(
            self.command(processes, *words), cwd=self.path, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def run(self, name: str) -> Path:
        return self.path / name / "r-0001"


@pytest.fixture(scope="module")
def folder(pico_moe_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    path = tmp_path_factory.mktemp("processes")
    rows = ROWS.read_text().splitlines(keepends=True)
    (path / "rows.jsonl").write_text("".join(rows[:13]))  # the last step of an epoch has one: a process is left without
    (path / "held-out.jsonl").write_text("".join(rows[13:16]))
    (path / "r.yaml").write_text(
        f"base: {pico_moe_base}\nlora: {{rank: 8}}\n"
        "data: {train: rows.jsonl, eval: held-out.jsonl, max_length: 512}\n"
        "train: {batch_size: 12, max_steps: 4, save_every: 1, keep_checkpoints: 4, learning_rate: 0.003}\n"
        "memory: {micro_batch: 3}\n"
    )
    made = Folder(path)
    made.train(1, "r.yaml", "--runs", "alone")
    made.train(2, "r.yaml", "--runs", "spread", *SPREAD)
    return made


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in records(run) if "loss" in record]


def apart(one: Path, other: Path) -> float:
    """The largest distance between two adapters, as a share of a tensor's norm."""
    a, b = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (one, other))
    assert a.keys() == b.keys()
    return max(((a[name] - b[name]).norm() / a[name].norm()).item() for name in a)


def rewound(folder: Folder, source: str, name: str) -> Path:
    """A copy of a finished run as it was after its checkpoint at step 2."""
    shutil.copytree(folder.path / source, folder.path / name)
    run = folder.run(name)
    shutil.rmtree(run / "adapter")
    for step in (3, 4):
        shutil.rmtree(run / "checkpoints" / f"checkpoint-{step}")
    told = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(told | {"stages": []}))
    return run


def test_experts_spread_over_two_processes_learn_what_one_learns(folder: Folder) -> None:
    alone, spread = folder.run("alone"), folder.run("spread")
    assert losses(spread) == pytest.approx(losses(alone), rel=1e-5)
    assert [r["gradients"] for r in records(spread) if "gradients" in r] == [
        r["gradients"] for r in records(alone) if "gradients" in r
    ]
    # AdamW divides by the root of a mean of squares: a gradient of nearly nothing moves as far as any other, and which
    # way it moves is decided by the last bits
    assert apart(alone, spread) < 2e-3


def test_routers_are_counted_over_all_processes_and_a_filler_row_is_not(folder: Folder) -> None:
    alone, spread = folder.run("alone"), folder.run("spread")
    for key in ("router_skew", "router_skew_max", "router_idle"):
        told = [[record[key] for record in records(run) if "loss" in record] for run in (alone, spread)]
        # a choice in a thousand may fall otherwise where two experts are as good: sums come in another order
        assert told[1] == pytest.approx(told[0], rel=0.01)
    one, two = (json.loads((run / "router.json").read_text()) for run in (alone, spread))
    assert one["rows"] == two["rows"]
    for key in ("rerouted", "load_drift"):
        assert two["summary"][key] == pytest.approx(one["summary"][key], abs=0.01)


def test_the_same_processes_resume_bit_for_bit(folder: Folder) -> None:
    run = rewound(folder, "spread", "again")
    folder.train(2, "--resume", str(run))
    assert apart(folder.run("spread"), run) == 0


def test_one_process_goes_on_where_two_stopped_and_two_where_one_did(folder: Folder) -> None:
    one, two = rewound(folder, "spread", "fewer"), rewound(folder, "alone", "more")
    folder.train(1, "--resume", str(one))
    folder.train(2, "--resume", str(two))
    assert apart(folder.run("spread"), one) < 1e-5
    assert apart(folder.run("alone"), two) < 1e-5


def test_a_killed_process_ends_the_others_and_the_run_goes_on(folder: Folder) -> None:
    command = folder.command(2, "r.yaml", "--runs", "killed", *SPREAD)
    running = subprocess.Popen(command, cwd=folder.path, stderr=subprocess.PIPE, text=True)
    checkpoints = folder.run("killed") / "checkpoints"
    deadline = time.monotonic() + 120
    while not (checkpoints / "checkpoint-2").is_dir() and time.monotonic() < deadline:
        time.sleep(0.05)
    children = subprocess.run(["pgrep", "-P", str(running.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, told = running.communicate(timeout=60)
    assert running.returncode != 0
    assert "Signal 9 (SIGKILL)" in told
    folder.train(2, "--resume", str(folder.run("killed")))
    assert apart(folder.run("spread"), folder.run("killed")) == 0


def test_the_file_of_a_checkpoint_is_that_of_one_process(folder: Folder) -> None:
    one, two = (
        torch.load(folder.run(name) / "checkpoints" / "checkpoint-2" / "optimizer.pt", weights_only=True)
        for name in ("alone", "spread")
    )
    assert one["param_groups"] == two["param_groups"]
    assert one["state"].keys() == two["state"].keys()
    for number, state in one["state"].items():
        assert {key: (t.shape, t.dtype) for key, t in state.items()} == {
            key: (t.shape, t.dtype) for key, t in two["state"][number].items()
        }

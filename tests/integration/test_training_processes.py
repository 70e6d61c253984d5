"""Trainings of several processes against one: the same losses and adapters, killed and resumed on another number."""

from __future__ import annotations

import fcntl
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

import psutil
import pytest
import torch
from safetensors.torch import load_file

ROWS = Path(__file__).parents[2] / "data_templates" / "demo" / "train.jsonl"
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
LINEAR_BYTES = 100_352
"""Of the mixture's linear layers in 4 bits; routed experts and what has fewer than 10,000 weights stay whole."""
SPREAD = ("--set", "parallel.zero=2", "--set", "parallel.expert=2")

pytestmark = [pytest.mark.slow]


def command(launcher: str, *words: str) -> list[str]:
    """The command that trains: in one process, or in two that somebody starts."""
    begin = {
        "alone": [sys.executable, "-m", "finetune", "train"],
        "ours": [sys.executable, "-m", "finetune", "train", "--processes", "2"],
        "torchrun": ["torchrun", "--standalone", "--nproc-per-node", "2", "-m", "finetune", "train"],
        "deepspeed": [
            *("deepspeed", "--num_accelerators", "2", "--master_port", str(20_000 + os.getpid() % 10_000)),
            *("--no_local_rank", "--module", "finetune", "train"),
        ],
    }
    return [*begin[launcher], *words]


@dataclass(frozen=True)
class Folder:
    """A recipe and its runs."""

    path: Path

    def train(self, launcher: str, *words: str) -> None:
        done = subprocess.run(
            command(launcher, *words), cwd=self.path, capture_output=True, text=True, timeout=240, env=ENVIRONMENT
        )
        assert done.returncode == 0, done.stderr[-3000:]

    def begin(self, name: str) -> subprocess.Popen[str]:
        """Begins a run of two processes and comes back when it has saved its second step."""
        words = command("ours", "r.yaml", "--runs", name, *SPREAD)
        running = subprocess.Popen(words, cwd=self.path, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        deadline = time.monotonic() + 120
        while not (self.run(name) / "checkpoints" / "checkpoint-2").is_dir() and time.monotonic() < deadline:
            time.sleep(0.05)
        return running

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
    made.train("alone", "r.yaml", "--runs", "alone")
    made.train("ours", "r.yaml", "--runs", "spread", *SPREAD)
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


def test_weights_shared_out_by_zero_3_learn_the_same_and_are_resumed_whole(folder: Folder) -> None:
    folder.train("ours", "r.yaml", "--runs", "zero3", "--set", "parallel.zero=3")
    alone, shared = folder.run("alone"), folder.run("zero3")
    assert losses(shared) == pytest.approx(losses(alone), rel=1e-5)
    assert apart(alone, shared) < 2e-3
    whole, half = (held(run, "bytes held as uint8") for run in (alone, shared))
    assert whole - half == LINEAR_BYTES / 2
    again, one = rewound(folder, "zero3", "zero3-again"), rewound(folder, "zero3", "zero3-alone")
    folder.train("ours", "--resume", str(again))
    folder.train("alone", "--resume", str(one), "--processes", "1")
    assert apart(shared, again) == 0
    assert apart(shared, one) < 1e-5


def held(run: Path, what: str) -> int:
    """What a finished run measured."""
    claims = json.loads((run / "manifest.json").read_text())["stages"][-1]["claims"]
    return {claim["claim"]: claim["measured"] for claim in claims}[what]


def test_one_process_goes_on_where_two_stopped_and_two_where_one_did(folder: Folder) -> None:
    one, two = rewound(folder, "spread", "fewer"), rewound(folder, "alone", "more")
    folder.train("alone", "--resume", str(one), "--processes", "1")
    folder.train("deepspeed", "--resume", str(two))
    assert apart(folder.run("spread"), one) < 1e-5
    assert apart(folder.run("alone"), two) < 1e-5


def test_a_killed_process_ends_the_others_and_the_run_goes_on(folder: Folder) -> None:
    running = folder.begin("killed")
    (second,) = [p for p in psutil.Process(running.pid).children(recursive=True) if is_second(p)]
    second.kill()
    _, told = running.communicate(timeout=60)
    assert running.returncode == 5
    assert told.endswith("  fix   finetune train --resume killed/r-0001\n")
    assert "error: process 1 was ended by SIGKILL\n" in told
    folder.train("ours", "--resume", str(folder.run("killed")))
    assert apart(folder.run("spread"), folder.run("killed")) == 0, "the same processes resume bit for bit"


def test_what_is_not_finite_stops_all_before_anything_is_saved_and_is_told_once(folder: Folder) -> None:
    words = ("r.yaml", "--runs", "wild", "--set", "train.learning_rate=1.0e+30", "--set", "train.max_steps=3")
    done = subprocess.run(command("ours", *words), cwd=folder.path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 7
    assert done.stderr.count("error: the loss or a gradient is not finite at step 1\n") == 1
    assert list((folder.run("wild") / "checkpoints").glob("*")) == []


def is_second(process: psutil.Process) -> bool:
    return process.environ().get("RANK") == "1" and "train" in process.cmdline()


def test_a_stop_asked_of_the_one_that_started_them_is_saved_by_all_and_ends_with_75(folder: Folder) -> None:
    running = folder.begin("stopped")
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 75
    assert told.count("error: stopped by SIGINT\n") == 1
    assert told.endswith("  fix   finetune train --resume stopped/r-0001\n")
    (newest,) = [r["step"] for r in records(folder.run("stopped")) if "loss" in r][-1:]
    assert (folder.run("stopped") / "checkpoints" / f"checkpoint-{newest}").is_dir()


def test_a_stop_is_heard_while_the_processes_wait_for_one_that_does_not_come(folder: Folder) -> None:
    """torch waits for it in C++, where Python calls no handler."""
    alone = ENVIRONMENT | {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    words = [sys.executable, "-m", "finetune", "train", "r.yaml", "--runs", "lonely"]
    waiting = subprocess.Popen(
        words,
        cwd=folder.path,
        stderr=subprocess.PIPE,
        text=True,
        env=alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
    )
    time.sleep(8)
    waiting.send_signal(signal.SIGTERM)
    waiting.communicate(timeout=30)
    assert waiting.returncode == 75


UNEQUAL = """
import os
from dataclasses import replace
from finetune.cli import main
from finetune.train import verb

look = verb.detect_started
verb.detect_started = lambda: replace(look(), host_bytes=look().host_bytes - 2**30 * int(os.environ["RANK"]))
main()
"""


def test_where_processes_see_unequal_memory_all_take_the_plan_of_the_least(folder: Folder) -> None:
    (folder.path / "unequal.py").write_text(UNEQUAL)
    words = ["torchrun", "--standalone", "--nproc-per-node", "2", "unequal.py", "train", "r.yaml", "--runs", "unequal"]
    done = subprocess.run(
        [*words, "--set", "train.max_steps=1"],
        cwd=folder.path,
        capture_output=True,
        text=True,
        timeout=240,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = {
        name: json.loads((folder.run(name) / "plan.json").read_text())["gpu_bytes"] for name in ("unequal", "spread")
    }
    assert told["spread"] - told["unequal"] > 2**28


def test_a_run_in_which_another_works_is_refused_once(folder: Folder) -> None:
    words = command("ours", "--resume", str(rewound(folder, "spread", "locked")))
    with (folder.run("locked") / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = subprocess.run(
            words, cwd=folder.path, capture_output=True, text=True, timeout=240, env=ENVIRONMENT, check=False
        )
    assert done.returncode == 73
    assert done.stderr.count("error: ") == done.stderr.count("error: another process works in this run") == 1


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

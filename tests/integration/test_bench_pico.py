"""The benchmark runs on a pico base on the CPU, by the same code: its figures mean nothing, its logic is whole."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

import bench_gpu
from bench import report, results, run
from bench.agenda import Task
from bench.session import Session, enter, leave
from bench.stacks import PLANNED, TRL
from bench.tasks import constants, judge_promise

from finetune.model import HostEmbedding, QuantisedHead, causal_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU:UserWarning"),
]

EXACT = ("halves", "checkpoints on the host", "embeddings on the host")
"""Levers that leave every number as it is. Only the order of a sum may differ: in float32 the cosine is 1 to 1e-5."""

TASKS = (
    Task("cell", PLANNED, 64),
    Task("cell", "all together", 64),
    *(Task("parity", stack, 80) for stack in (*EXACT, TRL, "all together")),
    Task("cell", TRL, 64),
    Task("copies", "all together", 64),
    Task("longest", "plain", 0),
)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A run that did the tasks above."""
    made = prepared(tmp_path_factory.mktemp("bench"), "dense", minutes=30)
    made.clock.cell_seconds = 0.0  # one step to warm up, one to time
    run.work_off(made, list(TASKS), lambda line: None)
    run.finish(made, time.monotonic())
    return made


def prepared(out: Path, pico: str, minutes: float) -> Session:
    words = ["--out", str(out), "--device", "cpu", "--pico", pico, "--minutes", str(minutes)]
    asked: argparse.Namespace = bench_gpu.arguments(words)
    session, drop = run.prepare(asked, results.begun(words), time.monotonic())
    drop()
    return session


def test_every_task_leaves_its_result_and_none_fails(session: Session) -> None:
    told = results.load(session.folder)
    assert told == json.loads(json.dumps(session.results))
    assert (told["failed"], told["skipped"]) == ([], [])
    assert [(cell["stack"], cell["tokens"]) for cell in told["cells"]] == [
        (PLANNED, 64),
        ("all together", 64),
        (TRL, 64),
    ]
    assert [each["stack"] for each in told["parity"]] == [*EXACT, TRL, "all together"]
    assert told["promise"] == {"tokens": 16_384, "shown": None}


def test_the_first_loss_is_that_of_guessing(session: Session) -> None:
    guessing = math.log(len(session.vocabulary.head))
    assert session.results["first_step"]["loss"] == pytest.approx(guessing, abs=0.2)
    for cell in session.results["cells"]:
        assert cell["measured"]["loss"] == pytest.approx(guessing, abs=0.2)


def test_without_a_gpu_no_figure_of_one_is_told(session: Session) -> None:
    for cell in session.results["cells"]:
        assert cell["fits"]
        assert cell["ratio"] is None
        del cell["measured"]["loss"]
        assert set(cell["measured"].values()) == {None}
        assert cell["times"]["tokens_per_second"] > 0
    assert session.results["constants"] == {"fragmentation": None, "grown_outside_pool_bytes": None}
    assert session.results["copies"][0]["to_host_gb_per_second"] is None
    assert session.results["copies"][0]["to_host_bytes"] == 2 * 4 * 64 * 64 * 4  # halves x layers x tokens x hidden x e


def test_the_longest_context_is_looked_for_to_the_end_where_nothing_runs_out(session: Session) -> None:
    (found,) = session.results["longest"]
    assert (found["tokens"], found["why"]) == (run.PICO_MOST_TOKENS, "")
    assert found["probes"][-1] == [run.PICO_MOST_TOKENS, True]


def test_stacks_learn_the_same_from_the_same_batch(session: Session) -> None:
    """trl rounds the adapters of a quantised base to bfloat16, and their gradients with them: 2^-9 each."""
    told = {each["stack"]: each for each in session.results["parity"]}
    for stack in EXACT:
        assert told[stack]["least_cosine"] > 1 - 1e-5, stack
        assert told[stack]["loss_off"] < 1e-5
    assert told[TRL]["num_below_goal"] == 0
    assert told[TRL]["norm_ratio"] == pytest.approx(1, abs=2**-7)
    assert told["all together"]["least_cosine"] > 0.98, "a head in 4 bits gives other gradients, in about the direction"
    assert {each["num_tensors"] for each in told.values()} == {2 * sum(session.plan.num_targets.values())}


def test_a_mixture_of_experts_goes_the_same_way(tmp_path: Path) -> None:
    session = prepared(tmp_path, "moe", minutes=30)
    session.clock.cell_seconds = 0.0
    run.work_off(session, [Task("cell", "all together", 64), Task("parity", "halves", 64)], lambda line: None)
    told = session.results
    assert (told["failed"], told["skipped"]) == ([], [])
    assert told["cells"][0]["measured"]["loss"] == pytest.approx(told["base"]["guessing_loss"], abs=0.2)
    assert told["parity"][0]["least_cosine"] > 1 - 1e-5


def test_levers_are_pulled_and_let_go_again(session: Session) -> None:
    causal = causal_of(session.model)
    enter(session, "all together", 64)
    assert isinstance(causal.get_input_embeddings(), HostEmbedding)
    assert isinstance(causal.lm_head, QuantisedHead)
    assert all("forward" in vars(layer) for layer in causal.model.layers)
    enter(session, TRL, 64)
    assert {str(p.dtype) for p in causal.parameters() if p.requires_grad} == {"torch.bfloat16"}
    assert type(causal.lm_head).__name__ == "Linear"
    assert all(layer.gradient_checkpointing for layer in causal.model.layers)
    assert "forward" in vars(causal)
    leave(session)
    assert "forward" not in vars(causal)
    assert not any(layer.gradient_checkpointing or "forward" in vars(layer) for layer in causal.model.layers)
    assert {str(p.dtype) for p in causal.parameters() if p.requires_grad} == {"torch.float32"}


def test_tables_and_picture_are_drawn_from_the_file_alone(session: Session) -> None:
    report.write_report(session.folder)
    written = (session.folder / report.TABLE).read_text()
    for stack in (PLANNED, "all together", TRL):
        assert f"\n| {stack} | 64 |" in written
    assert "| plain | 192 | 192, where the search ends | 1 |" in written
    assert (session.folder / report.PICTURE).read_bytes().startswith(b"\x89PNG")


def test_figures_of_a_gpu_are_judged_and_drawn(session: Session, tmp_path: Path) -> None:
    told = on_a_gpu(results.load(session.folder))
    results.save(told, tmp_path)
    report.write_report(tmp_path)
    written = (tmp_path / report.TABLE).read_text()
    assert "| 1.020 | **1.050** |" in written, "more than 3 % is in bold"
    assert "16,384 tokens: shown to fit." in written
    assert "| all together | 64 | 10.20 | does not fit |" in written
    assert "at least 96: a step takes 9 s" in written
    assert "| fragmentation | 0.0400 |" in written


def on_a_gpu(told: dict[str, Any]) -> dict[str, Any]:
    """Puts figures such as a GPU's into results, to see how they are written; nobody measured them."""
    gib = 2**30
    for cell in told["cells"]:
        sizes = {"allocated_bytes": 10 * gib, "reserved_bytes": int(10.2 * gib), "static_bytes": 5 * gib}
        cell["measured"] |= sizes | {"taken_bytes": int(10.5 * gib), "num_alloc_retries": 0, "num_ooms": 0}
        if cell["predicted"]:
            cell["predicted"] |= {"allocated_bytes": int(10.2 * gib)}
            cell["ratio"] = {"allocated": 1.02, "reserved": 1.05, "static": 1.0}
    told["cells"][0]["tokens"] = 16_384
    told["cells"][1] |= {"fits": False, "measured": None, "ratio": None, "times": None}
    told["longest"][0] |= {"tokens": None, "at_least": 96, "why": "a step takes 9 s, more than is left"}
    told["constants"] = constants(told) | {"workspace_bytes": 2**25}
    told["promise"] = judge_promise(told)
    return told


def test_time_that_is_over_skips_what_is_left_and_says_so(tmp_path: Path) -> None:
    session = prepared(tmp_path, "dense", minutes=0)
    run.work_off(session, list(TASKS), lambda line: None)
    run.finish(session, time.monotonic())
    told = results.load(tmp_path)
    assert [each["task"] for each in told["skipped"]] == [task.name for task in TASKS]
    assert all("s are left" not in each["why"] and "0 are left" in each["why"] for each in told["skipped"])
    assert told["cells"] == []
    report.write_report(tmp_path)
    assert "### Not measured" in (tmp_path / report.TABLE).read_text()


def test_a_task_that_fails_is_told_and_the_next_is_done(tmp_path: Path) -> None:
    session = prepared(tmp_path, "dense", minutes=30)
    session.clock.cell_seconds = 0.0
    lines: list[str] = []
    trl_copies_nothing = Task("copies", TRL, 64)
    run.work_off(session, [trl_copies_nothing, Task("cell", "plain", 64)], lines.append)
    assert session.results["failed"] == [{"task": trl_copies_nothing.name, "why": "AssertionError: trl copies nothing"}]
    assert [cell["stack"] for cell in session.results["cells"]] == ["plain"]
    assert any("Traceback" in line for line in lines)

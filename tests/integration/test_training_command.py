"""`finetune train` as a user meets it: what it prints where, and what `runs` and `show` tell of it afterwards."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial import in_process
from trial.small_run import write_recipe

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def recipe(pico_base: Path, tmp_path: Path) -> Path:
    return write_recipe(tmp_path, pico_base, num_rows=16, long_row=False)


def words(recipe: Path, *more: str) -> list[str]:
    return ["train", str(recipe), "--runs", str(recipe.parent / "runs"), "--set=train.max_steps=2", *more]


def test_the_last_line_on_stdout_is_the_run_folder_and_runs_and_show_know_it(recipe: Path, capsys: Captured) -> None:
    run = recipe.parent / "runs" / "small-0001"
    assert in_process.command(*words(recipe)) == 0
    told = capsys.readouterr()
    assert told.out == f"{run}\n"
    assert "step     2/2  loss " in told.err
    assert "proven: " in told.err

    assert in_process.command("runs", "--runs", str(run.parent), "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["run"], row["state"], row["step"], row["steps"]) == ("small-0001", "trained", 2, 2)
    assert row["held_out_loss"][1] < row["held_out_loss"][0]

    assert in_process.command("show", str(run)) == 0
    shown = capsys.readouterr().out
    assert "ok   optimizer steps taken: 2 of 2" in shown
    assert "FAIL" not in shown
    assert "out  adapter/adapter_model.safetensors  sha256 " in shown


def test_quiet_with_json_prints_what_was_proven_and_nothing_else(recipe: Path, capfd: Captured) -> None:
    assert in_process.command(*words(recipe, "--quiet", "--json")) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["run"] == str(recipe.parent / "runs" / "small-0001")
    assert told["stage"] == "train"
    assert all(claim["holds"] for claim in told["claims"])
    assert sorted(told["outputs"]) == ["adapter/adapter_config.json", "adapter/adapter_model.safetensors"]


def test_a_dashboard_gets_the_figures_if_it_is_installed_and_is_named_if_not(recipe: Path, capsys: Captured) -> None:
    code = in_process.command(*words(recipe, "--set=train.report_to=[tensorboard]", "--quiet"))
    if importlib.util.find_spec("tensorboard") is None:
        assert code == 5
        assert "error: tensorboard is not installed" in capsys.readouterr().err
        assert not (recipe.parent / "runs").exists()
    else:
        assert code == 0
        assert any((recipe.parent / "runs" / "small-0001" / "tensorboard").rglob("events.out.*"))


def test_a_cache_serves_the_next_start_and_changes_no_bit(recipe: Path, capsys: Captured) -> None:
    cache, runs = recipe.parent / "cache", recipe.parent / "runs"
    told = []
    for _ in range(2):
        assert in_process.command(*words(recipe, "--cache", str(cache))) == 0
        told.append(capsys.readouterr().err)
    assert ["written down for the next start" in err for err in told] == [True, False]
    (kept,) = cache.iterdir()
    assert (kept / "cache.json").is_file()
    first, second = ((runs / f"small-000{n}" / "adapter" / "adapter_model.safetensors").read_bytes() for n in (1, 2))
    assert first == second


def test_of_a_base_of_another_family_only_the_config_is_downloaded(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("base: someone/llama\ndata: {train: rows.jsonl}\n")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Hi", "completion": "Hello"}\n')
    cached = tmp_path / "hub" / "models--someone--llama"
    snapshot = cached / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"model_type": "llama"}')
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "finetune", "train", "r.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120)
    assert done.returncode == 6, done.stderr
    assert "someone/llama is not a Qwen3.5 or Qwen3.6" in done.stderr
    assert "its model_type is llama" in done.stderr

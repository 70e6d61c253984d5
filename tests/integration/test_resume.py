"""A run that was killed, stopped or damaged becomes, resumed, the very run that it would have been."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROOF = Path(__file__).parents[1] / "proof"
sys.path.append(str(PROOF))

from trial import in_process  # noqa: E402
from trial.comparison import differences  # noqa: E402
from trial.damages import DAMAGES  # noqa: E402
from trial.small_run import write_recipe  # noqa: E402

from finetune.errors import Interrupted, RunLocked  # noqa: E402
from finetune.run import Run, list_runs, locked  # noqa: E402


@pytest.fixture(scope="module")
def work(pico_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, a run of it that nothing interrupted, and one that was stopped after step 5."""
    folder = tmp_path_factory.mktemp("resume")
    recipe = write_recipe(folder, pico_base, num_rows=20)
    in_process.train(*in_process.begin(recipe, folder / "whole"))
    with pytest.raises(Interrupted, match="stopped by SIGTERM") as told:
        in_process.train(*in_process.begin(recipe, folder / "stopped"), stop_after=4)
    assert told.value.exit_code == 75
    assert str(told.value).endswith(f"fix   finetune train --resume {folder / 'stopped' / 'small-0001'}")
    return folder


def whole(work: Path) -> Path:
    return work / "whole" / "small-0001"


def copy_of_the_stopped(work: Path, name: str) -> Run:
    """Beside the others, since the paths in a run's recipe are relative."""
    return Run(Path(shutil.copytree(work / "stopped" / "small-0001", work / name / "small-0001")))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported torch, and watches it by pidfd")
def test_killed_and_stopped_at_random_instants_a_run_becomes_the_same_run() -> None:
    command = [sys.executable, str(PROOF / "kill.py"), "--kills=2", "--terms=1", "--aimed=0", "--commands=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runs finished and bit-identical to the uninterrupted one" in done.stdout


def test_a_stopped_run_resumes_at_its_last_step_and_ends_identical(work: Path) -> None:
    run = copy_of_the_stopped(work, "resumed")
    resumed = in_process.train(run)
    assert "resuming at step 5 from checkpoint-5" in resumed.said
    assert differences(run.path, whole(work)) == []


def test_of_lost_metrics_nothing_is_claimed_and_the_adapter_is_the_same(work: Path) -> None:
    run = copy_of_the_stopped(work, "lost")
    run.metrics.unlink()
    resumed = in_process.train(run)
    claims = {claim["claim"]: claim for claim in resumed.entry["claims"]}
    steps = claims["optimizer steps taken"]
    assert (steps["measured"], steps["holds"]) == (steps["tolerance"] - 5, False)
    assert not any(claim.startswith("held-out loss") for claim in claims)
    file = "adapter/adapter_model.safetensors"
    assert (run.path / file).read_bytes() == (whole(work) / file).read_bytes()


@pytest.mark.parametrize(
    "damage", ["one bit flipped in the weights", "optimizer of another step", "random state missing"]
)
def test_a_damaged_checkpoint_is_refused_by_name_and_the_run_ends_identical(work: Path, damage: str) -> None:
    file, inflict = DAMAGES[damage]
    run = copy_of_the_stopped(work, damage.replace(" ", "-"))
    inflict(run.checkpoints / "checkpoint-5")
    resumed = in_process.train(run)
    refusals = [line for line in resumed.said if line.startswith("checkpoint refused: checkpoint-5: ")]
    assert len(refusals) == 1
    assert file in refusals[0]
    assert "resuming at step 4 from checkpoint-4" in resumed.said
    quarantine = run.checkpoints / ".quarantine"
    assert [path.name for path in quarantine.iterdir()] == ["checkpoint-5"]
    shutil.rmtree(quarantine)
    assert differences(run.path, whole(work)) == []


def test_a_stop_while_held_out_rows_are_scored_does_not_wait_for_them(work: Path) -> None:
    stopped_at: list[int] = []

    def stop_in_the_scoring(trainer: object) -> None:
        watcher = next(c for c in trainer.callback_handler.callbacks if type(c).__name__ == "Watcher")
        score_all = watcher._until_stopped

        def score_one(examples: list[object]):
            for number, example in enumerate(score_all(examples)):
                if trainer.state.global_step == 6 and number == 0:
                    stopped_at.append(number)
                    watcher.stop.signal = "SIGTERM"
                yield example

        watcher._until_stopped = score_one

    run, dataset = in_process.begin(work / "small.yaml", work / "scoring")
    with pytest.raises(Interrupted):
        in_process.train(run, dataset, touch=stop_in_the_scoring)
    assert stopped_at == [0]
    assert (run.checkpoints / "checkpoint-6").is_dir(), "the state was saved before it was scored"
    in_process.train(run)
    assert differences(run.path, whole(work)) == []


def test_to_resume_a_finished_run_says_so_and_changes_nothing(work: Path) -> None:
    run = Run(whole(work))
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path != run.lock}
    again = in_process.train(run)
    assert again.said == ["the run is finished; there is nothing to resume"]
    assert again.entry["stage"] == "train"
    assert {path: path.read_bytes() for path in before} == before


def test_a_second_process_on_a_run_is_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copy_of_the_stopped(work, "locked")
    with locked(run):
        code = in_process.command("train", "--resume", str(run.path))
    assert code == RunLocked.exit_code == 73
    assert "error: another process works in this run" in capsys.readouterr().err


def test_the_command_resumes_a_finished_run_with_exit_code_0(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_process.command("train", "--resume", str(whole(work))) == 0
    told = capsys.readouterr()
    assert told.out == f"{whole(work)}\n"
    assert "the run is finished; there is nothing to resume" in told.err
    assert [run.path for run in list_runs(work / "whole")] == [whole(work)]

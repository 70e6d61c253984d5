"""The sbatch script, linted and run by a real bash, with programs on PATH that write down how they were called."""

import signal
import subprocess
from pathlib import Path

import pytest
from launching import RECIPE, SRUN, calls, environment, fake, finetune

from finetune.run import create

ODD = (
    "plain.yaml",
    "two words.yaml",
    'it\'s "quoted".yaml',
    "$(touch pwned)`touch pwned`;ü ${HOME}.yaml",
    "-a\\b&|*.yaml",
)
TORCHRUN = ["--master-addr=n1", "--master-port=22345", "--nnodes=2", "--nproc-per-node=4"]
STOPPING = ["--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1", "--shutdown-timeout=270"]


def rendered(folder: Path, recipe: str = "legal.yaml", *words: str) -> Path:
    """Writes the script of a recipe for 2 x 4 GPUs."""
    (folder / recipe).write_text(RECIPE)
    typed = f"./{recipe}" if recipe.startswith("-") else recipe
    asked = ("--nodes", "2", "--gpus-per-node", "4", "--out", "job.sbatch", *words)
    done = finetune("launch", "slurm", typed, *asked, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "job.sbatch"


def bash(script: Path, fakes: Path) -> subprocess.CompletedProcess[str]:
    variables = environment(fakes)
    return subprocess.run(["bash", script], capture_output=True, text=True, check=False, cwd="/", env=variables)


def slurm(fakes: Path, srun: str = SRUN, torchrun: str = "") -> Path:
    """Puts a Slurm of two nodes on PATH."""
    fake(fakes, "srun", srun)
    fake(fakes, "scontrol", 'if [ "$1" = show ]; then printf "n1\\nn2\\n"; fi')
    fake(fakes, "torchrun", torchrun)
    return fakes


@pytest.mark.parametrize("recipe", ODD)
def test_the_words_reach_torchrun_on_each_node_as_they_were_typed(recipe: str, tmp_path: Path) -> None:
    script = rendered(tmp_path, recipe, "--set", 'system=Be $(brief), isn\'t "it"?', "--runs", "my runs")
    done = bash(script, fakes := slurm(tmp_path / "fakes"))
    assert done.returncode == 0, done.stderr
    typed = f"./{recipe}" if recipe.startswith("-") else recipe
    told = [typed, "--set", 'system=Be $(brief), isn\'t "it"?', "--runs", "my runs"]
    torchruns = [list(words) for name, *words in calls(fakes) if name == "torchrun"]
    assert torchruns == [
        [f"--node-rank={node}", *TORCHRUN, *STOPPING, "-m", "finetune", "train", *told] for node in (0, 1)
    ]
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("recipe", ODD)
def test_bash_and_shellcheck_find_nothing_in_it(recipe: str, tmp_path: Path) -> None:
    image = ("--image", "nvcr.io#nvidia/pytorch:26.10") if recipe == ODD[1] else ()
    words = ("--venv", "my venv", "--env", "NCCL_DEBUG=a 'b' $c", "--partition", "gpu", "--account", "law")
    script = rendered(tmp_path, recipe, *words, *image)
    for command in (["bash", "-n", script], ["shellcheck", script]):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(tmp_path))
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_sbatch_is_told_numbers_and_how_to_end_the_job(tmp_path: Path) -> None:
    script = rendered(tmp_path, "legal.yaml", "--partition", "gpu", "--account", "law", "--time", "2-00:00:00")
    lines = script.read_text().splitlines()
    told = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert told == [
        "--job-name=legal",
        "--partition=gpu",
        "--account=law",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--gpus-per-node=4",
        "--cpus-per-task=32",
        "--time=2-00:00:00",
        "--output=%x-%j.log",
        "--open-mode=append",
        "--requeue",
        "--signal=B:TERM@300",
    ]
    first_command = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(not line.startswith("#SBATCH") for line in lines[first_command:])  # sbatch reads none behind it


def test_setup_variables_and_the_virtual_environment_come_before_the_question(tmp_path: Path) -> None:
    (tmp_path / "my venv" / "bin").mkdir(parents=True)
    (tmp_path / "my venv" / "bin" / "activate").write_text('echo "$UNSET"; export ENTERED="$SET_UP and entered"\n')
    words = ("--setup", 'export SET_UP="set up"', "--venv", "my venv", "--env", "NCCL_DEBUG=a 'b' $c")
    script = rendered(tmp_path, "legal.yaml", *words)
    shown = 'printf "%s|%s|%s|%s" "$ENTERED" "$NCCL_DEBUG" "$OMP_NUM_THREADS" "$TORCH_EXTENSIONS_DIR"'
    fakes = slurm(tmp_path / "fakes", torchrun=shown)
    fake(fakes, "finetune")
    done = bash(script, fakes)
    assert done.stdout.strip() == "set up and entered|a 'b' $c|8|/tmp/torch_extensions-12345-0" * 2


@pytest.mark.parametrize(
    ("ended", "code", "requeued"),
    [(0, 0, False), (75, 75, True), (7, 7, False), (1, 1, False)],
    ids=["done", "stopped", "NaN", "a bug"],
)
def test_only_a_stopped_training_is_queued_again(ended: int, code: int, requeued: bool, tmp_path: Path) -> None:
    script = rendered(tmp_path)
    fakes = slurm(tmp_path / "fakes", srun=f"exit {ended}")
    fake(fakes, "finetune")
    assert bash(script, fakes).returncode == code
    assert (("scontrol", "requeue", "Incomplete", "12345") in calls(fakes)) is requeued


@pytest.mark.parametrize(
    ("ended", "code", "requeued"), [(1, 75, True), (0, 0, False)], ids=["saved", "finished in time"]
)
def test_a_warned_job_asks_srun_by_usr1_and_waits_for_it(ended: int, code: int, requeued: bool, tmp_path: Path) -> None:
    script = rendered(tmp_path)
    hears = (
        f'trap "sleep 0.3; echo saved; exit {ended}" USR1; trap "exit 137" TERM; echo up; while :; do sleep 0.05; done'
    )
    fakes = slurm(tmp_path / "fakes", srun=hears)
    fake(fakes, "finetune")
    with subprocess.Popen(["bash", script], stdout=subprocess.PIPE, text=True, env=environment(fakes)) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "up\n"
        job.send_signal(signal.SIGTERM)
        assert job.wait(20) == code
        assert job.stdout.read() == "saved\n"
    assert (("scontrol", "requeue", "Incomplete", "12345") in calls(fakes)) is requeued


def test_a_cluster_that_queues_nothing_again_is_told(tmp_path: Path) -> None:
    script = rendered(tmp_path)
    fakes = slurm(tmp_path / "fakes", srun="exit 75")
    fake(fakes, "finetune")
    fake(fakes, "scontrol", '[ "$1" = show ] && echo n1')
    done = bash(script, fakes)
    assert (done.returncode, done.stderr) == (75, "not queued again; sbatch this file to go on\n")


@pytest.mark.parametrize("program", ["finetune", "scontrol"])
def test_a_step_before_training_that_fails_ends_the_job(program: str, tmp_path: Path) -> None:
    script = rendered(tmp_path)
    fakes = slurm(tmp_path / "fakes")
    fake(fakes, "finetune")
    fake(fakes, program, "exit 6")
    assert bash(script, fakes).returncode == 6
    assert not [words for words in calls(fakes) if words[0] in ("srun", "torchrun")]


def test_an_interrupted_run_of_the_same_wishes_is_gone_on_with(tmp_path: Path) -> None:
    from finetune.recipe import dump, load

    script = rendered(tmp_path, "legal.yaml", "--set", "lora.rank=8", "--runs", "my runs")
    runs, fakes = tmp_path / "my runs", slurm(tmp_path / "fakes")
    for rank in (8, 16):  # the newer one has other wishes
        wishes = load(tmp_path / "legal.yaml", [f"lora.rank={rank}"])
        create(runs, "legal", dump(wishes, runs.absolute() / "any-run"), "{}", {})
    assert bash(script, fakes).returncode == 0
    told = [words[words.index("finetune") :] for words in calls(fakes) if words[0] == "torchrun"]
    assert told == [("finetune", "train", "--resume", "my runs/legal-0001")] * 2


def test_a_container_is_asked_which_run_and_trains_it(tmp_path: Path) -> None:
    script = rendered(tmp_path, "legal.yaml", "--image", "nvcr.io#nvidia/a b")
    fakes = slurm(tmp_path / "fakes")
    fake(fakes, "finetune")
    assert bash(script, fakes).returncode == 0
    folder = str(tmp_path)
    container = ("--container-image=nvcr.io#nvidia/a b", f"--container-mounts={folder}:{folder}")
    asked, trained = [words for words in calls(fakes) if words[0] == "srun"]
    assert (*container, f"--container-workdir={folder}", "finetune", "launch", "newest") == asked[3:9]
    assert (*container, f"--container-workdir={folder}", "bash") == trained[5:9]


def test_the_script_runs_where_it_was_written_wherever_it_is_submitted(tmp_path: Path) -> None:
    place = tmp_path / "a $(b) 'c'"
    place.mkdir()
    script = rendered(place)
    fakes = slurm(tmp_path / "fakes", torchrun='echo "$PWD"')
    assert bash(script, fakes).stdout.splitlines() == [str(place)] * 2

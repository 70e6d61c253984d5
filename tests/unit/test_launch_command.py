"""What is refused before anything is written, and how a file is handed over."""

import shutil
from pathlib import Path

import pytest
from launching import RECIPE, calls, fake, finetune

from finetune.launch import newest_unfinished
from finetune.recipe import dump, load
from finetune.run import Entry, Run, create, manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "legal.yaml").write_text(RECIPE)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (("slurm",), ["sbatch", "legal.sbatch"]),
        (("kubernetes", "--claim", "shared"), ["kubectl", "apply", "-f", "legal.trainjob.yaml"]),
        (
            ("sky", "--gpu", "H100", "--storage", "vol-1", "--secret", "HF_TOKEN"),
            ["sky", "launch", "--cluster", "finetune-legal", "--secret", "HF_TOKEN", "legal.sky.yaml"],
        ),
    ],
    ids=["slurm", "kubernetes", "sky"],
)
def test_submit_hands_over_the_file_that_was_written(words: tuple[str, ...], program: list[str], folder: Path) -> None:
    fake(folder / "fakes", program[0], f'cp "{folder}/{program[-1]}" "{folder}/received"; echo "job 7"')
    told = finetune("launch", words[0], "legal.yaml", *words[1:], cwd=folder)
    assert told.stdout == f"wrote {program[-1]}; submit it: {' '.join(program)}\n"
    done = finetune("launch", words[0], "legal.yaml", *words[1:], "--submit", cwd=folder, path=folder / "fakes")
    assert done.returncode == 0, done.stderr
    assert calls(folder / "fakes") == [tuple(program)]
    assert (folder / "received").read_text() == (folder / program[-1]).read_text()
    assert done.stdout.splitlines()[-1] == "job 7"


@pytest.mark.parametrize(
    ("words", "tool", "install"),
    [
        (("slurm",), "sbatch", "run this where Slurm is, on the cluster's login node: sbatch legal.sbatch"),
        (("sky", "--gpu", "H100", "--storage", "vol-1"), "sky", "pip install 'skypilot[kubernetes]'"),
    ],
)
def test_a_tool_that_is_missing_is_told_with_how_to_get_it(
    words: tuple[str, ...], tool: str, install: str, folder: Path
) -> None:
    if shutil.which(tool):
        pytest.skip(f"{tool} is installed here")
    done = finetune("launch", words[0], "legal.yaml", *words[1:], "--submit", cwd=folder)
    assert done.returncode == 5
    assert f"error: {tool} is not installed here\n  where PATH\n" in done.stderr
    assert f"  fix   {install}" in done.stderr
    assert sorted(folder.iterdir()) == [folder / "legal.yaml"]


def test_an_engine_that_refuses_the_file_is_told(folder: Path) -> None:
    fake(folder / "fakes", "sbatch", 'echo "sbatch: error: invalid partition" >&2; exit 1')
    done = finetune("launch", "slurm", "legal.yaml", "--submit", cwd=folder, path=folder / "fakes")
    assert done.returncode == 5
    assert done.stderr.splitlines() == [
        "sbatch: error: invalid partition",
        "error: sbatch did not do it",
        "  where sbatch legal.sbatch",
        "  why   it ended with exit code 1",
        "  fix   sbatch legal.sbatch",
    ]


def test_a_file_that_was_edited_is_not_overwritten(folder: Path) -> None:
    assert finetune("launch", "slurm", "legal.yaml", cwd=folder).returncode == 0
    assert finetune("launch", "slurm", "legal.yaml", cwd=folder).returncode == 0  # the same text may be written again
    (folder / "legal.sbatch").write_text("mine")
    done = finetune("launch", "slurm", "legal.yaml", cwd=folder)
    assert done.returncode == 2
    assert "this would overwrite a file\n  where legal.sbatch\n" in done.stderr
    assert (folder / "legal.sbatch").read_text() == "mine"


def test_a_batch_that_cannot_be_shared_names_the_numbers_that_work(folder: Path) -> None:
    done = finetune("launch", "slurm", "legal.yaml", "--nodes", "2", "--gpus-per-node", "3", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: 6 GPUs (2 x 3) cannot share a batch of 16",
        "  where legal.yaml:5  train.batch_size",
        "  why   each takes the same number of examples; 16 is shared by 1, 2, 4, 8 GPUs",
        "  fix   train.batch_size: 12 or train.batch_size: 18",
    ]
    for size in (12, 18):
        words = ("--nodes", "2", "--gpus-per-node", "3", "--set", f"train.batch_size={size}", "--out", f"{size}")
        assert finetune("launch", "slurm", "legal.yaml", *words, cwd=folder).returncode == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--set", "system=a\nb"), "a job's file cannot hold this"),
        (("--setup", "a\rb"), "a job's file cannot hold this"),
        (("--runs", "a\u2028b"), "a job's file cannot hold this"),
        (("--env", "A=b\x1b[0m"), "a job's file cannot hold this"),
        (("--image", "\udcff"), "a job's file cannot hold this"),
        (("--env", "HF_TOKEN=x"), "HF_TOKEN is a secret by its name"),
        (("--env", "X=hf_" + "a" * 30), "this looks like a secret"),
        (("--setup", "export X=hf_" + "a" * 30), "this looks like a secret"),
        (("--env", "MASTER_ADDR=x"), "MASTER_ADDR is not yours to set"),
        (("--env", "PET_NNODES=3"), "PET_NNODES is not yours to set"),
        (("--env", "1A=x"), "this is not a variable"),
        (("--env", "A"), "this is not a variable"),
        (("--time", "tomorrow"), "'tomorrow' is not a time"),
        (("--time", "24:60:00"), "'24:60:00' is not a time"),
        (("--set", "lora.rnak=3"), "the recipe has no key lora.rnak"),
    ],
)
def test_what_no_file_may_hold_is_refused(words: tuple[str, str], told: str, folder: Path) -> None:
    done = finetune("launch", "slurm", "legal.yaml", *words, cwd=folder)
    assert done.returncode == 2
    assert f"error: {told}\n" in done.stderr
    assert "hf_a" not in done.stderr
    assert sorted(folder.iterdir()) == [folder / "legal.yaml"]


def test_a_recipe_with_a_lines_end_in_its_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a\nb.yaml").write_text(RECIPE)
    done = finetune("launch", "slurm", "a\nb.yaml", cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "  fix   give it a plain name")


def begun(folder: Path, *overrides: str) -> Run:
    wishes, runs = load(folder / "legal.yaml", overrides), folder / "runs"
    return create(runs, wishes.name, dump(wishes, runs.absolute() / "any-run"), "{}", {})


def test_the_newest_run_of_the_same_wishes_is_gone_on_with_unless_it_is_finished(folder: Path) -> None:
    wishes, runs = load(folder / "legal.yaml"), folder / "runs"
    assert newest_unfinished(wishes, runs) is None
    begun(folder, "lora.rank=8")
    assert newest_unfinished(wishes, runs) is None
    begun(folder)
    newer = begun(folder)
    begun(folder, "name=other")
    assert newest_unfinished(wishes, runs) == newer
    manifest.add(newer.manifest, Entry("train", {}, {}, [], {}, 1.0, manifest.now()))
    assert newest_unfinished(wishes, runs) is None


def test_the_hidden_question_is_not_listed_and_answers_in_one_line(folder: Path) -> None:
    begun(folder)
    assert finetune("launch", "newest", "legal.yaml", cwd=folder).stdout == "runs/legal-0001\n"
    assert finetune("launch", "newest", "legal.yaml", "--set", "lora.rank=8", cwd=folder).stdout == ""
    assert "newest" not in finetune("launch", "--help", cwd=folder).stdout


def test_a_recipe_that_breaks_a_rule_on_so_many_gpus_is_refused_before_a_file_is_written(folder: Path) -> None:
    words = ("legal.yaml", "--set", "base=Qwen/Qwen3.6-27B", "--set", "parallel.expert=8")
    done = finetune("launch", "slurm", *words, cwd=folder)
    assert done.returncode == 2
    assert "there are no experts to spread\n" in done.stderr
    assert not (folder / "legal.sbatch").exists()

"""The TrainJob and the SkyPilot task: read by their own schemas, and their scripts run by a real bash."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob
from launching import RECIPE, calls, environment, fake, finetune

from finetune.launch.kubernetes import kubernetes_name, unexpanded

ODD = ("plain.yaml", "two words.yaml", "$(touch pwned)$$`touch pwned`'\";ü $(PET_NODE_RANK).yaml")
SKY_TASK = {"name", "workdir", "num_nodes", "resources", "file_mounts", "volumes", "secrets", "run"}
SKY_RESOURCES = {"infra", "accelerators", "cpus", "use_spot", "image_id"}
"""Keys that SkyPilot's own schema has. Source: skypilot 0.14.1, sky/utils/schemas.py, `get_task_schema` and
`_get_single_resources_schema`; docs/launch.md tells what was compared with them."""


def rendered(folder: Path, engine: str, *words: str, recipe: str = "legal.yaml") -> dict[str, Any]:
    (folder / recipe).write_text(RECIPE)
    out = folder / f"{engine}.yaml"
    asked = ("--nodes", "2", "--gpus-per-node", "4", "--out", str(out))
    done = finetune("launch", engine, recipe, *asked, *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = yaml.safe_load(out.read_text())
    return told


def on_each_node(script: str, folder: Path, engine: dict[str, str]) -> list[tuple[str, ...]]:
    """Runs a node's script by bash, and gives the words of the torchrun that it became."""
    fake(folder / "fakes", "torchrun")
    variables = environment(folder / "fakes") | engine
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=False, cwd=folder, env=variables
    )
    assert done.returncode == 0, done.stderr
    return calls(folder / "fakes")


def expanded(text: str, variables: dict[str, str]) -> str:
    """What Kubernetes makes of a command, by its own rule: `$$` is a dollar, `$(NAME)` a variable if there is one.

    Source: https://kubernetes.io/docs/tasks/inject-data-application/define-command-argument-container/
    """

    def put(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else variables.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", put, text)


def linted(script: str, folder: Path) -> str:
    command = ["shellcheck", "--shell=bash", "--exclude=SC2016", "-"]
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False, env=environment(folder))
    return done.stdout + done.stderr


@pytest.mark.parametrize("words", [(), ("--secret", "hf", "--image", "r/x:1", "--namespace", "law", "--venv", "v")])
def test_a_trainjob_is_what_kubeflows_own_models_read(words: tuple[str, ...], tmp_path: Path) -> None:
    told = rendered(tmp_path, "kubernetes", "--claim", "shared", *words)
    read = TrainerV1alpha1TrainJob.from_dict(told)
    assert read is not None
    assert read.to_dict() == told  # a key that Kubeflow does not know is not given back
    told["spec"]["trainer"]["numNode"] = 2
    read = TrainerV1alpha1TrainJob.from_dict(told)
    assert read is not None
    assert read.to_dict() != told


def test_a_trainjob_asks_for_pods_gpus_storage_and_time_to_save(tmp_path: Path) -> None:
    told = rendered(tmp_path, "kubernetes", "--claim", "shared", "--secret", "hf", "--time", "1-00:00:01")
    trainer, (patch,) = told["spec"]["trainer"], told["spec"]["runtimePatches"]
    resources = {"nvidia.com/gpu": "4", "cpu": "32"}
    assert told["spec"]["activeDeadlineSeconds"] == 86_401
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 4)
    assert trainer["resourcesPerNode"] == {"requests": resources, "limits": resources}
    assert trainer["env"] == [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "HF_TOKEN"}}}]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 300
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "shared"}


@pytest.mark.parametrize("recipe", ODD)
def test_a_pod_runs_torchrun_with_the_words_as_they_were_typed(recipe: str, tmp_path: Path) -> None:
    told = rendered(tmp_path, "kubernetes", "--claim", "shared", recipe=recipe)
    engine = {"PET_NODE_RANK": "1", "PET_MASTER_ADDR": "legal-node-0-0.legal", "PET_MASTER_PORT": "29500"}
    bash, flag, script = told["spec"]["trainer"]["command"]
    assert (bash, flag) == ("bash", "-c")
    seen = expanded(script, engine).replace("cd -- /workspace\n", f"cd -- '{tmp_path}'\n")
    assert linted(seen, tmp_path) == ""
    (torchrun,) = on_each_node(seen, tmp_path, engine)
    assert torchrun[:4] == ("torchrun", "--node-rank=1", "--master-addr=legal-node-0-0.legal", "--master-port=29500")
    assert torchrun[4:6] == ("--nnodes=2", "--nproc-per-node=4")
    assert torchrun[-6:] == ("-m", "finetune", "train", recipe, "--runs", "runs")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("text", ["$(A)", "$$", "$$$(A)$", "${A}", "$A$$(A)$$$", "$(a b)"])
def test_kubernetes_gives_back_what_was_kept_from_it(text: str) -> None:
    assert expanded(unexpanded(text), {"A": "put in"}) == text


@pytest.mark.parametrize(
    ("name", "plain"),
    [("Legal_2.1", "legal-2-1"), ("2nd", "run-2nd"), ("x" * 64, "x" * 50), ("a" * 49 + "-b", "a" * 49)],
)
def test_a_recipes_name_becomes_one_that_kubernetes_takes(name: str, plain: str) -> None:
    assert kubernetes_name(name) == plain


@pytest.mark.parametrize("recipe", ODD)
def test_a_sky_node_runs_torchrun_with_the_words_as_they_were_typed(recipe: str, tmp_path: Path) -> None:
    told = rendered(tmp_path, "sky", "--gpu", "H100", "--storage", "s3://my-runs", recipe=recipe)
    engine = {"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_TASK_ID": "sky-1"}
    assert linted(told["run"], tmp_path) == ""
    (torchrun,) = on_each_node(told["run"], tmp_path, engine)
    assert torchrun[:4] == ("torchrun", "--node-rank=1", "--master-addr=10.0.0.1", "--master-port=29500")
    assert torchrun[-6:] == ("-m", "finetune", "train", recipe, "--runs", "/storage/runs")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("words", "mounted"),
    [
        (("--storage", "s3://my-runs"), {"file_mounts": {"/storage": {"source": "s3://my-runs", "mode": "MOUNT"}}}),
        (("--storage", "vol-1", "--spot", "--infra", "k8s"), {"volumes": {"/storage": "vol-1"}}),
        (("--storage", "vol-1", "--secret", "HF_TOKEN", "--image", "r/x:1"), {"secrets": {"HF_TOKEN": None}}),
    ],
)
def test_a_sky_task_has_only_keys_that_skypilot_knows(
    words: tuple[str, ...], mounted: dict[str, Any], tmp_path: Path
) -> None:
    told = rendered(tmp_path, "sky", "--gpu", "H100", *words)
    assert told.keys() <= SKY_TASK
    assert told["resources"].keys() <= SKY_RESOURCES
    assert told.items() >= mounted.items()
    assert (told["num_nodes"], told["resources"]["accelerators"]) == (2, "H100:4")


def test_a_recipe_that_skypilot_would_not_copy_is_refused(tmp_path: Path) -> None:
    (tmp_path / "legal.yaml").write_text(RECIPE)
    (tmp_path / "below").mkdir()
    words = ("--gpu", "H100", "--storage", "vol-1")
    done = finetune("launch", "sky", "../legal.yaml", *words, cwd=tmp_path / "below")
    assert done.returncode == 2
    assert "error: the machines would not have this recipe\n  where ../legal.yaml\n" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("kubernetes", "--claim", "Shared Claim"),
        ("kubernetes", "--claim", "shared", "--namespace", "a.b"),
        ("kubernetes", "--claim", "shared", "--secret", "$(x)"),
        ("sky", "--gpu", "H100:8 ", "--storage", "vol-1"),
        ("sky", "--gpu", "H100", "--storage", "s3://a b"),
        ("sky", "--gpu", "H100", "--storage", "vol-1", "--secret", "A=b"),
        ("slurm", "--partition", "gpu --wrap=x"),
        ("slurm", "--account", "a\nb"),
        ("slurm", "--name", "a b"),
    ],
)
def test_a_name_that_the_engine_does_not_take_is_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "legal.yaml").write_text(RECIPE)
    done = finetune("launch", words[0], "legal.yaml", *words[1:], cwd=tmp_path)
    assert done.returncode == 2
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["error:", "where", "why", "fix"]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "legal.yaml"]

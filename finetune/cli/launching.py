"""`finetune launch`: a job's file for Slurm, Kubernetes or SkyPilot, or DeepSpeed's launcher with checked words."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from finetune.launch import Job

app = typer.Typer(
    help="Train on many machines: write the job's file, or hand it over too.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

RECIPE = typer.Argument(help="The recipe, a YAML file that every node sees.")
SET = typer.Option([], "--set", metavar="KEY=VALUE", help="Override a key of the recipe; may be repeated.")
NODES = typer.Option(1, "--nodes", min=1, max=10_000, help="Machines.")
GPUS = typer.Option(8, "--gpus-per-node", min=1, max=64, help="GPUs of each, and processes on it.")
CPUS = typer.Option(8, "--cpus-per-gpu", min=1, max=512, help="Processors for each GPU.")
TIME = typer.Option("24:00:00", "--time", metavar="[D-]HH:MM:SS", help="How long the job may take.")
IMAGE = typer.Option("", "--image", help="A container's image that has finetune.")
ENV = typer.Option([], "--env", metavar="NAME=VALUE", help="A variable of every process; may be repeated.")
VENV = typer.Option(None, "--venv", metavar="FOLDER", help="The virtual environment that has finetune.")
SETUP = typer.Option([], "--setup", metavar="LINE", help="A line of bash that comes first; may be repeated.")
NAME = typer.Option(None, "--name", help="What the job is called; by default as the recipe is.")
OUT = typer.Option(None, "--out", metavar="FILE", help="Where to write the file.")
SUBMIT = typer.Option(False, "--submit", help="Hand it over at once.")
RUNS = typer.Option("runs", "--runs", help="The folder of runs, which every node sees.")


@app.command("slurm")
def slurm(
    recipe: Path = RECIPE,
    overrides: list[str] = SET,
    nodes: int = NODES,
    gpus_per_node: int = GPUS,
    cpus_per_gpu: int = CPUS,
    time: str = TIME,
    partition: str | None = typer.Option(None, "--partition", help="Slurm's partition."),
    account: str | None = typer.Option(None, "--account", help="Whom Slurm charges."),
    image: str = IMAGE,
    env: list[str] = ENV,
    venv: Path | None = VENV,
    setup: list[str] = SETUP,
    name: str | None = NAME,
    runs: str = RUNS,
    out: Path | None = OUT,
    submit: bool = SUBMIT,
) -> None:
    """Write the sbatch script of a training that saves, queues itself again and goes on when its time is over."""
    from finetune.launch import Site, operand, render_sbatch

    asked = {"nodes": nodes, "gpus_per_node": gpus_per_node, "cpus_per_gpu": cpus_per_gpu, "time": time}
    job = _job(recipe, overrides, venv, runs=runs, name=name, image=image, env=env, setup=setup, **asked)
    text = render_sbatch(job, Site(Path.cwd(), partition, account))
    file = out or Path(f"{job.name}.sbatch")
    _give(text, file, ("sbatch", operand(str(file))), submit)


@app.command("kubernetes")
def kubernetes(
    recipe: Path = RECIPE,
    claim: str = typer.Option(..., "--claim", help="The volume claim with the recipe, its data and the runs."),
    overrides: list[str] = SET,
    nodes: int = NODES,
    gpus_per_node: int = GPUS,
    cpus_per_gpu: int = CPUS,
    time: str = TIME,
    namespace: str | None = typer.Option(None, "--namespace", help="Kubernetes' namespace."),
    runtime: str = typer.Option("torch-distributed", "--runtime", help="Kubeflow's ClusterTrainingRuntime."),
    secret: str | None = typer.Option(None, "--secret", help="The Secret with the key HF_TOKEN."),
    image: str = IMAGE,
    env: list[str] = ENV,
    venv: Path | None = VENV,
    setup: list[str] = SETUP,
    name: str | None = NAME,
    runs: str = RUNS,
    out: Path | None = OUT,
    submit: bool = SUBMIT,
) -> None:
    """Write the TrainJob of Kubeflow Trainer v2."""
    from finetune.launch import Cluster, operand, render_trainjob

    asked = {"nodes": nodes, "gpus_per_node": gpus_per_node, "cpus_per_gpu": cpus_per_gpu, "time": time}
    job = _job(recipe, overrides, venv, runs=runs, name=name, image=image, env=env, setup=setup, **asked)
    text = render_trainjob(job, Cluster(claim, namespace, runtime, secret))
    file = out or Path(f"{job.name}.trainjob.yaml")
    _give(text, file, ("kubectl", "apply", "-f", operand(str(file))), submit)


@app.command("sky")
def sky(
    recipe: Path = RECIPE,
    gpu: str = typer.Option(..., "--gpu", help="The GPU as SkyPilot calls it: H100, A100-80GB, …"),
    storage: str = typer.Option(..., "--storage", help="For the runs: a SkyPilot volume, or a bucket: s3://my-runs"),
    overrides: list[str] = SET,
    nodes: int = NODES,
    gpus_per_node: int = GPUS,
    cpus_per_gpu: int = CPUS,
    infra: str | None = typer.Option(None, "--infra", help="Where: aws, gcp/us-central1, k8s, …; anywhere without it."),
    spot: bool = typer.Option(False, "--spot", help="Take machines that may be taken away again."),
    secret: str | None = typer.Option(None, "--secret", help="A variable of your shell to hand on: HF_TOKEN"),
    image: str = IMAGE,
    env: list[str] = ENV,
    venv: Path | None = VENV,
    setup: list[str] = SETUP,
    name: str | None = NAME,
    runs: str = typer.Option("/storage/runs", "--runs", help="The folder of runs, which every node sees."),
    out: Path | None = OUT,
    submit: bool = SUBMIT,
) -> None:
    """Write the SkyPilot task."""
    from finetune.launch import Cloud, operand, render_sky
    from finetune.launch.sky import submit_words

    asked = {"nodes": nodes, "gpus_per_node": gpus_per_node, "cpus_per_gpu": cpus_per_gpu}
    job = _job(recipe, overrides, venv, runs=runs, name=name, image=image, env=env, setup=setup, **asked)
    cloud = Cloud(gpu, storage, infra, spot, secret)
    text = render_sky(job, cloud)
    file = out or Path(f"{job.name}.sky.yaml")
    _give(text, file, submit_words(job, cloud, operand(str(file))), submit)


@app.command("hostfile")
def hostfile(
    recipe: Path = RECIPE,
    file: Path = typer.Option(..., "--hostfile", help="A line `NAME slots=GPUS` for each machine."),
    address: str | None = typer.Option(None, "--master-addr", help="The first machine's address for the others."),
    port: int = typer.Option(29500, "--master-port", min=1024, max=65535, help="A port that is free there."),
    ssh_port: int | None = typer.Option(None, "--ssh-port", min=1, max=65535, help="Where ssh listens."),
    overrides: list[str] = SET,
    runs: str = RUNS,
    submit: bool = typer.Option(False, "--submit", help="Start it here and now."),
) -> None:
    """Check a hostfile and print the deepspeed command that trains on its machines."""
    from finetune.launch import check_sharing, deepspeed_words, hand_over, newest_unfinished, read_hostfile, total_slots
    from finetune.launch.hostfile import check_surroundings
    from finetune.launch.job import check_words, operand
    from finetune.launch.submitting import find_tool
    from finetune.recipe import load

    hosts = read_hostfile(file)
    for place, words in (("RECIPE", [str(recipe)]), ("--set", overrides), ("--runs", [runs])):
        check_words(place, words)
    wishes = load(recipe, overrides)
    check_sharing(wishes, total_slots(hosts), " + ".join(str(host.slots) for host in hosts))
    going_on = newest_unfinished(wishes, Path(runs))
    begun = [operand(str(recipe)), *(word for each in overrides for word in ("--set", each)), "--runs", runs]
    told = ["train", *(["--resume", str(going_on.path)] if going_on else begun)]
    command = deepspeed_words(file, hosts, told, address, port, ssh_port)
    print(shlex.join(command))
    if submit:
        if len(hosts) > 1:
            check_surroundings(Path.cwd(), sys.executable, os.environ, Path.home())
            find_tool("pdsh", shlex.join(command))
        hand_over(command)


@app.command("newest", hidden=True)
def newest(
    recipe: Path = RECIPE, overrides: list[str] = SET, runs: Path = typer.Option(Path("runs"), "--runs")
) -> None:
    """Print the run that a job goes on with, or nothing; the written jobs ask it."""
    from finetune.launch import newest_unfinished
    from finetune.recipe import load

    run = newest_unfinished(load(recipe, overrides), runs)
    if run is not None:
        print(run.path)


def _job(recipe: Path, overrides: list[str], venv: Path | None, **asked: Any) -> Job:
    from finetune.launch import make_job
    from finetune.recipe import load

    entered = str(venv) if venv else ""
    return make_job(load(recipe, overrides), str(recipe), overrides, venv=entered, **asked)


def _give(text: str, file: Path, command: Sequence[str], submit: bool) -> None:
    from finetune.launch import hand_over, write_new
    from finetune.launch.submitting import find_tool

    if submit:
        find_tool(command[0], shlex.join(command))
    write_new(file, text)
    if not submit:
        print(f"wrote {file}; submit it: {shlex.join(command)}")
        return
    print(f"wrote {file}; {shlex.join(command)}", flush=True)
    hand_over(command)

"""The sbatch script: commented, with real numbers, and able to stop, queue itself again and go on.

What it knows of Slurm, each found the hard way by somebody:

- `#SBATCH` lines expand no variables: every number in them is a number.
- `--signal=B:TERM@300` tells the batch shell alone. srun that hears TERM kills its tasks at once with KILL, so the
  shell asks by USR1, which srun does hand on (slurm 284c3b95, src/srun/signals.c, `_forward_signal`).
- A signal that srun hands on reaches only the tasks it started, not their children, unless the site has set
  `SignalChildrenProcesses` (proctrack_cgroup.c, `proctrack_p_signal`): so torchrun is the task, by `exec`.
- torchrun ends with 1 whatever its workers ended with: that a stop was asked for is remembered by the shell.
- `scontrol requeue Incomplete` takes no job that was cancelled, so `scancel` stays final (doc/man/man1/scontrol.1).
- srun does not inherit `--cpus-per-task` (since Slurm 22.05).
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from finetune.launch.command import WARNING_SECONDS, choosing_lines, preparing_lines, torchrun_flags
from finetune.launch.job import Job, check_name, check_words

SITE_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.,@+:-]{0,127}"
"""What a partition's or an account's name may hold."""


@dataclass(frozen=True)
class Site:
    """What differs from cluster to cluster."""

    folder: Path
    """Where the recipe's path starts from; the same on every node."""
    partition: str | None = None
    account: str | None = None


def render_sbatch(job: Job, site: Site) -> str:
    """Writes the script for `sbatch`.

    Raises:
        RecipeError: a partition, an account or a folder that no `#SBATCH` line or script can hold.
    """
    check_name("--partition", site.partition, SITE_NAME)
    check_name("--account", site.account, SITE_NAME)
    check_words("the working folder", [str(site.folder)])
    return "\n".join([*_head(job, site), *_preparing(job, site), *_starting(job), *_ending(), ""])


def _head(job: Job, site: Site) -> list[str]:
    told = [f"--partition={site.partition}"] if site.partition else []
    told += [f"--account={site.account}"] if site.account else []
    asked = [
        f"--job-name={job.name}",
        *told,
        f"--nodes={job.nodes}",
        "--ntasks-per-node=1",
        f"--gpus-per-node={job.gpus_per_node}",
        f"--cpus-per-task={job.gpus_per_node * job.cpus_per_gpu}",
        f"--time={job.time}",
        "--output=%x-%j.log",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:TERM@{WARNING_SECONDS}",
    ]
    return [
        "#!/usr/bin/env bash",
        f"# Trains {job.recipe} on {job.nodes} x {job.gpus_per_node} GPUs, one process per GPU.",
        "# One task per node: torchrun, which starts the processes. All attempts write into one log.",
        f"# {WARNING_SECONDS} seconds before its time is over the job saves, queues itself again, and goes on.",
        *(f"#SBATCH {each}" for each in asked),
        "# shellcheck disable=SC2016  # what stands in single quotes is meant as it stands",
    ]


def _preparing(job: Job, site: Site) -> list[str]:
    return [
        "",
        "# Every node sees this folder: the recipe, its data and the runs.",
        *preparing_lines(job, str(site.folder)),
        "# What DeepSpeed compiles lies on each node's own disk, new for each attempt: a lock that a killed compiler",
        "# left behind would be waited for forever.",
        'export TORCH_EXTENSIONS_DIR="/tmp/torch_extensions-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"',
        "",
        "# Node 0 listens on a port that another job on it is unlikely to have.",
        'hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")',
        "head=${hosts%%$'\\n'*}",
        "port=$((20000 + SLURM_JOB_ID % 10000))",
        "",
    ]


def _starting(job: Job) -> list[str]:
    container = _container(job)
    asked_by = f"srun --nodes=1 --ntasks=1{container} " if container else ""
    return [
        *choosing_lines(job, asked_by),
        "",
        "# A task that fails ends the others at once; they would wait for it.",
        "# $SLURM_NODEID is another on each node, so each task reads it for itself.",
        f"srun --nodes={job.nodes} --ntasks-per-node=1 --cpus-per-task={job.gpus_per_node * job.cpus_per_gpu} \\",
        f"  --kill-on-bad-exit=1{container} \\",
        """  bash -c 'exec torchrun --node-rank="$SLURM_NODEID" "$@"' node \\""",
        '  --master-addr="$head" --master-port="$port" \\',
        *(f"  {flag} \\" for flag in torchrun_flags(job.nodes, job.gpus_per_node)),
        '  -m finetune train "${words[@]}" &',
        "step=$!",
        "",
    ]


def _container(job: Job) -> str:
    """Words for Pyxis, the plugin by which srun starts containers; the folder is mounted where it is."""
    if not job.image:
        return ""
    return f' --container-image={shlex.quote(job.image)} --container-mounts="$PWD:$PWD" --container-workdir="$PWD"'


def _ending() -> list[str]:
    return [
        "# Near its end the job hears TERM. srun that hears TERM kills; asked by USR1 it hands that on to torchrun,",
        "# torchrun to the processes, and they save.",
        "asked=0",
        """trap 'asked=$((asked + 1)); kill -USR1 "$step" || true' TERM""",
        "while true; do",
        "  before=$asked",
        "  code=0",
        '  wait "$step" || code=$?',
        '  [ "$asked" -ne "$before" ] || break  # a signal cut the wait short, and the step still runs',
        "done",
        "",
        '# 75 is finetune\'s "stopped and resumable". torchrun makes 1 of it, so that a stop was asked for counts too.',
        'if [ "$code" -eq 75 ] || { [ "$code" -ne 0 ] && [ "$asked" -gt 0 ]; }; then',
        "  code=75",
        '  scontrol requeue Incomplete "$SLURM_JOB_ID" || echo "not queued again; sbatch this file to go on" >&2',
        "fi",
        'exit "$code"',
    ]

"""The one command that every engine runs on every node: torchrun, one process per GPU, `finetune train` in each.

The rendezvous is the static one: node 0 listens, the others are told its name. It needs each node's number and no
guess about who the host is; the c10d one compares host names, and where two names differ no node listens at all.

Source: torch 2.13, torch/distributed/run.py (flags, exit code) and elastic/multiprocessing/subprocess_handler (each
worker is a session of its own and hears a signal once, from torchrun).
"""

from __future__ import annotations

import shlex

from finetune.launch.job import Job

WARNING_SECONDS = 300
"""Between the engine's warning and its end: time for the step in progress and a checkpoint."""

SHUTDOWN_SECONDS = WARNING_SECONDS - 30
"""How long torchrun waits for its workers once it was told to stop; its default of 30 cuts a checkpoint short."""

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
"""What torchrun hands on to its workers: its default, and SIGUSR1, the one by which Slurm's srun can ask for a stop."""


def torchrun_flags(nodes: int, processes: int) -> tuple[str, ...]:
    """The flags that are the same on every node; node rank, address and port are the engine's to tell.

    Args:
        nodes: machines.
        processes: on each.
    """
    return (
        f"--nnodes={nodes}",
        f"--nproc-per-node={processes}",
        f"--signals-to-handle={SIGNALS}",
        f"--shutdown-timeout={SHUTDOWN_SECONDS}",
    )


def preparing_lines(job: Job, folder: str = "") -> list[str]:
    """Bash that comes first on every node: the user's lines and variables, and a thread for each processor.

    Args:
        folder: where the recipe's path starts from; the engine's choice if empty.
    """
    lines = ["set -eo pipefail", *([f"cd -- {shlex.quote(folder)}"] if folder else []), *job.setup]
    if job.venv:
        lines += ["# shellcheck source=/dev/null", f"source {shlex.quote(job.venv)}/bin/activate"]
    lines.append("set -u")  # after these, for what activates environments seldom stands it
    lines += [f"export {name}={shlex.quote(value)}" for name, value in job.env]
    if "OMP_NUM_THREADS" not in dict(job.env):
        lines.append(f"export OMP_NUM_THREADS={job.cpus_per_gpu}")
    return lines


def choosing_lines(job: Job, asked_by: str = "") -> list[str]:
    """Bash that puts into `words` what `finetune train` is told: to begin, or to go on with an interrupted run.

    Every node may ask for itself: a run's folder is made when all processes have met, so none can exist for one
    node and not for another.

    Args:
        asked_by: words before the question, such as the container that it is asked in.
    """
    words = shlex.join(job.words)
    return [
        "# Goes on with the newest run of exactly these wishes if it was interrupted; the first time there is none.",
        f"run=$({asked_by}finetune launch newest {words})",
        f'if [ -n "$run" ]; then words=(--resume "$run"); else words=({words}); fi',
    ]


def node_script(job: Job, local_disk: str, rank: str, address: str, port: str, folder: str = "") -> str:
    """A whole bash script for one node, where the engine runs the same one on all.

    Args:
        local_disk: a folder on the node's own disk, as bash reads it.
        rank: the node's number from 0 on, as bash reads it.
        address: the name or address of node 0, as bash reads it.
        port: a port that is free there, as bash reads it.
        folder: where the recipe's path starts from; the engine's choice if empty.
    """
    return "\n".join(
        [
            *preparing_lines(job, folder),
            "# What DeepSpeed compiles lies on the node's own disk: a stale lock on a shared one is waited for",
            "# forever.",
            f"export TORCH_EXTENSIONS_DIR={local_disk}",
            *choosing_lines(job),
            "# exec, so that torchrun itself is told to stop, and hands it on.",
            f"exec torchrun --node-rank={rank} --master-addr={address} --master-port={port} \\",
            *(f"  {flag} \\" for flag in torchrun_flags(job.nodes, job.gpus_per_node)),
            '  -m finetune train "${words[@]}"',
            "",
        ]
    )

"""The SkyPilot task: machines of any cloud or cluster, found, started, and started again by SkyPilot.

SkyPilot copies the working folder to every node, runs `run` on each, and tells each its number in
`SKYPILOT_NODE_RANK` and all addresses, node 0 first, in `SKYPILOT_NODE_IPS`.

Source: https://docs.skypilot.co/en/latest/reference/yaml-spec.html,
https://docs.skypilot.co/en/latest/running-jobs/distributed-jobs.html; skypilot 0.14.1, sky/utils/schemas.py.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from finetune.errors import RecipeError
from finetune.launch.command import node_script
from finetune.launch.job import Job, check_name, check_words
from finetune.launch.yaml_text import part

STORAGE_AT = "/storage"
"""Where the storage is mounted on every node: the runs lie there."""

PORT = "29500"
"""On machines of one's own no other job has it."""


@dataclass(frozen=True)
class Cloud:
    """What differs from cloud to cloud."""

    gpu: str
    """SkyPilot's name of the GPU, such as H100."""
    storage: str
    """A volume's name, or a bucket such as `s3://my-runs`."""
    infra: str | None = None
    """Where to look, such as `aws/us-east-1` or `k8s`; everywhere if None."""
    spot: bool = False
    secret: str | None = None
    """The variable, such as HF_TOKEN, that `sky launch --secret` takes from the shell."""


def render_sky(job: Job, cloud: Cloud) -> str:
    """Writes the task for `sky launch`.

    Raises:
        RecipeError: a GPU's, a volume's or a variable's name that SkyPilot does not take.
    """
    check_name("--gpu", cloud.gpu)
    check_name("--secret", cloud.secret, r"[A-Za-z_][A-Za-z0-9_]*")
    check_words("--infra", [cloud.infra or ""])
    if os.path.isabs(job.recipe) or os.path.normpath(job.recipe).startswith(".."):
        why = "SkyPilot copies the working folder to the machines, and the recipe is not in it"
        raise RecipeError(
            "the machines would not have this recipe", where=job.recipe, why=why, fix="cd to a folder above it"
        )
    storage, told = _storage(cloud.storage)
    head = (
        f"Trains {job.recipe} on {job.nodes} x {job.gpus_per_node} GPUs, one process per GPU.\n"
        "For a run that goes on by itself when machines are taken away: sky jobs launch, with this file."
    )
    place = ('"$SKYPILOT_NODE_RANK"', "\"${SKYPILOT_NODE_IPS%%$'\\n'*}\"", PORT)
    script = node_script(job, '"/tmp/torch_extensions-$SKYPILOT_TASK_ID"', *place)
    parts = [
        part(head, {"name": job.name}),
        part("Copied to every node; the recipe and its data are in it.", {"workdir": "."}),
        part("", {"num_nodes": job.nodes, "resources": _resources(job, cloud)}),
        part(told, storage),
    ]
    if cloud.secret:
        parts.append(part("Taken from your shell, never written here.", {"secrets": {cloud.secret: None}}))
    return "\n".join([*parts, part("On every node.", {"run": script})])


def submit_words(job: Job, cloud: Cloud, file: str) -> tuple[str, ...]:
    """The command that hands the task over; the cluster is called as the job is."""
    cluster = re.sub(r"[^a-z0-9]+", "-", f"finetune-{job.name}".lower())
    secret = ("--secret", cloud.secret) if cloud.secret else ()
    return ("sky", "launch", "--cluster", cluster[:60].strip("-"), *secret, file)


def _resources(job: Job, cloud: Cloud) -> dict[str, Any]:
    return {
        **({"infra": cloud.infra} if cloud.infra else {}),
        "accelerators": f"{cloud.gpu}:{job.gpus_per_node}",
        "cpus": f"{job.gpus_per_node * job.cpus_per_gpu}+",
        **({"use_spot": True} if cloud.spot else {}),
        **({"image_id": f"docker:{job.image}"} if job.image else {}),
    }


def _storage(storage: str) -> tuple[dict[str, Any], str]:
    check_words("--storage", [storage])
    if re.fullmatch(r"[a-z0-9]+://[A-Za-z0-9._/-]+", storage):
        told = (
            "The runs, in a bucket. What is written there may arrive late or torn; a resume takes the newest\n"
            "checkpoint that verifies."
        )
        return {"file_mounts": {STORAGE_AT: {"source": storage, "mode": "MOUNT"}}}, told
    if re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", storage):
        return {"volumes": {STORAGE_AT: storage}}, "The runs, on a volume that every node sees."
    why = "it is the name of a SkyPilot volume, or a bucket's address"
    raise RecipeError("this is no storage", where=f"--storage {storage}", why=why, fix="--storage s3://my-runs")

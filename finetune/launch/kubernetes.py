"""The TrainJob of Kubeflow Trainer v2, for the `torch-distributed` runtime that Trainer installs.

Trainer makes one pod per node and tells each its number and the name of node 0 in `PET_NODE_RANK`,
`PET_MASTER_ADDR` and `PET_MASTER_PORT`. A pod that fails is made again by its Job, up to six times, and goes on.

Source: kubeflow/trainer 8c0f5059: manifests/base/crds/trainer.kubeflow.org_trainjobs.yaml (the schema),
pkg/runtime/framework/plugins/torch/torch.go (the variables), docs/operator-guides/runtime-patches.md (volumes),
docs/user-guides/megatron.md (/dev/shm).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from finetune.launch.command import WARNING_SECONDS, node_script
from finetune.launch.job import Job, check_name
from finetune.launch.yaml_text import part

CLAIM_AT = "/workspace"
"""Where the claim is mounted: the recipe, its data and the runs lie there."""

LABEL = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"
"""RFC 1035; Trainer's own rule for a TrainJob's name."""

NAME = r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?"
"""The same, short enough for `NAME-node-0-0` to be a host's name."""

SUBDOMAIN = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"


@dataclass(frozen=True)
class Cluster:
    """What differs from cluster to cluster."""

    claim: str
    """The PersistentVolumeClaim, ReadWriteMany where there are several nodes."""
    namespace: str | None = None
    runtime: str = "torch-distributed"
    """A ClusterTrainingRuntime."""
    secret: str | None = None
    """The Secret whose key `HF_TOKEN` lets a private base be downloaded."""


def render_trainjob(job: Job, cluster: Cluster) -> str:
    """Writes the manifest for `kubectl apply -f`.

    Raises:
        RecipeError: a name that Kubernetes does not take.
    """
    name = kubernetes_name(job.name)
    check_name("--name", name, NAME)
    check_name("--claim", cluster.claim, SUBDOMAIN)
    check_name("--namespace", cluster.namespace, LABEL)
    check_name("--runtime", cluster.runtime, SUBDOMAIN)
    check_name("--secret", cluster.secret, SUBDOMAIN)
    metadata = {"name": name} | ({"namespace": cluster.namespace} if cluster.namespace else {})
    head = (
        f"Trains {job.recipe} on {job.nodes} x {job.gpus_per_node} GPUs, one process per GPU.\n"
        f"{job.recipe}, its data and the runs lie on the claim {cluster.claim}, mounted at {CLAIM_AT}."
    )
    ends = "Seconds after which Kubernetes ends it. Delete the job and apply this file again to go on."
    patch = (
        "What the runtime lacks: the claim, shared memory for NCCL (64 MB otherwise), and time to save when stopped."
    )
    return "".join(
        [
            part(head, {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": metadata}),
            "spec:\n",
            part("", {"runtimeRef": {"kind": "ClusterTrainingRuntime", "name": cluster.runtime}}, 1),
            part(ends, {"activeDeadlineSeconds": job.seconds}, 1),
            part("One pod per node.", {"trainer": _trainer(job, cluster)}, 1),
            part(patch, {"runtimePatches": [_patch(cluster)]}, 1),
        ]
    )


def kubernetes_name(name: str) -> str:
    """Makes of a recipe's name one that Kubernetes takes: `Legal_2.1` becomes `legal-2-1`."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:50].strip("-")
    return plain if re.match(r"[a-z]", plain) else f"run-{plain}"[:50].strip("-")


def _trainer(job: Job, cluster: Cluster) -> dict[str, Any]:
    place = ('"$PET_NODE_RANK"', '"$PET_MASTER_ADDR"', '"$PET_MASTER_PORT"')
    script = node_script(job, "/tmp/torch_extensions", *place, folder=CLAIM_AT)
    gpus = {"nvidia.com/gpu": str(job.gpus_per_node), "cpu": str(job.gpus_per_node * job.cpus_per_gpu)}
    token = {"secretKeyRef": {"name": cluster.secret, "key": "HF_TOKEN"}}
    return {
        **({"image": job.image} if job.image else {}),
        "numNodes": job.nodes,
        "numProcPerNode": job.gpus_per_node,
        "command": ["bash", "-c", unexpanded(script)],
        **({"env": [{"name": "HF_TOKEN", "valueFrom": token}]} if cluster.secret else {}),
        "resourcesPerNode": {"requests": gpus, "limits": gpus},
    }


def unexpanded(text: str) -> str:
    """Keeps Kubernetes' hands off: in a command it reads `$(NAME)` as a variable and `$$` as a dollar.

    Source: https://kubernetes.io/docs/tasks/inject-data-application/define-command-argument-container/
    """
    return re.sub(r"\$(?=[$(])", "$$", text)


def _patch(cluster: Cluster) -> dict[str, Any]:
    pod = {
        "terminationGracePeriodSeconds": WARNING_SECONDS,
        "volumes": [
            {"name": "workspace", "persistentVolumeClaim": {"claimName": cluster.claim}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
        "containers": [
            {
                "name": "node",
                "volumeMounts": [
                    {"name": "workspace", "mountPath": CLAIM_AT},
                    {"name": "shared-memory", "mountPath": "/dev/shm"},
                ],
            }
        ],
    }
    job = {"name": "node", "template": {"spec": {"template": {"spec": pod}}}}
    return {"manager": "finetune/launch", "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}}}

"""Hands a training to an engine that starts it on many machines: Slurm, Kubernetes, SkyPilot or DeepSpeed's launcher.

Nothing here starts a process on another machine. Each engine gets its own file, complete and commented, or its own
command, and starts one process per GPU, which is what `finetune train` expects.
"""

from finetune.launch.hostfile import Host, deepspeed_words, read_hostfile, total_slots
from finetune.launch.job import Job, check_sharing, make_job, operand
from finetune.launch.kubernetes import Cluster, render_trainjob
from finetune.launch.newest import is_finished, newest, newest_unfinished
from finetune.launch.sky import Cloud, render_sky
from finetune.launch.slurm import Site, render_sbatch
from finetune.launch.submitting import hand_over, write_new

__all__ = [
    "Cloud",
    "Cluster",
    "Host",
    "Job",
    "Site",
    "check_sharing",
    "deepspeed_words",
    "hand_over",
    "is_finished",
    "make_job",
    "newest",
    "newest_unfinished",
    "operand",
    "read_hostfile",
    "render_sbatch",
    "render_sky",
    "render_trainjob",
    "total_slots",
    "write_new",
]

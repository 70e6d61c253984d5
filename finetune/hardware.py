"""What this machine has, or what `--gpu` wishes it had, told without torch."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from finetune import host, nvidia
from finetune.cards import Card, card_named, parse_gpus, parse_host
from finetune.errors import OutsideError, RecipeError
from finetune.links import USUAL, Link, network_named

DRIVER_SHARE = 0.03
"""Of a GPU's memory that the driver keeps, or hands out in pieces too coarse to be used.

With CONTEXT_BYTES it gives PyTorch 22.8 GiB of a 24 GB RTX 3090 or 4090 and 21.4 of an A10 or L4.
Source: the shares that cards of 24 GB leave to PyTorch, as published for both kinds.
"""

CONTEXT_BYTES = int(0.45 * 2**30)
"""What CUDA's context, cuBLAS and loaded kernels take; the plan counts it as a part of its own.

Source: 0.4 to 0.5 GiB on a card of 24 GB.
"""

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""What torch reads its allocator's settings from: the name since 2.9, and the one before, which warns."""

GROWING = "expandable_segments:True"

NODES_VARIABLES = ("GROUP_WORLD_SIZE", "CROSS_SIZE", "SLURM_JOB_NUM_NODES")
"""That tell the number of machines: torchrun's, the deepspeed launcher's, srun's."""

LAUNCHED = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
"""What tells a process its place among others.

Source: https://docs.pytorch.org/docs/stable/elastic/run.html, section Environment Variables.
"""

MEETING = ("MASTER_ADDR", "MASTER_PORT")
"""Where processes that were started find one another. Source: the same."""

MOST_PROCESSES = 65_536
"""That can share the examples of one step: a recipe says no more of them."""

NO_GPU = ("cpu", "none")
"""Words of `--gpu` for a machine without one."""


@dataclass(frozen=True)
class Hardware:
    """GPUs, memory and disk, and whether the fast kernels are installed."""

    gpus: tuple[str, ...]
    """Names, as the driver gives them; empty without a GPU."""
    gpu_bytes: int
    """Memory of the smallest GPU; 0 without one."""
    host_bytes: int
    card: Card | None = None
    """The smallest GPU's kind, with its speed; None without a GPU."""
    gpu_free_bytes: int = 0
    """Of the smallest GPU, not held by any process now; 0 where that is not known."""
    host_free_bytes: int = 0
    """That can be had now, within the limits of a container; 0 where that is not known."""
    disk_free_bytes: int = 0
    """Of the working folder's file system; 0 where that is not known."""
    kernels: bool = False
    """Whether Gated DeltaNet's kernels, fla and causal_conv1d, are both installed."""
    rule_kernel: bool = False
    """Whether fla is, which runs the rule and is most of it; causal_conv1d needs a compiler."""
    compute_capability: tuple[int, int] | None = None
    """Of the smallest GPU, as (8, 9)."""
    wished: bool = False
    """Whether `--gpu` described it and no `--host` did; then nobody knows the memory of its host."""
    processes: int = 1
    """That train together: as many as were started, or one on each GPU that is here or that `--gpu` names."""
    nodes: int = 1
    """Machines that they are on, evenly."""
    network: Link = USUAL
    """Between the machines. Nobody can ask for it, so it is what `--network` says, or a usual one."""
    trouble: str = ""
    """Why the driver could not be asked; empty when it answered, or where there is none."""

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"

    @property
    def on_each(self) -> int:
        """How many processes are on one machine, where most are."""
        return -(-self.processes // self.nodes)


def use_gpus(count: int = 1) -> None:
    """Shows this process the first GPUs of those that it may see, unless others were started beside it.

    Must come before torch is imported. A process that trains alone sees one: transformers would use others beside it.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # nvidia-smi's order, so that both number GPUs alike
    if not is_launched():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[:count])


def use_growing_segments() -> None:
    """Lets torch grow its pieces of GPU memory, which then break up less; must come before torch is imported."""
    if sys.platform == "linux" and not any(name in os.environ for name in ALLOCATOR_VARIABLES):
        os.environ["PYTORCH_ALLOC_CONF"] = GROWING


def detect() -> Hardware:
    """Asks the driver and the operating system; of several GPUs that are visible the smallest decides."""
    driver = nvidia.look()
    if not driver.gpus:
        return _around(Hardware((), 0, host.total_bytes(), trouble=driver.trouble))
    sizes = [(_total(gpu), number) for number, gpu in enumerate(driver.gpus)]
    total, number = min(sizes)
    smallest = driver.gpus[number]
    card = card_named(smallest.name, total)
    found = Hardware(
        gpus=tuple(gpu.name for gpu in driver.gpus),
        gpu_bytes=total,
        host_bytes=host.total_bytes(),
        card=card,
        gpu_free_bytes=min(_free(gpu) for gpu in driver.gpus),
        kernels=kernels_installed(),
        rule_kernel=kernels_installed("fla"),
        compute_capability=smallest.compute_capability or card.compute_capability,
    )
    return _around(found)


def detect_started() -> Hardware:
    """Asks the same, but only processes that were started count as training: this one, if nobody started others."""
    return replace(detect(), processes=started_processes())


def wished(words: str) -> Hardware:
    """The machine that `--gpu` describes: its GPUs from the catalogue, all else as it is here.

    The kernels count as installed: one who rents such a GPU installs them. `cpu` is a machine without a GPU.

    Raises:
        RecipeError: no such card.
    """
    if words.strip().lower() in NO_GPU:
        return _around(Hardware((), 0, host.total_bytes()))
    card, count = parse_gpus(words)
    wish = Hardware(
        gpus=(card.name,) * count,
        gpu_bytes=card.memory_bytes,
        host_bytes=host.total_bytes(),
        card=card,
        kernels=True,
        rule_kernel=True,
        compute_capability=card.compute_capability,
        wished=True,
        processes=count,
    )
    return _around(wish)


def with_processes(hardware: Hardware, count: int) -> Hardware:
    """The same machine, of which so many processes train: with as many of its GPUs, if it has any.

    Raises:
        RecipeError: it has fewer.
    """
    gpus = len(hardware.gpus)
    if gpus and count > gpus:
        why = f"each needs a GPU of its own, and there {'is one' if gpus == 1 else f'are {gpus}'}"
        where = f"--processes {count}"
        raise RecipeError(f"{count} processes cannot train here", where=where, why=why, fix=f"--processes {gpus}")
    return replace(hardware, gpus=hardware.gpus[:count], processes=count)


def with_host(hardware: Hardware, words: str) -> Hardware:
    """The same GPUs in a host of the memory that `--host` says.

    Raises:
        RecipeError: it is no size.
    """
    return replace(hardware, host_bytes=parse_host(words), wished=False)


def with_nodes(hardware: Hardware, nodes: int) -> Hardware:
    """So many machines, each with these GPUs and this host.

    Raises:
        RecipeError: the GPUs are those of this machine, of which it is not known whether others have the same.
    """
    where = f"--nodes {nodes}"
    if nodes > 1 and not hardware.wished:
        why = "without --gpu the plan is for this machine" if hardware.gpus else "the plan is for machines with GPUs"
        raise RecipeError("say what each machine has", where=where, why=why, fix=f"--gpu 24GB --nodes {nodes}")
    if nodes * hardware.processes > MOST_PROCESSES:
        why = f"a plan is for at most {MOST_PROCESSES:,} GPUs, and these were {nodes * hardware.processes:,}"
        fix = f"--nodes {MOST_PROCESSES // hardware.processes}"
        raise RecipeError("so many machines cannot be planned for", where=where, why=why, fix=fix)
    return replace(hardware, nodes=nodes, processes=nodes * hardware.processes)


def with_network(hardware: Hardware, word: str) -> Hardware:
    """The same machines, joined by what `--network` says.

    Raises:
        RecipeError: there is no such network, or one machine, which needs none.
    """
    if hardware.nodes == 1:
        where, fix = f"--network {word}", f"--gpu 24GB --nodes 2 --network {USUAL.name}"
        raise RecipeError("one machine has no network", where=where, why="a network joins machines", fix=fix)
    return replace(hardware, network=network_named(word))


def usable_bytes(total: int) -> int:
    """What a training may plan with of a GPU's memory; the plan counts CONTEXT_BYTES in it."""
    return int((1 - DRIVER_SHARE) * total)


def plannable_bytes(hardware: Hardware) -> int:
    """What a training can have of the smallest GPU now: never more than is free, where that is known."""
    usable = usable_bytes(hardware.gpu_bytes)
    return min(usable, hardware.gpu_free_bytes) if hardware.gpu_free_bytes else usable


def kernels_installed(*packages: str) -> bool:
    """Whether transformers will find these packages; of Gated DeltaNet's fast path both, unless some are named."""
    return all(importlib.util.find_spec(package) is not None for package in packages or ("fla", "causal_conv1d"))


def is_launched() -> bool:
    """Whether torchrun, the deepspeed launcher or their like started this process, perhaps with others."""
    return any(name in os.environ for name in LAUNCHED)


def check_launched() -> None:
    """Looks at what a launcher told this process.

    Raises:
        OutsideError: of the variables some are missing or nonsense, so that processes would not find one another.
    """
    told = {name: os.environ[name] for name in LAUNCHED if name in os.environ}
    wrong = next((name for name, value in told.items() if not (value.isascii() and value.isdecimal())), "")
    size = int(told["WORLD_SIZE"]) if "WORLD_SIZE" in told and not wrong else 1
    if told and not wrong:
        needed = (*LAUNCHED, *MEETING) if size > 1 or told.get("RANK", "0") != "0" else ()
        wrong = next((name for name in needed if name not in os.environ), "")
        if not wrong and (size < 1 or int(told.get("RANK", "0")) >= size):
            wrong = "RANK" if size else "WORLD_SIZE"
    if wrong:
        found = ", ".join(f"{name}={os.environ[name]!a:.40}" for name in (*LAUNCHED, *MEETING) if name in os.environ)
        raise OutsideError(
            f"{wrong} is {'missing' if wrong not in os.environ else 'no place among processes that train together'}",
            where=f"the environment: {found}",
            why="torchrun and its like set all of WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT",
            fix=f"unset {' '.join(LAUNCHED)}   # or start it by torchrun",
        )


def started_processes() -> int:
    """How many processes somebody started to train together: torchrun, srun and their like say so. 1 if nobody did."""
    told = os.environ.get("WORLD_SIZE", "1")
    return int(told) if told.isdecimal() and int(told) > 0 else 1


def started_nodes() -> int:
    """On how many machines they are, where torchrun, the deepspeed launcher or srun say so.

    Not by counting this machine's own: hosts may have different numbers, and all processes must answer alike.
    """
    told = next((os.environ[name] for name in NODES_VARIABLES if name in os.environ), "1")
    return min(int(told), started_processes()) if told.isdecimal() and int(told) > 0 else 1


def is_first_process() -> bool:
    """Whether this is the one of them that speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def _around(hardware: Hardware) -> Hardware:
    if not hardware.wished:
        processes = started_processes() if is_launched() else max(1, len(hardware.gpus))
        hardware = replace(hardware, processes=processes, nodes=started_nodes())
    return replace(hardware, host_free_bytes=host.free_bytes(), disk_free_bytes=host.disk_free_bytes(Path.cwd()))


def _total(gpu: nvidia.Gpu) -> int:
    """Memory of a GPU; one that has none of its own computes in the host's."""
    return host.total_bytes() if gpu.total_bytes is None else gpu.total_bytes


def _free(gpu: nvidia.Gpu) -> int:
    """What no process holds; 0 where the driver does not tell, so a full GPU has one byte."""
    if gpu.total_bytes is None:
        return host.free_bytes()
    return 0 if gpu.free_bytes is None else max(1, gpu.free_bytes)

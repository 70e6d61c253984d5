"""What joins GPUs inside a machine, and machines with one another: how many bytes a second, and how late they come.

Sources:
  NVLink      NVIDIA's datasheets of A100, H100, H200 and B200 (SXM): 600, 900, 900 and 1,800 GB/s a GPU, both
              directions together. Collectives reach some seven tenths of it: 380 of 450 GB/s from one H100 to another
              (NVIDIA/nccl issue 1264), 200 of 300 in an all-reduce of eight A100 (NVIDIA/nccl-tests issue 149)
  PCIe        the host bandwidth in finetune.cards, of which eight cards at once reach half: 28 GB/s in an all-reduce
              of eight RTX 5090 on PCIe 5 (NVIDIA/nccl issue 1639)
  networks    the rate in their name, nine tenths of it. InfiniBand of 400 Gb/s has an adapter for each GPU, as in
              NVIDIA's DGX H100 (its user guide, network modules); an Ethernet adapter is shared by a whole machine
  lateness    usual figures, none of them measured here
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from finetune.cards import Card
from finetune.errors import RecipeError

GIGA = 1e9

NVLINK = {"a100-40": 300.0, "a100-80": 300.0, "h100": 450.0, "h200": 450.0, "b200": 900.0}
"""Card -> GB/s of a GPU in one direction. Other cards, A30 and H100 on PCIe too, are taken as without."""

NVLINK_SHARE, PCIE_SHARE, NETWORK_SHARE = 0.7, 0.5, 0.9
"""Of the nominal rate that collectives reach."""


@dataclass(frozen=True)
class Link:
    """One kind of connection."""

    name: str
    told: str
    """For the user, as `InfiniBand 400 Gb/s`."""
    bandwidth: float
    """Bytes/s that a collective reaches in one direction: of a GPU, or of a whole machine."""
    seconds: float
    """From one end to the other, of a message without bytes."""
    of_each_gpu: bool
    """Whether every GPU has one of its own; else those of a machine share it."""

    def of_machine(self, gpus: int) -> float:
        """Gives the bytes/s that a machine with so many GPUs sends."""
        return self.bandwidth * (gpus if self.of_each_gpu else 1)


def _network(name: str, told: str, gigabits: float, seconds: float, *, of_each_gpu: bool = False) -> Link:
    return Link(name, told, NETWORK_SHARE * gigabits / 8 * GIGA, seconds, of_each_gpu)


NETWORKS: dict[str, Link] = {
    link.name: link
    for link in (
        _network("ib400", "InfiniBand 400 Gb/s for each GPU", 400, 5e-6, of_each_gpu=True),
        _network("100gbe", "100 Gb/s Ethernet", 100, 30e-6),
        _network("25gbe", "25 Gb/s Ethernet", 25, 30e-6),
        _network("10gbe", "10 Gb/s Ethernet", 10, 50e-6),
        _network("site-1g", "1 Gb/s line", 1, 10e-3),
        _network("site-100m", "100 Mb/s line", 0.1, 10e-3),
    )
}

USUAL = NETWORKS["100gbe"]
"""Assumed between machines where nobody said what there is."""

MEMORY = Link("memory", "the host's memory", 1e9, 50e-6, of_each_gpu=True)
"""Between processes without a GPU, over gloo. A guess."""


def inside(card: Card | None) -> Link:
    """Gives what joins the GPUs of one machine: NVLink where the card has it, else PCIe."""
    if card is None:
        return MEMORY
    name = card.speed_of or card.name
    if name in NVLINK:
        return Link("nvlink", "NVLink", NVLINK_SHARE * NVLINK[name] * GIGA, 5e-6, of_each_gpu=True)
    return Link("pcie", "PCIe", PCIE_SHARE * card.host_bandwidth, 10e-6, of_each_gpu=True)


def network_named(word: str) -> Link:
    """Finds what `--network` names.

    Raises:
        RecipeError: there is no such.
    """
    found = NETWORKS.get(word.strip().lower())
    if found is None:
        near = difflib.get_close_matches(word.lower(), NETWORKS, n=1, cutoff=0) or [USUAL.name]
        plain = len(word) <= 40 and word.isprintable() and word.strip()
        where = f"--network {word if plain else ascii(word[:40])}"
        why = f"known are {', '.join(NETWORKS)}"
        raise RecipeError("no network is known by that word", where=where, why=why, fix=f"--network {near[0]}")
    return found

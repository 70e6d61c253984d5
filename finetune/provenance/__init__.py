"""Floor 5: where a model came from, read from its run: facts, chain, compute, bill of materials, signature."""

from finetune.provenance.chain import Link, links
from finetune.provenance.compute import GRAMS_A_KWH, Compute, Energy, compute_of, energy_of, seconds_of
from finetune.provenance.facts import Artifact, Facts, read_facts
from finetune.provenance.origins import Origin, OriginFile, Origins

__all__ = [
    "GRAMS_A_KWH",
    "Artifact",
    "Compute",
    "Energy",
    "Facts",
    "Link",
    "Origin",
    "OriginFile",
    "Origins",
    "compute_of",
    "energy_of",
    "links",
    "read_facts",
    "seconds_of",
]

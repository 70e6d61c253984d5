"""Floor 5: where a model came from, read from its run: facts, chain, compute, bill of materials, signature."""

from finetune.provenance.ai_act import compute_told, training_summary
from finetune.provenance.asked import HELD_OUT, Asked
from finetune.provenance.bom import bill_of_materials
from finetune.provenance.chain import Link, links
from finetune.provenance.compute import GRAMS_A_KWH, Compute, Energy, compute_of, energy_of, seconds_of
from finetune.provenance.facts import Artifact, Facts, read_facts
from finetune.provenance.origins import Origin, OriginFile, Origins
from finetune.provenance.repos import ENDINGS, repo_of
from finetune.provenance.signing import SIGNATURE, check_signature, sign

__all__ = [
    "ENDINGS",
    "GRAMS_A_KWH",
    "HELD_OUT",
    "SIGNATURE",
    "Artifact",
    "Asked",
    "Compute",
    "Energy",
    "Facts",
    "Link",
    "Origin",
    "OriginFile",
    "Origins",
    "bill_of_materials",
    "check_signature",
    "compute_of",
    "compute_told",
    "energy_of",
    "links",
    "read_facts",
    "repo_of",
    "seconds_of",
    "sign",
    "training_summary",
]

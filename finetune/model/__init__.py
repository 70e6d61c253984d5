"""Floor 4: the base in memory: loaded, quantised, given its adapters, and asked for losses."""

from finetune.model.adapter import (
    adapter_tensors,
    add_adapter,
    family_of,
    load_adapter,
    restore_adapter,
    save_adapter,
)
from finetune.model.loading import bytes_by_dtype, frozen_sha256, kernels, load_base, refused
from finetune.model.scoring import Score, score

__all__ = [
    "Score",
    "adapter_tensors",
    "add_adapter",
    "bytes_by_dtype",
    "family_of",
    "frozen_sha256",
    "kernels",
    "load_adapter",
    "load_base",
    "refused",
    "restore_adapter",
    "save_adapter",
    "score",
]

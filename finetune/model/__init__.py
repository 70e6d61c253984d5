"""Floor 4: the base in memory: loaded, quantised, given its adapters, and asked for losses."""

from finetune.model.adapter import (
    adapter_tensors,
    add_adapter,
    base_alone,
    family_of,
    load_adapter,
    restore_adapter,
    save_adapter,
)
from finetune.model.apart import keep_apart
from finetune.model.embeddings import HostEmbedding, embed_on_host
from finetune.model.head import QuantisedHead
from finetune.model.loading import bytes_by_dtype, frozen_sha256, kernels, load_base
from finetune.model.losses import TokenLosses, causal_losses, token_losses
from finetune.model.offloading import HostCheckpoints
from finetune.model.parts import causal_of, compute_device, first_not_finite
from finetune.model.recomputing import recompute
from finetune.model.routers import chosen_experts
from finetune.model.scoring import Score, score
from finetune.model.skeleton import refused
from finetune.model.whole import differing_weights, save_weights

__all__ = [
    "HostCheckpoints",
    "HostEmbedding",
    "QuantisedHead",
    "Score",
    "TokenLosses",
    "adapter_tensors",
    "add_adapter",
    "base_alone",
    "bytes_by_dtype",
    "causal_losses",
    "causal_of",
    "chosen_experts",
    "compute_device",
    "differing_weights",
    "embed_on_host",
    "family_of",
    "first_not_finite",
    "frozen_sha256",
    "keep_apart",
    "kernels",
    "load_adapter",
    "load_base",
    "recompute",
    "refused",
    "restore_adapter",
    "save_adapter",
    "save_weights",
    "score",
    "token_losses",
]

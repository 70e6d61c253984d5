"""Floor 1: bytes, by arithmetic on shapes, without torch. Every figure says where it comes from."""

from finetune.memory.adapters import adapter_shapes, num_trainable, state_bytes
from finetune.memory.budget import Budget, Job, budget, sent_weights
from finetune.memory.layers import layer_moments
from finetune.memory.loss import loss_moments
from finetune.memory.sharing import REDUCED_AT_ONCE
from finetune.memory.variants import Moment
from finetune.memory.weights import NF4_BYTES, WeightCounts, count_weights, head_bytes, is_quantised, weight_parts
from finetune.memory.widths import Widths, read_widths

__all__ = [
    "NF4_BYTES",
    "REDUCED_AT_ONCE",
    "Budget",
    "Job",
    "Moment",
    "WeightCounts",
    "Widths",
    "adapter_shapes",
    "budget",
    "count_weights",
    "head_bytes",
    "is_quantised",
    "layer_moments",
    "loss_moments",
    "num_trainable",
    "read_widths",
    "sent_weights",
    "state_bytes",
    "weight_parts",
]

"""Floor 5: an adapter merged into the shards of its base, or several that become one.

All that merging knows of an adapter is a `Change` for each weight (finetune/merge/changes.py).
"""

from finetune.merge.adapter_only import combine
from finetune.merge.deltas import Method
from finetune.merge.mix import Mix
from finetune.merge.order import Onto, again
from finetune.merge.verb import merge

__all__ = ["Method", "Mix", "Onto", "again", "combine", "merge"]

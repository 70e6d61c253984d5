"""Floor 5: what was trained merged into the shards of its base: an adapter, several that become one, or every weight.

All that merging knows of it is a `Change` for each weight (finetune/merge/changes.py).
"""

from finetune.merge.adapter_only import combine
from finetune.merge.deltas import Method
from finetune.merge.mix import Mix
from finetune.merge.order import Onto, again
from finetune.merge.verb import merge

__all__ = ["Method", "Mix", "Onto", "again", "combine", "merge"]

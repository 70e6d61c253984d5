"""Floor 5: an adapter merged into the shards of its base. One adapter so far; several become one before they come here.

A door for that: all that merging knows of an adapter is a `Change` for each weight (finetune/merge/changes.py).
"""

from finetune.merge.order import Onto
from finetune.merge.verb import merge

__all__ = ["Onto", "merge"]

"""Floor 5: from a run folder to a proven adapter."""

from finetune.train.contract import contract
from finetune.train.verb import begin, reopen, train

__all__ = ["begin", "contract", "reopen", "train"]

"""Floor 5: what lies in a folder, against what it should be: a run's chain, a whole model, an adapter, GGUF files."""

from finetune.verify.verb import verify

__all__ = ["verify"]

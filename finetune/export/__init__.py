"""Floor 5: a run's model as one GGUF file, for llama.cpp, LM Studio and Ollama."""

from finetune.export.verb import KINDS, export

__all__ = ["KINDS", "export"]

"""Floor 5: a run's model as one GGUF file, for llama.cpp, LM Studio and Ollama."""

from finetune.export import lmstudio, ollama
from finetune.export.made import gguf_file
from finetune.export.verb import KINDS, export

__all__ = ["KINDS", "export", "gguf_file", "lmstudio", "ollama"]

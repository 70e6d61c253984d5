"""Floor 5: a run's model as one GGUF file, for llama.cpp, LM Studio and Ollama; and what stands beside one."""

from finetune.export import lmstudio, ollama
from finetune.export.beside import export_beside
from finetune.export.made import gguf_file
from finetune.export.projector import projector_name
from finetune.export.verb import DEFAULT, KINDS, export
from finetune.export.vllm import export_for_vllm

__all__ = [
    "DEFAULT",
    "KINDS",
    "export",
    "export_beside",
    "export_for_vllm",
    "gguf_file",
    "lmstudio",
    "ollama",
    "projector_name",
]

"""Floor 5: a run's model as one GGUF file, for llama.cpp, LM Studio and Ollama; and what stands beside one."""

from finetune.export import lmstudio, ollama
from finetune.export.beside import export_beside
from finetune.export.made import gguf_file
from finetune.export.place import check_place, names
from finetune.export.projector import projector_name
from finetune.export.verb import export
from finetune.export.vllm import export_for_vllm
from finetune.ggufs import KINDS

__all__ = [
    "KINDS",
    "check_place",
    "export",
    "export_beside",
    "export_for_vllm",
    "gguf_file",
    "lmstudio",
    "names",
    "ollama",
    "projector_name",
]

"""How the repositories of a run's forms are called: of one name that is told once, each has its own ending."""

from __future__ import annotations

from finetune.provenance.facts import Artifact

ENDINGS: dict[Artifact, str] = {"adapter": "-lora", "merged": "", "gguf": "-GGUF"}
"""Of the names of their repositories, as most of the Hub has them."""


def repo_of(repo: str, artifact: Artifact) -> str:
    """Names the repository of a form; a name that ends so already stays.

    Args:
        repo: of the merged model, or of any other form, as owner/name.
        artifact: which form.
    """
    bare = repo
    for ending in ENDINGS.values():
        bare = bare.removesuffix(ending) if ending else bare
    return bare + ENDINGS[artifact]

"""The chat template that is served: the one of training, asking as training asked whatever a server wishes.

llama-server, Ollama and LM Studio switch thinking on where a client says nothing. A model that was tuned without
reasoning would then answer inside a thought, and its content would be empty. So what was learnt is set in the template
itself, where no server's wish reaches it; and as both wishes then render alike, a server that looks finds a model
without the switch.

Source: llama.cpp, common/chat.cpp (enable_thinking is always defined); Ollama 0.33, routes.go (thinking by default).
"""

from __future__ import annotations

from pathlib import Path

from finetune.data.template import read_template
from finetune.run import Run, manifest


def as_trained(template: str, *, thinking: bool, preserve_thinking: bool) -> str:
    """Sets in a template what the serving of a run depends on.

    Args:
        template: of the base, as it was trained with.
        thinking: whether reasoning was learnt; then whoever asks may still switch it off, as the base allows.
        preserve_thinking: whether the reasoning of earlier turns stood in the prompts.
    """
    told = {"preserve_thinking": "true"} if preserve_thinking else {}
    if not thinking:
        told["enable_thinking"] = "false"
    return "".join(f"{{%- set {name} = {value} %}}\n" for name, value in told.items()) + template


def template_as_trained(run: Run, folder: Path) -> str:
    """Gives the template of a folder, which is the base's or the merged model's, with what the run learnt set in it.

    Raises:
        ArtifactError: the folder has no template, or the manifest is damaged.
    """
    learnt = manifest.read_begun(run.manifest)["serving"]
    return as_trained(
        read_template(folder).source,
        thinking=learnt["thinking"],
        preserve_thinking=learnt["preserve_thinking"],
    )

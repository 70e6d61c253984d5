"""The Modelfile by which Ollama serves a GGUF as it was trained: every parameter said, for its own defaults are others.

There is no TEMPLATE in it: the one in the GGUF is used then, and that is the one of training. RENDERER and PARSER would
put Ollama's own code in its place. Source: Ollama 0.33, parser/parser.go, server/images.go, api/types.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REQUIRES = "0.30.4"
"""Of Ollama: since then a GGUF runs on llama.cpp's own server, projector included."""

LEAST_CONTEXT = 8192
"""Tokens of a conversation, even where the examples of training were shorter."""

SAMPLING = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
}
"""Keys of generation_config.json, and what Ollama calls them."""


def modelfile(
    gguf: str,
    *,
    sampling: Mapping[str, Any],
    stop: str,
    context: int,
    system: str | None,
    licence: str,
    projector: str | None = None,
) -> str:
    """Writes a Modelfile.

    Args:
        gguf: name of the file beside it.
        sampling: the generation_config.json of the base.
        stop: the token that ends a turn.
        context: tokens of the longest example of training.
        system: the prompt for conversations that have none.
        licence: its text; none is written if it is empty.
        projector: name of the vision's file beside it.
    """
    lines = [
        *(f"FROM ./{name}" for name in (gguf, projector) if name),
        f"PARAMETER num_ctx {max(LEAST_CONTEXT, context)}",
    ]
    lines += [f"PARAMETER {ours} {sampling[key]}" for key, ours in SAMPLING.items() if sampling.get(key) is not None]
    lines.append(f'PARAMETER stop "{stop}"')
    if system:
        lines.append(f"SYSTEM {_quoted(system)}")
    lines.append(f"REQUIRES {REQUIRES}")
    if licence:
        lines.append(f"LICENSE {_quoted(licence)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Quotes text as Ollama's parser reads it: by three quotes, which it may not hold itself."""
    return f'"""{text.replace(chr(34) * 3, chr(39) * 3)}"""'

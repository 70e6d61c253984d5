"""A model whose every weight was trained, as a folder of its own: in float32, under its published names."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from finetune.layout import PUBLISHED

SERVED_WITH = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
"""Files of the base without which a whole model cannot be served."""


def save_weights(model: Any, folder: Path, base: Path) -> None:
    """Writes the weights as transformers does, and beside them what serves them."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    for name in SERVED_WITH:
        if (base / name).is_file():
            shutil.copy(base / name, folder)


def differing_weights(model: Any, folder: Path) -> list[str]:
    """Reads the weights of a folder, one at a time, and names those that a model does not have bit for bit.

    Args:
        model: of the text model, on any device.
        folder: as `save_weights` wrote it.

    Returns:
        Names as the model has them: of numbers that differ or are not finite, and of what only one of the two has.
    """
    own = dict(model.named_parameters())
    same = set()
    read = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for published in opened.keys():  # noqa: SIM118
                name = published.replace(PUBLISHED, "model.", 1)
                read.add(name)
                saved = opened.get_tensor(published)
                if name in own and torch.equal(saved, own[name].detach().cpu()) and bool(saved.isfinite().all()):
                    same.add(name)
    return sorted((own.keys() | read) - same)

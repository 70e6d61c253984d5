"""A model whose every weight was trained, as a folder of its own: in float32, under its published names."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

SERVED_WITH = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
"""Files of the base without which a whole model cannot be served."""


def save_weights(model: Any, folder: Path, base: Path) -> None:
    """Writes the weights as transformers does, and beside them what serves them."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    for name in SERVED_WITH:
        if (base / name).is_file():
            shutil.copy(base / name, folder)

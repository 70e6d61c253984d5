"""Where the recipes and data templates of this package lie, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def root() -> Path:
    """Gives the folder that holds `recipes/` and `data_templates/`."""
    installed = _HERE / "shipped_files"
    return installed if installed.is_dir() else _HERE.parent


def trades() -> list[str]:
    """Lists what `finetune init` can start from."""
    return sorted(file.stem for file in (root() / "recipes").glob("*.yaml"))

"""Where the recipes and data templates of this package lie, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def root() -> Path:
    """Gives the folder that holds `recipes/` and `data_templates/`."""
    installed = _HERE / "shipped_files"
    return installed if installed.is_dir() else _HERE.parent


def trades() -> list[str]:
    """Lists the trades; each has a folder of rows, and a recipe of the same name for one GPU."""
    return sorted(folder.name for folder in (root() / "data_templates").iterdir() if folder.is_dir())


def recipes() -> list[str]:
    """Lists what `finetune init` can start from: a recipe of each trade, and what else was made of its rows."""
    return sorted(file.stem for file in (root() / "recipes").glob("*.yaml"))


def trade_of(recipe: str) -> str:
    """Gives the trade whose rows a recipe learns: `legal-cluster` is of `legal`."""
    return recipe.partition("-")[0]

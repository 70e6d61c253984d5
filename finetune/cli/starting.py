"""`finetune init` and `finetune demo-base`: something to start from."""

from __future__ import annotations

import difflib
import os
import shutil
from pathlib import Path

import typer

from finetune.errors import RecipeError


def init(
    trade: str = typer.Argument(help="legal, medical, finance, manufacturing, support, code or demo."),
    folder: Path = typer.Argument(Path(), help="Where to write; the working folder by default."),
) -> None:
    """Copy a recipe and its data template to start from."""
    from finetune import atomic, shipped

    trades = shipped.trades()
    if trade not in trades:
        close = difflib.get_close_matches(trade, trades, n=1, cutoff=0)
        raise RecipeError(
            f"there is no recipe for {trade}", why=f"there are {', '.join(trades)}", fix=f"finetune init {close[0]}"
        )
    recipe, data = folder / "recipes" / f"{trade}.yaml", folder / "data_templates" / trade
    fix = f"finetune init {trade} another-folder"
    for target in (recipe, data):
        if os.path.lexists(target):
            used = f", and can be used as it is: finetune plan {recipe}" if target == recipe else ""
            why = f"it exists already{used}"
            raise RecipeError("this would overwrite your work", where=str(target), why=why, fix=fix)
    with atomic.refusal_told(folder, fix), atomic.full_disk_told(data):
        recipe.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(shipped.root() / "data_templates" / trade, data)
        shutil.copy(shipped.root() / "recipes" / "recipe.schema.json", recipe.parent)
        shutil.copy(shipped.root() / "recipes" / f"{trade}.yaml", recipe)
    print(f"wrote {recipe} and {data}/")
    print(f"put your own rows into {data / 'train.jsonl'}, then:")
    print(f"  finetune plan  {recipe}")
    print(f"  finetune train {recipe}")


def demo_base(
    folder: Path = typer.Argument(help="Where to make it."),
    moe: bool = typer.Option(False, "--moe", help="With routed experts, as in Qwen3.6-35B-A3B."),
    replace: bool = typer.Option(False, "--replace", help="Replace a demo base of an older version there."),
) -> None:
    """Make a toy base: Qwen3.6's architecture and files, a few million weights, no ability."""
    from finetune import atomic
    from finetune.cli.quiet import quiet_libraries

    fix = "finetune demo-base another-folder"
    if folder.name in ("", ".."):
        raise RecipeError("a demo base needs a folder with a name of its own", where=f"demo-base {folder}", fix=fix)
    quiet_libraries()
    from finetune.demo_base import make_demo_base

    with atomic.refusal_told(folder, fix):
        made = make_demo_base(folder, moe=moe, replace_older=replace)
    print(made)

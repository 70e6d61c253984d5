"""`finetune init` and `finetune demo-base`: something to start from."""

from __future__ import annotations

import difflib
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import typer

from finetune.errors import RecipeError


def init(
    name: str = typer.Argument(help="legal, medical, finance, manufacturing, support, code, demo; legal-moe, …"),
    folder: Path = typer.Argument(Path(), help="Where to write; the working folder by default."),
) -> None:
    """Copy a recipe and its data template to start from."""
    from finetune import atomic, shipped

    recipes = shipped.recipes()
    if name not in recipes:
        close = difflib.get_close_matches(name, recipes, n=1, cutoff=0)
        raise RecipeError(f"there is no recipe {name}", why=f"there are {_listed()}", fix=f"finetune init {close[0]}")
    trade = shipped.trade_of(name)
    recipe, data = folder / "recipes" / f"{name}.yaml", folder / "data_templates" / trade
    fix = f"finetune init {name} another-folder"
    with atomic.refusal_told(folder, fix):
        there = (data / "train.jsonl").is_file()  # another recipe of the same rows came before; or the user's own rows
    for target in (recipe,) if there else (recipe, data):
        if os.path.lexists(target):
            used = f", and can be used as it is: finetune plan {recipe}" if target == recipe else ""
            why = f"it exists already{used}"
            raise RecipeError("this would overwrite your work", where=str(target), why=why, fix=fix)
    with atomic.refusal_told(folder, fix), atomic.full_disk_told(recipe.parent):
        if not there:
            _copy_folder(shipped.root() / "data_templates" / trade, data)
        recipe.parent.mkdir(parents=True, exist_ok=True)
        schema = recipe.parent / "recipe.schema.json"
        for file in (recipe,) if os.path.lexists(schema) else (schema, recipe):  # a schema may be newer, or the user's
            atomic.write_bytes(file, (shipped.root() / "recipes" / file.name).read_bytes())
    print(f"wrote {recipe}; it learns the rows of {data}/" if there else f"wrote {recipe} and {data}/")
    print(f"put your own rows into {data / 'train.jsonl'}, then:")
    print(f"  finetune plan  {recipe}")
    print(f"  finetune train {recipe}")


def _copy_folder(source: Path, target: Path) -> None:
    """Copies a folder, which gets its name when it is whole."""
    from finetune import atomic

    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as staging:
        atomic.publish(Path(shutil.copytree(source, Path(staging) / target.name)), target)


def _listed() -> str:
    """Lists the trades, each with the other recipes of its rows in brackets."""
    from finetune import shipped

    others = {
        trade: [each for each in shipped.recipes() if shipped.trade_of(each) == trade] for trade in shipped.trades()
    }
    return ", ".join(
        f"{trade} ({', '.join(each for each in names if each != trade)})" if len(names) > 1 else trade
        for trade, names in others.items()
    )


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

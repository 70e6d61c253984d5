"""The `finetune` command: its words, and how an error of ours is told."""

from __future__ import annotations

import os
import sys

import typer

from finetune import __version__
from finetune.cli import looking, starting, training
from finetune.errors import FinetuneError

app = typer.Typer(
    help="Fine-tune Qwen3.6 on your own data, with a proof at every stage.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
recipe_app = typer.Typer(help="Look at recipes.", no_args_is_help=True, rich_markup_mode=None)

app.command("init")(starting.init)
app.command("demo-base")(starting.demo_base)
app.command("plan")(looking.plan)
app.command("train")(training.train)
app.command("runs")(looking.runs)
app.command("show")(looking.show)
app.command("chat")(training.chat)
app.add_typer(recipe_app, name="recipe")
recipe_app.command("schema")(looking.schema)
recipe_app.command("show")(looking.show_recipe)


def _version(asked: bool) -> None:
    if asked:
        print(f"finetune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def main() -> None:
    """Runs the command line; an error of ours is told in its lines and ends with its exit code."""
    try:
        app()
    except FinetuneError as error:
        sys.stdout.flush()
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)

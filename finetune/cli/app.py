"""The `finetune` command: its words, and how an error of ours is told."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import NoReturn

import typer

from finetune import __version__
from finetune.cli import (
    accounting,
    carding,
    chatting,
    checking,
    data_look,
    doctoring,
    drafting,
    evaluating,
    exporting,
    launching,
    looking,
    merging,
    planning,
    publishing,
    reporting,
    starting,
    training,
    verifying,
)
from finetune.errors import DoesNotFit, FinetuneError, Interrupted, OutsideError, RunLocked, TrainingStopped
from finetune.hardware import is_first_process

app = typer.Typer(
    help="Fine-tune Qwen3.6 on your own data, with a proof at every stage.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Look at data.", no_args_is_help=True, rich_markup_mode=None)
recipe_app = typer.Typer(help="Look at recipes.", no_args_is_help=True, rich_markup_mode=None)

app.command("init")(starting.init)
app.command("demo-base")(starting.demo_base)
app.command("plan")(planning.plan)
app.command("doctor")(doctoring.doctor)
app.command("train")(training.train)
app.command("runs")(looking.runs)
app.command("show")(looking.show)
app.command("chat")(chatting.chat)
app.command("merge")(merging.merge)
app.command("export")(exporting.export)
app.command("evaluate")(evaluating.evaluate)
app.command("compare")(evaluating.compare)
app.command("ledger")(accounting.ledger)
app.command("report")(reporting.report)
app.command("card")(carding.card)
app.command("verify")(verifying.verify)
app.command("publish")(publishing.publish)
app.add_typer(launching.app, name="launch")
app.add_typer(data_app, name="data")
app.add_typer(recipe_app, name="recipe")
data_app.command("check")(checking.check)
data_app.command("look")(data_look.look)
data_app.command("draft")(drafting.draft)
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
    try:
        os.getcwd()
    except OSError as error:
        raise OutsideError("the working folder is gone", where=".", why=str(error.strerror), fix="cd") from error


def main() -> None:
    """Runs the command line; an error of ours is told in its lines and ends with its exit code."""
    # What the shell closed, as `>&-` does, is None and its number free: no file of ours shall get it.
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    # As standard error does by itself: what a terminal's encoding lacks is written as \u2587 and ends no command.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _run()
    except FinetuneError as error:
        # of several processes all stop together for these, and one of them tells why
        if is_first_process() or not isinstance(error, (Interrupted, TrainingStopped, RunLocked)):
            with suppress(OSError):  # nobody hears it, or its disk is full; the exit code still tells
                print(error, file=sys.stderr)
        _end(error.exit_code)
    except SystemExit as end:
        _end(end.code)


def _end(code: str | int | None) -> NoReturn:
    """Ends this process; one that trained with others at once, when all that it did lies on disk.

    gloo's threads, taken down with the interpreter, were seen to abort a process whose training was done.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized() and isinstance(code, int | None):
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code or 0)
    sys.exit(code)


def _run() -> None:
    """Runs one command, and sees that what it printed arrives; a reader who went away, as `head` does, is no error.

    Raises:
        DoesNotFit: standard output goes to a disk that is full.
    """
    try:
        try:
            app()
        except SystemExit as end:  # so typer ends always; of a closed pipe it makes exit code 1
            # A training that nobody hears any more was cut short: that stays a failure.
            if isinstance(end.__context__, BrokenPipeError) and sys.argv[1:2] != ["train"]:
                raise end.__context__ from None
            sys.stdout.flush()
            raise
    except BrokenPipeError:
        _forget_output()
        sys.exit(0)
    except OSError as error:
        from finetune.atomic import FULL

        if error.errno not in FULL:
            raise
        _forget_output()
        where = error.filename or "standard output"
        raise DoesNotFit(FULL[error.errno], where=where, fix="free some space, or write elsewhere") from error


def _forget_output() -> None:
    """Lets the interpreter's last flush succeed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

"""`finetune data draft`."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from finetune import stopping
from finetune.cli.bar import LIVE_EVERY_SECONDS, LOG_EVERY_SECONDS
from finetune.errors import DataError, OutsideError, RecipeError

if TYPE_CHECKING:
    from finetune.draft import Forecast, Prices, Progress
    from finetune.endpoints import Endpoint

KEY_ENV = "OPENAI_API_KEY"


class Kind(StrEnum):
    """What is drafted."""

    qa = "qa"
    instruction = "instruction"


def draft(
    documents: list[Path] = typer.Argument(metavar="DOCS...", help="Markdown, text, HTML, PDF; or folders of them."),
    url: str = typer.Option(..., "--teacher", metavar="URL", help="A server that speaks OpenAI's chat completions."),
    model: str = typer.Option(..., "--model", metavar="NAME", help="The teacher, as that server calls it."),
    out: Path = typer.Option(Path("drafted.jsonl"), "--out", metavar="FILE", help="The rows to write."),
    kind: Kind = typer.Option(Kind.qa, "--kind", help="Questions that stand alone, or tasks with their passage."),
    per_chunk: int = typer.Option(3, "--per-chunk", min=1, max=50, help="Pairs to ask for, of each chunk."),
    chunk_tokens: int = typer.Option(800, "--chunk-tokens", min=50, max=100_000, help="Size of a chunk, estimated."),
    language: str = typer.Option("", "--language", help="Of the pairs. Default: that of the document."),
    parallel: int = typer.Option(4, "--parallel", min=1, max=256, help="Chunks to ask about at once."),
    price_in: float | None = typer.Option(None, "--price-in", min=0, help="Of a million tokens read."),
    price_out: float | None = typer.Option(None, "--price-out", min=0, help="Of a million tokens written."),
    limit: int | None = typer.Option(None, "--limit", min=1, metavar="N", help="Ask about the first N chunks only."),
    key_env: str = typer.Option(KEY_ENV, "--key-env", metavar="NAME", help="The variable that holds the key."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Tell what would be asked and cost, and ask nothing."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Draft examples from documents, asked of a teacher and grounded in them. The last line on stdout is the file."""
    with stopping.heard() as stop:
        from finetune import draft as room
        from finetune.completions import endpoint, meet

        settings = room.Settings(_model(model), room.Kind(kind.value), per_chunk, chunk_tokens, language.strip())
        wishes = room.Wishes(tuple(documents), settings, out, limit, parallel, _prices(price_in, price_out))
        room.check_out(out)
        who = endpoint(url, model, key_in(key_env), key_env)
        forecast = room.foresee(wishes)
        line = Line(quiet)
        _tell_before(line, forecast, who)
        if dry_run:
            print(json.dumps(foreseen(forecast)) if as_json else "\n".join(forecast_table(forecast)))
            return
        who = meet(who)
        stop.idle = ""  # from here on ending at once would lose replies that are paid for
        try:
            told = room.draft(wishes, forecast, who, lambda: bool(stop.signal), line.show)
        except OutsideError:
            if out.exists():
                line.say(f"what was answered so far lies in {out}")
            raise
        finally:
            line.clear()
    print(json.dumps(told) if as_json else "\n".join(table(told)))
    if told["unanswered"]:
        stop.check(shlex.join(["finetune", *sys.argv[1:]]))
    if not told["pairs"]["kept"]:
        raise _none_kept(told)
    if not as_json:
        print(out)


class Line:
    """One live line on a terminal, a line now and then in a log file; on stderr."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.live = quiet, sys.stderr.isatty()
        self._printed = self._began = time.monotonic()

    def say(self, line: str) -> None:
        """Prints a line of its own."""
        if not self.quiet:
            self._write(f"{line}\n")

    def show(self, progress: Progress) -> None:
        """Shows how far the asking is."""
        now = time.monotonic()
        if self.quiet or now - self._printed < (LIVE_EVERY_SECONDS if self.live else LOG_EVERY_SECONDS):
            return
        self._printed = now
        words = [
            f"{progress.done:,} of {progress.whole:,} chunks",
            f"{progress.read_tokens:,.0f} tokens in, {progress.written_tokens:,.0f} out",
        ]
        if progress.cost is not None:
            words.append(f"cost {progress.cost:,.4f}")
        if progress.done:
            words.append(f"{(now - self._began) / progress.done * (progress.whole - progress.done):,.0f} s left")
        self._write("  ".join(words) + ("" if self.live else "\n"))

    def clear(self) -> None:
        """Takes the live line away."""
        if self.live and not self.quiet:
            self._write("")

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[2K{text}" if self.live else text)
        sys.stderr.flush()


def foreseen(forecast: Forecast) -> dict[str, Any]:
    """What a dry run tells as JSON."""
    return {
        "documents": forecast.documents,
        "left_out": list(forecast.left_out),
        "remarks": list(forecast.remarks),
        "cut": forecast.cut,
        "chunks": len(forecast.chunks),
        "answered_before": forecast.answered,
        "read_tokens": round(forecast.read_tokens),
        "written_tokens": round(forecast.written_tokens),
        "cost": forecast.cost,
    }


def forecast_table(forecast: Forecast) -> list[str]:
    """Lays out what would be asked."""
    before = f", {forecast.answered:,} of them answered before" if forecast.answered else ""
    of = f"of {forecast.cut:,} in {forecast.documents:,} documents"
    lines = [
        f"chunks   {len(forecast.chunks):,} to ask about, {of}{before}",
        f"tokens   about {forecast.read_tokens:,.0f} in, {forecast.written_tokens:,.0f} out, thinking not counted",
    ]
    return lines if forecast.cost is None else [*lines, f"cost     about {forecast.cost:,.4f}"]


def table(told: dict[str, Any]) -> list[str]:
    """Lays out what became of it."""
    kept, dropped, now = told["pairs"]["kept"], told["pairs"]["dropped"], told["now"]
    none = f", {told['unanswered']:,} not answered" if told["unanswered"] else ""
    lines = [
        f"chunks   {told['asked']:,} asked now, {told['answered_before']:,} answered before{none}",
        f"pairs    {kept:,} kept, {sum(dropped.values()):,} dropped",
        *(f"         {count:>5,}  {reason}" for reason, count in dropped.items()),
        f"tokens   {now['read_tokens']:,} in, {now['written_tokens']:,} out"
        + (f", estimated for {now['estimated_replies']:,} replies" if now["estimated_replies"] else ""),
    ]
    if now["cost"] is not None:
        lines.append(f"cost     {now['cost']:,.4f} now, {told['all']['cost']:,.4f} with what was answered before")
    return [*lines, f"seconds  {told['seconds']:,.1f}", *([f"dropped  {told['rejected']}"] if dropped else [])]


def _tell_before(line: Line, forecast: Forecast, who: Endpoint) -> None:
    """Tells what the user should know before anything is asked."""
    for remark in forecast.remarks:
        line.say(remark)
    if forecast.left_out:
        shown = ", ".join(forecast.left_out[:3]) + (", …" if len(forecast.left_out) > 3 else "")
        line.say(f"left out, no documents by their names: {len(forecast.left_out):,} ({shown})")
    if who.is_overheard:
        line.say(
            f"warning: {who.url} is not https: whoever is between reads the key of {who.key_name} and the documents"
        )


def key_in(name: str) -> str:
    """Reads the key; nothing if the variable that is always looked at is not set, for local servers have no key.

    Raises:
        RecipeError: a variable was named that is not set.
    """
    if not os.environ.get(name, "").strip() and name != KEY_ENV:
        raise RecipeError(f"{name} is not set", where=f"--key-env {name}", fix=f"export {name}=...")
    return os.environ.get(name, "")


def _prices(price_in: float | None, price_out: float | None) -> Prices | None:
    from finetune.draft import Prices

    if price_in is None and price_out is None:
        return None
    if price_in is None or price_out is None or not (math.isfinite(price_in) and math.isfinite(price_out)):
        where = f"--price-in {price_in} --price-out {price_out}"
        raise RecipeError("a cost has two finite prices", where=where, fix="--price-in 0.5 --price-out 2")
    return Prices(price_in, price_out)


def _model(name: str) -> str:
    if not name.strip():
        raise RecipeError("the model has no name", where="--model", fix="--model qwen3:8b")
    return name.strip()


def _none_kept(told: dict[str, Any]) -> DataError:
    reason = next(iter(told["pairs"]["dropped"]), "the teacher proposed none")
    fix = f"less {shlex.quote(told['rejected'])}"
    return DataError("no pair was kept", where=told["out"], why=f"most often: {reason}", fix=fix)

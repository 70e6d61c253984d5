"""`finetune evaluate`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from finetune import stopping
from finetune.cli.bar import Bar
from finetune.cli.drafting import KEY_ENV, key_in
from finetune.cli.quiet import quiet_libraries
from finetune.cli.training import CACHE
from finetune.errors import ProofFailed, RecipeError

if TYPE_CHECKING:
    from finetune.endpoints import Endpoint


def evaluate(
    run: Path = typer.Argument(help="The run folder."),
    base: bool = typer.Option(True, "--base/--no-base", help="Ask the base too, the adapter left out."),
    gguf: list[Path] = typer.Option([], "--gguf", metavar="FILE", help="A GGUF file of the run; may be repeated."),
    tasks: str = typer.Option("", "--tasks", metavar="NAME,...", help="Only these; a score names one of its own."),
    limit: int | None = typer.Option(None, "--limit", min=1, help="The most rows of each set."),
    max_new_tokens: int = typer.Option(256, "--max-new-tokens", min=1, max=1_000_000, help="Of an answer, at most."),
    judge: str | None = typer.Option(None, "--judge", metavar="URL", help="A server whose model compares answers."),
    judge_model: str = typer.Option("", "--judge-model", metavar="NAME", help="That model, as the server calls it."),
    key_env: str = typer.Option(KEY_ENV, "--key-env", metavar="NAME", help="The variable that holds the server's key."),
    overrides: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", help="Override evaluate.tasks or .fail_if."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
    cache: Path | None = CACHE,
) -> None:
    """Compare what was trained with its base: the held-out loss, answers right and wrong, and the recipe's gate."""
    _check_overrides(overrides)
    from finetune.run import open_run

    who = _judge(judge, judge_model, key_env)
    with stopping.heard() as stop:
        opened = open_run(run)
        stop.idle = shlex.join(["finetune", *sys.argv[1:]])  # nothing is lost by ending before all is measured
        quiet_libraries()
        from finetune.evaluate.verb import Wish
        from finetune.evaluate.verb import evaluate as evaluate_run

        names = tuple(name.strip() for name in tasks.split(",") if name.strip())
        wish = Wish(base, tuple(gguf), names, limit, max_new_tokens, tuple(overrides), cache, who)
        bar = Bar(quiet)
        if who is not None:
            heard = ", and others on the way hear the key" if who.is_overheard else ""
            bar.say(f"{who.url} reads each held-out question with its answers{heard}")
        try:
            told = evaluate_run(opened, wish, stop, bar.say, bar.count)
        except ProofFailed as failed:
            if failed.problems[0].where != str(opened.evaluation):  # not the gate: nothing was written
                raise
            _print(json.loads(opened.evaluation.read_bytes()), opened.evaluation, as_json)
            raise
    _print(told, opened.evaluation, as_json)


def compare(
    one: Path = typer.Argument(help="An evaluated run."),
    other: Path = typer.Argument(help="Another, evaluated on the same rows."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Compare what two runs have tuned, item by item, by what `finetune evaluate` left in them."""
    from finetune.evaluate.between import compare as compare_runs
    from finetune.run import open_run

    told = compare_runs(open_run(one), open_run(other))
    if as_json:
        print(json.dumps(told, indent=2))
        return
    print("\n".join([" -> ".join(told["runs"]), *_measured(told)]))


def _judge(url: str | None, model: str, key_env: str) -> Endpoint | None:
    """Finds the judge.

    Raises:
        OutsideError: nobody answers there.
        RecipeError: only one half of it is told, or the URL is none.
    """
    if url is None and not model:
        return None
    if url is None or not model:
        where = "--judge-model" if model else "--judge"
        fix = "--judge http://localhost:11434 --judge-model NAME"
        raise RecipeError("a judge is a server and a model", where=where, why="the other is missing", fix=fix)
    from finetune.completions import meet
    from finetune.endpoints import endpoint

    return meet(endpoint(url, model, key_in(key_env), key_env, "--judge"))


def _check_overrides(overrides: list[str]) -> None:
    for word in overrides:
        if not word.startswith("evaluate."):
            why = "the rest of the recipe is what the run was trained with"
            raise RecipeError(
                "only the evaluation can be told anew", where=f"--set {word!a:.80}", why=why, fix="leave it out"
            )


def _print(told: dict[str, Any], file: Path, as_json: bool) -> None:
    if as_json:
        print(json.dumps(told, indent=2))
        return
    print("\n".join(table(told)))
    print(file)


def table(told: dict[str, Any]) -> list[str]:
    """Lays an evaluation out for a terminal."""
    lines, gate = [told["run"], *_measured(told)], told["gate"]
    lines += [f"the gate holds: it fails if {rule}" for rule in gate["rules"] if not gate["failed"]]
    return [*lines, *(f"not asked of the recipe's gate: {rule}" for rule in gate["not_asked"])]


def _measured(told: dict[str, Any]) -> list[str]:
    """Lays out the tasks, and what one should know of them."""
    lines: list[str] = []
    for task in told["tasks"]:
        lines += ["", f"{task['name']}: {task['unit']}, {task['better']} is better, {task['items']} items"]
        for side, score in task["scores"].items():
            lines.append(f"  {side:<36}{_interval(score, task)}")
        for pair in task["pairs"]:
            lines.append(f"  {pair['one'] + ' -> ' + pair['other']:<36}{_interval(pair['difference'], task, '+')}"
                         f"  {pair['verdict']}{_chance(pair)}{_blind(pair, task)}")  # fmt: skip
            if task["flips"] and pair is task["pairs"][0]:
                lines.append(f"  {'':<36}gained {task['flips']['gained']}, lost {task['flips']['lost']}")
    return lines + (["", *(f"note: {note}" for note in told["notes"])] if told["notes"] else [])


def _chance(pair: dict[str, Any]) -> str:
    """Tells p, and what is left of it among other tasks, where that is another figure."""
    if pair["p"] is None:
        return ""
    among = pair.get("p_holm")
    return f", p {pair['p']:.2g}" + ("" if among in (None, pair["p"]) else f" ({among:.2g} among all tasks, by Holm)")


def _blind(pair: dict[str, Any], task: dict[str, Any]) -> str:
    return "" if pair["sees"] is None else f"; less than {_figure(pair['sees'], task)} would not show here"


def _interval(told: dict[str, float], task: dict[str, Any], sign: str = "") -> str:
    value, low, high = (_figure(told[end], task, sign) for end in ("value", "low", "high"))
    return f"{value}  [{low}, {high}]"


def _figure(value: float, task: dict[str, Any], sign: str = "") -> str:
    is_share = task["kind"] != "loss" and all(0 <= score["value"] <= 1 for score in task["scores"].values())
    return f"{value:{sign}.1%}" if is_share else f"{value:{sign}.4f}"

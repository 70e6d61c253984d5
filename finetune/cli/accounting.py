"""`finetune ledger`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from finetune import stopping
from finetune.cli.bar import Bar
from finetune.cli.quiet import quiet_libraries


def ledger(
    run: Path = typer.Argument(help="The run folder."),
    tokens: int = typer.Option(16_384, "--tokens", min=1, help="Of held-out examples that are scored, at most."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Tell what each step from base to GGUF keeps of the tuning, by held-out loss."""
    from finetune.run import open_run, outputs

    with stopping.heard() as stop:
        opened = open_run(run)
        stop.idle = outputs.command("ledger", opened, "--tokens", str(tokens))  # nothing is lost by ending
        quiet_libraries()
        from finetune.ledger import ledger as ledger_of

        bar = Bar(quiet)
        told = ledger_of(opened, tokens, bar.say)
    if as_json:
        print(json.dumps(told, indent=2))
        return
    print("\n".join(table(told)))
    print(opened.ledger_plot)


def table(told: dict[str, Any]) -> list[str]:
    """Lays a ledger out for a terminal."""
    from finetune.export.quality import size
    from finetune.ledger.drawing import label
    from finetune.run import outputs

    of = f"{told['examples']['scored']} examples, {told['examples']['learnt']:,} tokens"
    lines = [
        f"{told['run']}: held-out loss, {told['unit']}, of {of}",
        f"{'':<30}{'size':>11}{'loss':>9}{'from trained':>14}{'keeps of the tuning, 95 %':>30}  engine",
    ]
    for line in told["steps"]:
        begun = f"{label(line):<30}{'' if line['bytes'] is None else size(line['bytes']):>11}"
        if "loss" not in line:
            lines.append(f"{begun}{'':>9}  not measured: {line['not_measured']}")
            continue
        share = ""
        if line["name"] not in ("base", *outputs.LEARNT):
            kept = line["kept"]
            share = f"{kept['value']:.2%}  [{kept['low']:.2%}, {kept['high']:.2%}]" if kept else "not told"
        away = f"{line['from_trained']['value']:+.4f}" if line["name"] not in outputs.LEARNT else ""
        lines.append(f"{begun}{line['loss']['value']:>9.4f}{away:>14}{share:>30}  {line['engine']}")
    return [*lines, *(f"advice: {line}" for line in told["advice"])]

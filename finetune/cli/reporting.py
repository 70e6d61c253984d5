"""`finetune report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer


def report(
    run: Path = typer.Argument(help="The run folder."),
    out: Path | None = typer.Option(None, "--out", metavar="FILE", help="The page. Default: report.html in the run."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Write one page of what a run's tuning did, how surely, and by which proofs."""
    from finetune.report import report as report_of
    from finetune.run import open_run

    opened = open_run(run)
    told = report_of(opened, out or opened.report)
    print(json.dumps(told, indent=2, ensure_ascii=False) if as_json else "\n".join(table(told)))


def table(told: dict[str, Any]) -> list[str]:
    """Lays a report out for a terminal; its last line is the page."""
    verdict = told["verdict"]
    lines = [f"{told['run']}: {verdict['sentence']}", *([verdict["beneath"]] if verdict["beneath"] else [])]
    if told["tasks"]:
        lines.append(f"\n{'task':<28}{'items':>7}{'base':>10}{'tuned':>10}  {'difference, 95 %':<46}verdict")
    for task in told["tasks"]:
        difference = f"{task['difference']}  [{task['interval']}]"
        scores = f"{task['items']:>7,}{task['before']:>10}{task['after']:>10}"
        lines.append(f"{task['task'][:27]:<28}{scores}  {difference:<46}{task['verdict']}")
    lines += [f"gate failed: {rule}" for rule in (told["gate"] or {"failed": []})["failed"]]
    lines += [f"no {part} yet: {command}" for part, command in told["missing"].items()]
    return [*lines, told["report"]]

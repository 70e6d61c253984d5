"""`finetune report`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import typer


def report(
    run: Path = typer.Argument(help="The run folder."),
    out: Path | None = typer.Option(None, "--out", metavar="FILE", help="The page. Default: report.html in the run."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Write one page of what a run's tuning did, how surely, and by which proofs."""
    from finetune.cli.targets import STDOUT, check_made
    from finetune.report import MARK, written
    from finetune.report import report as report_of
    from finetune.run import open_run

    opened = open_run(run)
    if str(out) in STDOUT:
        told, page = written(opened)
        print(page, end="")
        told["report"] = str(out)
    else:
        page_file = out or opened.report
        check_made("--out", page_file, opened, MARK, opened.report)
        told = report_of(opened, page_file)
    said = json.dumps(told, indent=2, ensure_ascii=False) if as_json else "\n".join(table(told))
    print(said, file=sys.stderr if str(out) in STDOUT else sys.stdout)


def table(told: dict[str, Any]) -> list[str]:
    """Lays a report out for a terminal; its last line is the page."""
    verdict, gate = told["verdict"], told["gate"] or {"failed": [], "not_asked": []}
    lines = [f"{told['run']}: {verdict['sentence']}", *([verdict["beneath"]] if verdict["beneath"] else [])]
    if told["tasks"]:
        lines.append(f"\n{'task':<28}{'items':>7}{'base':>10}{'tuned':>10}  {'difference, 95 %':<46}verdict")
    for task in told["tasks"]:
        begun = f"{task['task'][:27]:<28}{task['items']:>7,}"
        if task["same_as"]:
            lines.append(f"{begun}{'':>22}the same answers as {task['same_as']}")
            continue
        difference = f"{task['difference']}  [{task['interval']}]"
        lines.append(f"{begun}{task['before']:>10}{task['after']:>10}  {difference:<46}{task['verdict']}")
    lines += [f"gate failed: {rule}" for rule in gate["failed"]]
    lines += [f"gate not asked: {rule}" for rule in gate["not_asked"]]
    lines += [f"no {part} yet: {command}" for part, command in told["missing"].items()]
    return [*lines, told["report"]]

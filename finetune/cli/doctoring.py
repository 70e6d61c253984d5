"""`finetune doctor`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import typer

from finetune.errors import OutsideError


def doctor(
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
    online: bool = typer.Option(False, "--online", help="Ask the Hub what the token permits."),
) -> None:
    """Look for what would stop or slow a training here; each line with the command that mends it."""
    from finetune.doctor import examine, is_healthy, render

    checks = examine(Path.cwd(), online)
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        print(render(checks, colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR")))
    if not is_healthy(checks):
        raise typer.Exit(OutsideError.exit_code)

"""Prints the longest files and functions of the package, and fails beyond the budget.

    python scripts/sizes.py

A file has at most 300 lines and a function at most 50: what is longer is two things.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "finetune"
FILE_LINES, FUNCTION_LINES = 300, 50


def files() -> list[tuple[int, str]]:
    """Lists (lines, file), longest first."""
    found = [(len(f.read_text().splitlines()), str(f.relative_to(PACKAGE.parent))) for f in PACKAGE.rglob("*.py")]
    return sorted(found, reverse=True)


def functions() -> list[tuple[int, str]]:
    """Lists (lines, place), longest first. A docstring counts: it is read too."""
    found = []
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                found.append((lines, f"{file.relative_to(PACKAGE.parent)}:{node.lineno} {node.name}"))
    return sorted(found, reverse=True)


def main() -> int:
    """Prints and judges."""
    too_long = [f"{place} has {n} lines" for n, place in files() if n > FILE_LINES]
    too_long += [f"{place} has {n} lines" for n, place in functions() if n > FUNCTION_LINES]
    print("longest file:     {1}, {0} lines".format(*files()[0]))
    print("longest function: {1}, {0} lines".format(*functions()[0]))
    for line in too_long:
        print(f"too long: {line}", file=sys.stderr)
    return bool(too_long)


if __name__ == "__main__":
    sys.exit(main())

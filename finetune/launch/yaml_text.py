"""YAML as a person would write it: a script as a block of lines, keys in their order, parts with comments between."""

from __future__ import annotations

import textwrap
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """The safe dumper, with text of several lines as a block, and what stands twice written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def part(comment: str, value: dict[str, Any], depth: int = 0) -> str:
    """Writes some keys below a comment.

    Args:
        comment: text without `#`; its lines are kept, and an empty one writes none.
        value: the keys.
        depth: levels of two spaces to the right.
    """
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    dumped = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
    return textwrap.indent(lines + dumped, "  " * depth)

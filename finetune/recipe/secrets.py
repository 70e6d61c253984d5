"""A recipe is copied into every run and published; an access token in it would be too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from finetune.errors import Problem

SECRET = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|AKIA[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{20,}|xox[abp]-[A-Za-z0-9-]{20,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)


def find_secrets(values: Any, places: Mapping[str, str], key: str = "") -> list[Problem]:
    """Refuses values that look like an access token: a recipe is shared, a secret is not."""
    if isinstance(values, dict):
        return [p for k, v in values.items() for p in find_secrets(v, places, f"{key}.{k}".lstrip("."))]
    if isinstance(values, list):
        return [p for i, v in enumerate(values) for p in find_secrets(v, places, f"{key}.{i}")]
    if isinstance(values, str) and SECRET.search(values):
        fix = "delete it here, revoke it where it was made, and log in instead: hf auth login"
        where = places.get(key, places[""])
        return [Problem("this looks like a secret", where, "a recipe is copied into every run and published", fix)]
    return []


def without_secrets(problem: Problem) -> Problem:
    """Blots out what looks like a secret, wherever an error would repeat it."""
    told = (problem.what, problem.where, problem.why, problem.fix)
    return Problem(*(SECRET.sub(lambda found: f"{found.group()[:3]}…", text) for text in told))

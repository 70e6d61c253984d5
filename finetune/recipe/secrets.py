"""A recipe is copied into every run and published; an access token in it would be too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from finetune.errors import Problem

TOKENS = {
    "Hugging Face token": r"\bhf_[A-Za-z0-9]{20,}",
    "Anthropic key": r"\bsk-ant-[A-Za-z0-9_-]{20,}",
    "OpenAI key": r"\bsk-[A-Za-z0-9_-]{20,}",
    "AWS access key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{20,})",
    "GitLab token": r"\bgl(?:pat|ptt|dt|rt)-[A-Za-z0-9_-]{20,}",
    "Slack token": r"\bxox[abeprs]-[A-Za-z0-9-]{20,}",
    "Google key": r"\bAIza[A-Za-z0-9_-]{35}|\bya29\.[A-Za-z0-9_-]{30,}|\bGOCSPX-[A-Za-z0-9_-]{28}",
    "Stripe key": r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|\bwhsec_[A-Za-z0-9]{32,}",
    "Azure storage key": r"\bAccountKey=[A-Za-z0-9+/]{86}==",
    "npm token": r"\bnpm_[A-Za-z0-9]{36}\b",
    "PyPI token": r"\bpypi-[A-Za-z0-9_-]{50,}",
    "SendGrid key": r"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
"""What secrets look like that their makers marked as such; the one list of them here."""

_SECRET = re.compile("|".join(TOKENS.values()))


def find_secrets(values: Any, places: Mapping[str, str], key: str = "") -> list[Problem]:
    """Refuses values that look like an access token: a recipe is shared, a secret is not."""
    if isinstance(values, dict):
        return [p for k, v in values.items() for p in find_secrets(v, places, f"{key}.{k}".lstrip("."))]
    if isinstance(values, list):
        return [p for i, v in enumerate(values) for p in find_secrets(v, places, f"{key}.{i}")]
    if isinstance(values, str) and _SECRET.search(values):
        fix = "delete it here, revoke it where it was made, and log in instead: hf auth login"
        where = places.get(key, places[""])
        return [Problem("this looks like a secret", where, "a recipe is copied into every run and published", fix)]
    return []


def without_secrets(problem: Problem) -> Problem:
    """Blots out what looks like a secret, wherever an error would repeat it."""
    told = (problem.what, problem.where, problem.why, problem.fix)
    return Problem(*(_SECRET.sub(lambda found: f"{found.group()[:3]}…", text) for text in told))

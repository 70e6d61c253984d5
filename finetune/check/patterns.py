"""Patterns of personal data and secrets, each with a proof of its own, so that a list of numbers is none of them."""

from __future__ import annotations

import base64
import ipaddress
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from finetune.check import numbers
from finetune.recipe.secrets import TOKENS

SECRET_BITS = 2.8
"""Of entropy a character, from which an assigned value is no word: `changeme` has 2.75, a random one of 12 has 3.4."""


@dataclass(frozen=True)
class Pattern:
    """One kind of private text."""

    code: str
    name: str
    regex: re.Pattern[str]
    proof: Callable[[re.Match[str]], bool] = lambda found: True
    context: re.Pattern[str] | None = None
    needs: tuple[str, ...] = ()
    """What one of must stand in a text, in lower case, before it is searched: looking for that is quick."""
    long_number: bool = False
    """Whether a text without seven digits in a row, spaces and points aside, cannot have it."""


def _words(told: str) -> re.Pattern[str]:
    return re.compile(told, re.IGNORECASE)


_CARD = _words(r"card|visa|master|amex|american express|credit|debit|payment|cvv|karte|carte|tarjeta|卡")
_PHONE = _words(
    r"phone|\btel\b|mobile|\bcell|\bcall|\bfax|whatsapp|contact|\btext me|telefon|handy|rufnummer|t[eé]l[eé]|"
    r"tel[eé]fono|电话|手机|联系|致电|拨打"
)
_SSN = _words(r"ssn|social security|social-security")
_TAX = _words(r"steuer|idnr|\btin\b|tax id")
_IP = _words(r"\bips?\b|ipv[46]|address|server|host|ssh|ping|login|log.?in from|router|firewall|subnet|dns|服务器|地址")


def _email(found: re.Match[str]) -> bool:
    domain = found["domain"].lower()
    reserved = re.search(r"(^|\.)(example\.(com|net|org|edu)|(example|test|invalid|localhost|local))$", domain)
    named = re.search(r"(^|\.)(domain|email|mail|company|yourcompany|yourdomain|website|xyz|abc)\.com$", domain)
    return not reserved and not named and domain.rpartition(".")[2] not in ("png", "jpg", "jpeg", "gif", "svg", "webp")


def _card(found: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", found.group())
    return numbers.is_card(digits) and digits not in numbers.PLACEHOLDERS


def _iban(found: re.Match[str]) -> bool:
    told = found.group().replace(" ", "")
    length = numbers.IBAN_LENGTHS.get(told[:2], 0)
    return bool(length) and numbers.is_iban(told[:length]) and told[:length] not in numbers.PLACEHOLDERS


def _phone(found: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", found.group())
    nobodys = re.search(r"55501\d\d$", digits) or len(set(digits)) < 4
    counted = digits in "0123456789012345" or digits in "9876543210987654" or digits.endswith("1234567890")
    return not nobodys and not counted and 8 <= len(digits) <= 15


def _address(found: re.Match[str]) -> bool:
    try:
        return ipaddress.ip_address(found.group()).is_global
    except ValueError:
        return False


def _password(found: re.Match[str]) -> bool:
    value = found["value"]
    code = re.search(r"[(){}\[\]<>$*…]|^(?:os|self|process|config|env|request|user)\b|^x+$|your|example|\.\.\.", value)
    mixed = bool(re.search(r"\d", value)) and bool(re.search(r"[A-Za-z]", value))
    counts = Counter(value)
    bits = -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
    return value.isascii() and not code and mixed and bits >= SECRET_BITS


def _jwt(found: re.Match[str]) -> bool:
    head = found.group().partition(".")[0]
    try:
        told = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (ValueError, RecursionError):
        return False
    return isinstance(told, dict) and "alg" in told


_GAP = r"(?<![0-9A-Za-z_.+*/^=-])"
"""What a number may not be a part of: a longer number, a formula, a version."""

BEGINNINGS = {
    "Hugging Face token": ("hf_",),
    "Anthropic key": ("sk-ant-",),
    "OpenAI key": ("sk-",),
    "AWS access key": ("akia", "asia"),
    "GitHub token": ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    "GitLab token": ("glpat-", "glptt-", "gldt-", "glrt-"),
    "Slack token": ("xox",),
    "Google key": ("aiza", "ya29.", "gocspx-"),
    "Stripe key": ("k_live_", "k_test_", "whsec_"),
    "Azure storage key": ("accountkey=",),
    "npm token": ("npm_",),
    "PyPI token": ("pypi-",),
    "SendGrid key": ("sg.",),
    "private key": ("private key",),
}
"""How each token begins, in lower case."""

PATTERNS = (
    *(Pattern("secret-token", name, re.compile(told), needs=BEGINNINGS[name]) for name, told in TOKENS.items()),
    Pattern(
        "secret-token",
        "JSON web token",
        re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{10,}"),
        _jwt,
        needs=("eyj",),
    ),
    Pattern(
        "secret-password",
        "password in an address",
        re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@]{1,64}:(?P<value>[^\s:/@]{6,64})@[\w.-]+"),
        lambda found: not re.search(r"^(?:password|pass|secret|passwd)$|[<>{}$*]|your", found["value"], re.IGNORECASE),
        needs=("://",),
    ),
    Pattern(
        "secret-password",
        "password or key that is assigned",
        re.compile(
            r"(?:pass(?:word|wd|phrase)?|pwd|secret|api[_-]?key|token|access[_-]?key|密码)[\"']?"
            r"\s*(?:=|:|：|:=|=>| is )\s*"
            r"[\"'`]?(?P<value>[^\s\"'`,;]{7,99}[^\s\"'`,;.])",
            re.IGNORECASE,
        ),
        _password,
        needs=("pass", "pwd", "secret", "key", "token", "密码"),
    ),
    Pattern(
        "personal-email",
        "e-mail address",
        re.compile(r"(?<![\w.+:/-])[A-Za-z0-9][\w.+-]{0,63}@(?P<domain>(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24})\b"),
        _email,
        needs=("@",),
    ),
    Pattern(
        "personal-phone",
        "telephone number",
        re.compile(r"(?<![\w+])\+[1-9](?:[ ()./-]{0,2}\d){7,14}\b"),
        _phone,
        long_number=True,
    ),
    Pattern(
        "personal-phone",
        "telephone number",
        re.compile(_GAP + r"(?:\(\d{2,5}\)[ -]?)?\d{2,5}(?:[ /.-]\d{2,8}){1,4}\b(?![.,:/-]?\d)"),
        _phone,
        _PHONE,
        long_number=True,
    ),
    Pattern(
        "personal-phone",
        "telephone number",
        re.compile(_GAP + r"(?:1[3-9]|0\d)\d{8,9}\b(?![.-]\d)"),
        _phone,
        _PHONE,
        long_number=True,
    ),
    Pattern(
        "personal-card",
        "card number",
        re.compile(_GAP + r"\d(?:[ -]?\d){12,18}\b(?![ ,.-]?\d)"),
        _card,
        _CARD,
        long_number=True,
    ),
    Pattern("personal-iban", "IBAN", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b"), _iban, long_number=True),
    Pattern(
        "personal-id",
        "US social security number",
        re.compile(_GAP + r"\d{3}-\d{2}-\d{4}\b(?!-)"),
        lambda found: numbers.is_ssn(found.group()) and found.group() not in numbers.PLACEHOLDERS,
        _SSN,
        long_number=True,
    ),
    Pattern(
        "personal-id",
        "Chinese identity number",
        re.compile(r"(?<![0-9A-Za-z.])[1-8]\d{16}[0-9Xx](?![0-9A-Za-z])"),
        lambda found: numbers.is_resident_id(found.group()) and found.group().upper() not in numbers.PLACEHOLDERS,
        long_number=True,
    ),
    Pattern(
        "personal-id",
        "German tax id",
        re.compile(_GAP + r"\d{2} ?\d{3} ?\d{3} ?\d{3}\b"),
        lambda found: numbers.is_german_tax_id(found.group().replace(" ", "")),
        _TAX,
        long_number=True,
    ),
    Pattern(
        "personal-ip",
        "network address",
        re.compile(r"\d(?<![\w.]\d)(?:\d{0,2}\.)(?:\d{1,3}\.){2}\d{1,3}(?![\w]|\.\d)"),
        _address,
        _IP,
        needs=(".",),
    ),
    Pattern(
        "personal-ip",
        "network address",
        re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}:{1,2}){3,7}[0-9A-Fa-f]{1,4}(?![\w:])"),
        _address,
        _IP,
        needs=(":",),
    ),
)

LONG_NUMBER = re.compile(r"\d(?:[ .()/-]{0,2}[\dA-Z]){6}")

CONTEXT = 60
"""Characters before a number in which the word must stand that says what it is."""


def matches(text: str) -> Iterator[tuple[Pattern, re.Match[str]]]:
    """Yields what is private in a text; the first pattern that matches a stretch has it."""
    taken: list[tuple[int, int]] = []
    low = text.lower()
    has_number = LONG_NUMBER.search(text) is not None
    for pattern in PATTERNS:
        if pattern.long_number and not has_number:
            continue
        if pattern.needs and not any(needed in low for needed in pattern.needs):
            continue
        for found in pattern.regex.finditer(text):
            start, end = found.span()
            if any(start < e and s < end for s, e in taken) or not pattern.proof(found):
                continue
            if pattern.context and not pattern.context.search(text, max(0, start - CONTEXT), start):
                continue
            taken.append((start, end))
            yield pattern, found

"""Guesses the encoding of text that is not UTF-8, so that a fix can name it."""

from __future__ import annotations

import re


def guess_encoding(raw: bytes) -> str:
    """Names the encoding, as `iconv -f` wants it, that bytes which are not UTF-8 were probably written in.

    Chinese double-byte text has its high bytes in pairs; a European accent stands alone among ASCII letters.
    """
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    runs = re.findall(rb"[\x80-\xff]+", raw)
    return "gb18030" if all(len(run) % 2 == 0 for run in runs) else "cp1252"

"""By what the text of a licence is known: its title, or a sentence that only it has."""

from __future__ import annotations

import re

COMMONS = {
    "cc-by": "attribution",
    "cc-by-sa": "attribution-sharealike",
    "cc-by-nd": "attribution-noderiv(ative)?s",
    "cc-by-nc": "attribution-noncommercial",
    "cc-by-nc-sa": "attribution-noncommercial-sharealike",
    "cc-by-nc-nd": "attribution-noncommercial-noderiv(ative)?s",
}
"""Kinds of Creative Commons, by their titles."""

TEXTS = {
    "apache-2.0": r"\bapache license version 2\.0",
    "mit": r"permission is hereby granted, free of charge, to any person obtaining a copy of .{0,99}, to deal in the",
    "bsd-3-clause": r"redistribution and use in source and binary forms, with or without .{0,1500}neither the name of",
    "cc0-1.0": r"\bcc0 1\.0 universal",
    "unlicense": r"this is free and unencumbered software released into the public domain",
    "mpl-2.0": r"\bmozilla public license version 2\.0",
    **{
        f"{id}-{version}": rf"\b{words} {re.escape(version)} (international|unported|generic)"
        for id, words in COMMONS.items()
        for version in ("2.0", "2.5", "3.0", "4.0")
    },
    **{
        f"llama{version}": rf"\bllama {re.escape(version)} community license"
        for version in ("2", "3", "3.1", "3.2", "3.3", "4")
    },
    "gemma": r"\bgemma terms of use",
    "creativeml-openrail-m": r"\bcreativeml open ?rail-m",
    "bigcode-openrail-m": r"\bbigcode open ?rail-m",
}
"""Identifier -> what its text says, in lower case, with one blank between words.

A licence of the Hub that is not here is not recognised: a base with its text is under terms that are not known.
"""

TITLES = {
    "agpl-3.0": r"GNU AFFERO GENERAL PUBLIC LICENSE Version 3\b",
    "lgpl-2.1": r"GNU LESSER GENERAL PUBLIC LICENSE Version 2\.1",
    "lgpl-3.0": r"GNU LESSER GENERAL PUBLIC LICENSE Version 3\b",
    "gpl-2.0": r"GNU GENERAL PUBLIC LICENSE Version 2\b",
    "gpl-3.0": r"GNU GENERAL PUBLIC LICENSE Version 3\b",
}
"""The same of licences that speak of each other, but for their titles in capital letters."""

FREE = ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "unlicense")
"""Licences whose texts have none of the next words."""

LIMITS = r"\bnon-? ?commercial|\bcommons clause|\bresearch (use|purposes?|licen[cs]e)|\bacceptable use policy"
"""What is said where somebody added limits."""

MOST_BEFORE = 1000
"""Characters before what a text is known by: a title and whose copyright it is. More of them are terms of their own."""


def recognised(text: str) -> tuple[str, ...]:
    """Names the licences that stand in a text, and `other` where there is more than their words; none if none does."""
    words = " ".join(text.split())
    low = words.lower()
    found = {id: there.start() for id, pattern in TEXTS.items() if (there := re.search(pattern, low))}
    found |= {id: there.start() for id, pattern in TITLES.items() if (there := re.search(pattern, words))}
    if not found:
        return ()
    limited = not found.keys().isdisjoint(FREE) and re.search(LIMITS, low)
    return (*found, *(["other"] if limited or min(found.values()) > MOST_BEFORE else []))

"""Licences by the identifiers that the Hub knows, each with what it asks of whoever passes a tuned model on.

This is a reading of them for software that must not err on the loose side. It is not legal advice: where courts or the
licence itself leave open whether weights are derived from the data that taught them, the stricter answer stands here.

Source: identifiers of the Hub's page "Licenses" and of SPDX; the answers are those of the licences' own texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Answer = Literal["yes", "no", "unknown"]

UNKNOWN = "unknown"
OWN = "own"
"""Of rows that whoever trains holds all rights in; no identifier of the Hub, and never written into a card's head."""


@dataclass(frozen=True)
class Licence:
    """What one licence asks."""

    id: str
    """As the Hub spells it."""
    commercial: Answer = "yes"
    """Whether it allows commercial use."""
    share_alike: bool = False
    """Whether what is made of the work goes under the same licence."""
    notice: bool = True
    """Whether authors are credited, or the licence's text goes along."""
    derivatives: Answer = "yes"
    """Whether changed versions may be passed on."""
    restricted: bool = False
    """Whether it forbids certain uses, which then must be forbidden to others too."""
    doubt: str = ""
    """What the licence leaves open about models; empty if nothing."""
    spdx: str = ""
    """Identifier of SPDX; empty if it has none."""

    @property
    def binds(self) -> bool:
        """Whether it says under which licence a tuned model goes."""
        return self.share_alike or self.restricted or self.commercial == "no"


def _plain(words: str) -> Iterable[Licence]:
    """Licences that ask for a notice at most."""
    return (Licence(word.lower(), spdx=word) for word in words.split())


def _alike(words: str) -> Iterable[Licence]:
    """Licences under which what is made of the work goes too; weights count as made of it."""
    return (Licence(word.lower(), share_alike=True, spdx=word) for word in words.split())


def _not_commercial(words: str) -> Iterable[Licence]:
    for word in words.split():
        alike, fixed = "-SA" in word, "-ND" in word
        yield Licence(word.lower(), "no", alike, derivatives="no" if fixed else "yes", spdx=word)


def _with_limits(words: str, commercial: Answer) -> Iterable[Licence]:
    """Licences that forbid uses; SPDX knows few of them."""
    return (Licence(word, commercial, restricted=True) for word in words.split())


FORMER = {"gpl": "GPL-1.0-or-later", "agpl": "AGPL-3.0-only", "lgpl": "LGPL-2.0-or-later", "gfdl": "GFDL-1.3-or-later"}
OPEN_DATABASE = "whether weights are a database that is derived from one or a work produced with it"

ALL: tuple[Licence, ...] = (
    *(Licence(id, notice=False, spdx=spdx) for id, spdx in (("cc0-1.0", "CC0-1.0"), ("unlicense", "Unlicense"))),
    *(Licence(id, notice=False, spdx=spdx) for id, spdx in (("wtfpl", "WTFPL"), ("pddl", "PDDL-1.0"))),
    *_plain("Apache-2.0 MIT AFL-3.0 Artistic-2.0 BSL-1.0 BSD-2-Clause BSD-3-Clause BSD-3-Clause-Clear ECL-2.0 ISC"),
    *_plain("CC-BY-2.0 CC-BY-2.5 CC-BY-3.0 CC-BY-4.0 CDLA-Permissive-1.0 CDLA-Permissive-2.0 etalab-2.0 NCSA Zlib"),
    *_plain("LPPL-1.3c MS-PL PostgreSQL OFL-1.1"),
    *(Licence("bsd"), Licence("c-uda", spdx="C-UDA-1.0"), Licence("odc-by", spdx="ODC-By-1.0"), Licence("openmdw-1.0")),
    # its sharing clause is about the data; results of computing with them are free of it
    Licence("cdla-sharing-1.0", spdx="CDLA-Sharing-1.0"),
    Licence("odbl", doubt=OPEN_DATABASE, spdx="ODbL-1.0"),
    *_alike("CC-BY-SA-3.0 CC-BY-SA-4.0 EPL-1.0 EPL-2.0 EUPL-1.1 EUPL-1.2 MPL-2.0 OSL-3.0"),
    *(Licence(id, share_alike=True, spdx=spdx) for id, spdx in FORMER.items()),
    *(Licence(id, share_alike=True, spdx=f"{id.upper()}-only") for id in ("gpl-2.0", "gpl-3.0", "agpl-3.0")),
    *(Licence(id, share_alike=True, spdx=f"{id.upper()}-only") for id in ("lgpl-2.1", "lgpl-3.0")),
    Licence("lgpl-lr", share_alike=True, spdx="LGPLLR"),
    *_not_commercial("CC-BY-NC-2.0 CC-BY-NC-3.0 CC-BY-NC-4.0 CC-BY-NC-ND-3.0 CC-BY-NC-ND-4.0"),
    *_not_commercial("CC-BY-NC-SA-2.0 CC-BY-NC-SA-3.0 CC-BY-NC-SA-4.0"),
    Licence("cc-by-nd-4.0", derivatives="no", spdx="CC-BY-ND-4.0"),
    *_with_limits("openrail openrail++ bigscience-openrail-m creativeml-openrail-m bigcode-openrail-m", "yes"),
    *_with_limits("bigscience-bloom-rail-1.0 llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma", "yes"),
    *_with_limits("grok2-community apple-ascl", "unknown"),
    *_with_limits(
        "apple-amlr h-research intel-research deepfloyd-if-license fair-noncommercial-research-license", "no"
    ),
    *(Licence(id, "unknown", derivatives="unknown") for id in ("cc", "other", UNKNOWN)),
    Licence(OWN, notice=False),
)

KNOWN: dict[str, Licence] = {licence.id: licence for licence in ALL}

SPELLINGS = {
    "apache2": "apache-2.0",
    "apache2.0": "apache-2.0",
    "apachelicense2.0": "apache-2.0",
    "apachelicenseversion2.0": "apache-2.0",
    "mitlicense": "mit",
    "themitlicense": "mit",
    "cc0": "cc0-1.0",
    "gplv3": "gpl-3.0",
    "gplv2": "gpl-2.0",
    "agplv3": "agpl-3.0",
}
"""Other spellings, as `_squeezed` leaves them."""


def known(word: str) -> Licence | None:
    """Finds a licence by its identifier, that of SPDX, or another usual spelling such as `CC BY 4.0`."""
    return _BY_SPELLING.get(_squeezed(word))


def _squeezed(word: str) -> str:
    return re.sub(r"[^a-z0-9.+]", "", word.lower())


_BY_SPELLING: dict[str, Licence] = {
    **{spelling: KNOWN[id] for spelling, id in SPELLINGS.items()},
    **{_squeezed(licence.spdx): licence for licence in ALL if licence.spdx},
    **{_squeezed(licence.id): licence for licence in ALL},
}

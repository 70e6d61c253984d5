"""What is left to a tuned model by the licences of its base and of its data: the strictest wins. Not legal advice."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from finetune.errors import RecipeError
from finetune.licences.table import KNOWN, OWN, UNKNOWN, Licence, known

Publishable = Literal["yes", "only forced", "no"]

PASSES_INTO = {
    "cc-by-sa-3.0": ("cc-by-sa-4.0", "gpl-3.0"),
    "cc-by-sa-4.0": ("gpl-3.0",),
    "cc-by-nc-sa-2.0": ("cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
    "cc-by-nc-sa-3.0": ("cc-by-nc-sa-4.0",),
    "gpl-3.0": ("agpl-3.0",),
    "lgpl-2.1": ("gpl-2.0", "gpl-3.0"),
    "lgpl-3.0": ("gpl-3.0", "agpl-3.0"),
    "mpl-2.0": ("gpl-2.0", "gpl-3.0", "agpl-3.0"),
}
"""Licences that ask for themselves, and the later or stricter ones that they let a work go under all the same.

Source: Creative Commons' list of compatible licences; section 13 of GPL 3, 3 of LGPL 2.1, 3.3 of MPL 2.0.
"""

NOT_WITH = {
    "gpl-2.0": ("apache-2.0", "ecl-2.0", "afl-3.0", "ms-pl", "lppl-1.3c"),
    "lgpl-2.1": ("apache-2.0", "ecl-2.0", "afl-3.0", "ms-pl", "lppl-1.3c"),
    "gpl-3.0": ("afl-3.0", "ms-pl", "lppl-1.3c"),
    "lgpl-3.0": ("afl-3.0", "ms-pl", "lppl-1.3c"),
    "agpl-3.0": ("afl-3.0", "ms-pl", "lppl-1.3c"),
}
"""Licences that ask for themselves, and those that have terms which they allow nobody to add. GPL 2 means that alone.

Source: the Free Software Foundation's list "Various Licenses and Comments about Them", of LPPL an earlier version; what
it says of GPL 2 is taken for LGPL 2.1 too, which has the same clause.
"""

MARKS = {
    "llama": '"Built with Llama" is shown, and the name of a model begins with "Llama"',
    "gemma": "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
}
"""What licences ask to be shown, by how their identifiers begin."""

CREDITED = "its authors are credited by that name"
OWED = (
    "its authors are to be credited, and the name of a file credits nobody: whoever publishes this model must name "
    "them, in the recipe's card.intended_use"
)
"""What licences that ask for attribution come to, of a data set of the Hub and of a file of one's own."""

OWN_TERMS = "terms of their own"
"""What is left where several licences bind, or none that has a name."""


@dataclass(frozen=True)
class Stated:
    """Of one part of a model, the licence that somebody stated for it."""

    name: str
    """Of the base, or of the source of data."""
    license: str | None
    """Nothing if nobody stated any."""
    where: str = ""
    """Where that stands."""
    link: str = ""
    """To its text, where it is none of the known ones."""
    hub: bool = False
    """Whether its name is that of a data set at the Hub, by which its authors are found."""


@dataclass(frozen=True)
class Verdict:
    """What follows for the tuned model."""

    license: str
    """As the Hub spells it; `other` with a name where it is none that the Hub knows."""
    license_name: str | None
    """A short name, where the licence is `other`."""
    license_link: str | None
    """To its text, where the licence is `other`, and that is known."""
    publishable: Publishable
    """Whether it may be published to all: only forced where a source forbids commercial use or states no licence."""
    why: tuple[str, ...]
    """Reasons, one sentence each; empty where everything may go its way."""
    where: tuple[str, ...]
    """Key of the recipe that each reason is about."""
    left: str
    """What base and data alone leave, whatever is wished; `unknown` where they do not say."""
    notices: tuple[str, ...]
    """What goes along with the model, one sentence each."""


def combine(base: Stated, data: Sequence[Stated], wished: str | None = None) -> Verdict:
    """Finds the licence of a tuned model, and whether it may be published.

    Args:
        base: the model that was tuned.
        data: each source that it was tuned on.
        wished: what the recipe wishes for; it may be stricter than what is left, never looser.

    Raises:
        RecipeError: the wish is a misspelt identifier.
    """
    given = [(each, _found(each)) for each in (base, *data)]
    left = _left([licence for _, licence in given])
    chosen, name = (left, None) if wished is None else _wished(wished)
    conflicts, reasons = list(_conflicts(given, chosen)), list(_reasons(base, given))
    if wished is not None:
        given_away = dict.fromkeys(_given_away(chosen, [licence for _, licence in given]))
        conflicts += [("card.license", f"{wished} is wished for, but {each}") for each in given_away]
    if chosen.id in ("other", OWN):  # the second of a base whose maker says so
        name = name or _slug(_joined(given))
    against = (*conflicts, *reasons)
    publishable: Publishable = "no" if conflicts else "only forced" if reasons else "yes"
    return Verdict(
        license="other" if chosen.id == OWN else chosen.id,
        license_name=name,
        license_link=base.link or None if chosen.id == "other" and not wished else None,
        publishable=publishable,
        why=tuple(reason for _, reason in against),
        where=tuple(key for key, _ in against),
        left=OWN_TERMS if left.id in ("other", OWN) else left.id,
        notices=tuple(_notices(base, given)),
    )


def _found(stated: Stated) -> Licence:
    return (known(stated.license) if stated.license else None) or KNOWN[UNKNOWN]


def _reasons(base: Stated, given: Sequence[tuple[Stated, Licence]]) -> Iterator[tuple[str, str]]:
    """Tells why it may be published only if somebody insists, and of which key of the recipe that is."""
    for each, licence in given:
        key = "base" if each is base else "data.train"
        of = f"{each.name} ({each.license})" if each.license else each.name
        if licence.commercial == "unknown" and each.license and not known(each.license):
            yield key, f"{of} is under a licence that is not known here"
        elif licence.commercial == "unknown":
            why = f" ({each.where})" if each is base and each.where else ""
            told = f"{of} is under terms that are not known here" if each.license else f"{of} states no licence{why}"
            yield key, told
        if licence.commercial == "no":
            yield key, f"{of} may not be used commercially"
        if licence.derivatives == "no" and each is not base:
            yield key, f"{of} may not be passed on in changed form, and whether a model is one is not settled"
        if licence.doubt:
            yield key, f"{of} leaves open {licence.doubt}"


def _conflicts(given: Sequence[tuple[Stated, Licence]], chosen: Licence) -> Iterator[tuple[str, str]]:
    """Tells what cannot be fulfilled at all, and of which key of the recipe that is."""
    base, licence = given[0]
    if licence.derivatives == "no":
        yield "base", f"{base.name} ({base.license}) forbids that changed versions are passed on"
    alike = _folded({licence.id for _, licence in given if licence.share_alike})
    if len(alike) > 1:
        yield "data.train", f"{' and '.join(sorted(alike))} each ask for a model under themselves"
        return
    for only in alike:
        under = chosen.id if chosen.id in PASSES_INTO.get(only, ()) else only
        for each, licence in given:
            key = "base" if each is base else "data.train"
            if licence.share_alike:
                continue
            if (licence.commercial == "no" and KNOWN[under].commercial != "no") or licence.restricted:
                yield key, f"{under} allows no more limits, and {each.name} ({each.license}) has some"
            elif licence.id in NOT_WITH.get(under, ()):
                yield key, f"{under} allows no more terms, and {each.name} ({each.license}) has some"


def _folded(ids: set[str]) -> set[str]:
    """Leaves out licences that pass into another of these."""
    return {id for id in ids if not set(PASSES_INTO.get(id, ())) & ids}


def _left(licences: Sequence[Licence]) -> Licence:
    """Gives the licence that is left: the base's, unless some of the data bind more."""
    alike = _folded({licence.id for licence in licences if licence.share_alike})
    if len(alike) == 1:
        return KNOWN[alike.pop()]
    binding = {licence.id for licence in licences if licence.binds}
    if not binding:
        return licences[0]
    if all(id.startswith("cc-by-nc") for id in binding):
        return KNOWN[max(binding, key=lambda id: ("-nd" in id, id))]
    return KNOWN[binding.pop()] if len(binding) == 1 else KNOWN["other"]


def _given_away(wish: Licence, licences: Sequence[Licence]) -> Iterator[str]:
    """Tells what a wish would give away that one of the licences does not: each is asked, whatever they leave."""
    alike = _folded({licence.id for licence in licences if licence.share_alike})
    for licence in licences:
        if wish.id == licence.id or wish.id in PASSES_INTO.get(licence.id, ()):
            continue
        if licence.id in alike:
            yield f"{licence.id} asks for a model under itself"
        elif licence.restricted:
            yield f"the limits of {licence.id} must be passed on"
        elif licence.commercial == "no" and wish.commercial != "no":
            yield f"{licence.id} forbids commercial use"
        elif licence.binds and licence.derivatives == "no" and wish.derivatives != "no":
            yield f"{licence.id} forbids that changed versions are passed on"
        elif licence.notice and licence.commercial == "yes" and not wish.notice:
            yield f"{licence.id} asks that its notice is kept"


def _wished(word: str) -> tuple[Licence, str | None]:
    """Takes a wish as one of the known licences, or as a licence of one's own.

    Raises:
        RecipeError: it is nearly a known one.
    """
    if (licence := known(word)) is not None:
        return (KNOWN["other"] if licence.id == OWN else licence), None
    near = difflib.get_close_matches(word.lower(), KNOWN, n=1, cutoff=0.8)
    if near:
        why = "the Hub knows licences by their identifiers"
        fix = f"--set card.license={near[0]}"
        raise RecipeError(f"there is no licence {word!a:.60}", where="card.license", why=why, fix=fix)
    return KNOWN["other"], _slug(word)


def _joined(given: Sequence[tuple[Stated, Licence]]) -> str:
    """Names what several licences make together."""
    names = dict.fromkeys(each.license or UNKNOWN for each, licence in given if licence.binds or each is given[0][0])
    return " and ".join(names)


def _slug(text: str) -> str:
    """Writes a name as the Hub takes it."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:60] or "terms-of-their-own"


def _notices(base: Stated, given: Sequence[tuple[Stated, Licence]]) -> Iterator[str]:
    for each, licence in given:
        if not licence.notice or not each.license:
            continue
        if each is base:
            yield f"Changed from {each.name} by fine-tuning; that is under {each.license}, and its LICENSE goes along"
        elif licence.id.startswith(("cc-", "odc-", "odbl", "cdla")):
            yield f"Trained on {each.name}, under {each.license}: {CREDITED if each.hub else OWED}"
        else:
            yield f"Trained on {each.name}, under {each.license}: its copyright notice and licence are kept"
        yield from (text for mark, text in MARKS.items() if licence.id.startswith(mark))

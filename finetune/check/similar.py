"""Rows that say the same: duplicates, one prompt with several answers, and held-out rows that are learnt.

The whole conversation is compared, not its question alone: two questions that offer other choices are two rows. Near
duplicates leave the system prompt and the tools out, which many rows share.
"""

from __future__ import annotations

import json
import shlex
from array import array
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from finetune.check.finding import Finding, Side, snippet
from finetune.check.groups import equal_runs, gather
from finetune.check.minhash import BANDS, bands, signatures
from finetune.check.overlap import overlaps
from finetune.check.saying import said
from finetune.check.spill import Spill
from finetune.check.words import Hashes, hashed, runs, shingle_size, units, without_signs
from finetune.data import Row

NEAR, LONG_NEAR = 0.8, 0.55
"""The Jaccard index from which two rows are nearly the same: of short ones, and of long ones.

A tenth of the words changed leaves 0.57 of word triples. Between short rows so much is common by their form alone; so
the bound falls with the number of shingles.
"""

SHORT, LONG = 30, 60
"""Shingles of the shorter row up to which NEAR is asked, and from which LONG_NEAR is."""

TELLING = 20
"""Units from which a row is known without the signs in its numbers; in a shorter one 5 - 3 is not 5 * 3."""

BATCH = 256
"""Rows that are hashed at a time: their shingles stay in the cache."""

NAMED = 5
"""Places of a group that its finding spells out."""

Numbers = npt.NDArray[np.int64]


class Similar:
    """Sees every row once, in any order; holds some 250 bytes and its place of each."""

    def __init__(self) -> None:
        self.places: list[str] = []
        self._records: list[str] = []
        """Of each row the record that it is one of several of, or nothing."""
        self._held, self._exact, self._normal, self._prompt = array("b"), array("Q"), array("Q"), array("Q")
        self._bands: list[npt.NDArray[np.uint32]] = []
        self._waiting: list[Hashes] = []
        self._spill = Spill()

    def see(self, row: Row, side: Side) -> None:
        """Takes a row in."""
        told = list(said(row))
        asked = [unit for text in told if not text.learnt and text.role != "system" for unit in units(text.text)]
        answered = [unit for text in told if text.learnt for unit in units(text.text)]
        frame = [unit for text in told if text.role == "system" for unit in units(text.text)]
        offered = json.dumps(row.tools, sort_keys=True, ensure_ascii=False) if row.tools else ""
        prompt = _key([*frame, "\n", *asked, offered])
        self.places.append(row.place)
        self._records.append(row.place.rpartition(" ")[0] if row.part else "")
        self._held.append(side == "held out")
        self._exact.append(int(row.fingerprint[:16], 16))
        told_all = [*frame, "\n", *asked, "\n", *answered, offered]
        told_all = without_signs(told_all) if len(told_all) >= TELLING else told_all
        self._normal.append(_key(told_all) if asked or answered else 0)
        self._prompt.append(prompt if asked and answered else 0)
        asked, answered = without_signs(asked), without_signs(answered)
        words = [*asked, *answered]
        size, row_units = shingle_size(words), hashed(words)
        shown = next((text.text for text in told if text.role == "user"), told[0].text if told else "")
        self._spill.add(row_units, len(asked), size, snippet(shown))
        self._waiting.append(runs(row_units if len(row_units) else np.zeros(1, np.uint32), size))
        if len(self._waiting) == BATCH:
            self._hash()

    def _hash(self) -> None:
        if self._waiting:
            self._bands.append(bands(signatures(self._waiting)))
            self._waiting = []

    def finish(self) -> Iterator[Finding]:
        """Yields what the rows have in common."""
        self._hash()
        self._spill.written()
        held, exact, normal = np.array(self._held, bool), np.array(self._exact), np.array(self._normal)
        rows = np.arange(len(held))
        for side in (rows[~held], rows[held]):
            yield from self._duplicates("duplicate-exact", equal_runs(exact[side], side))
            first = side[np.unique(exact[side], return_index=True)[1]]
            first = np.sort(first[normal[first] != 0])
            yield from self._duplicates("duplicate-normalised", equal_runs(normal[first], first))
        yield from self._conflicts(rows[~held])
        leaked = np.zeros(len(rows), bool)
        for code, keys in (("leak-exact", exact), ("leak-normalised", normal), ("leak-prompt", np.array(self._prompt))):
            yield from self._leaks(code, keys, held & ~leaked & (keys != 0), rows[~held], leaked)
        yield from self._near(self._firsts(normal, held), held, leaked)
        for row, source, share in overlaps(self._spill, held, leaked):
            yield self._leak(
                "leak-answer", row, source, f"{share:.0%} of the answer stands word for word in learnt answers"
            )
        self._spill.close()

    def _firsts(self, normal: Hashes, held: npt.NDArray[np.bool_]) -> Numbers:
        """Gives one row of each text, a learnt one where there is any."""
        order = np.argsort(held, kind="stable")
        first = order[np.unique(normal[order], return_index=True)[1]]
        return np.sort(first[normal[first] != 0])

    def _duplicates(self, code: str, groups: Iterable[Numbers]) -> Iterator[Finding]:
        how = {"duplicate-exact": "word for word", "duplicate-normalised": "but for case, spaces and punctuation"}[code]
        for group in sorted(groups, key=lambda group: int(group[0])):
            yield self._group(code, group.tolist(), f"the row stands there {len(group)} times, {how}")

    def _conflicts(self, learnt: Numbers) -> Iterator[Finding]:
        """Tells of prompts that are answered in several ways."""
        prompt, normal = np.array(self._prompt), np.array(self._normal)
        asked = learnt[prompt[learnt] != 0]
        asked = asked[np.sort(np.unique(normal[asked], return_index=True)[1])]
        for group in sorted(equal_runs(prompt[asked], asked), key=lambda group: int(group[0])):
            what = f"the prompt has {len(group)} different answers"
            why = f"the model learns a mixture of them; the others: {self._named(group[1:].tolist())}"
            fix = "keep the right answer, or say in the prompt what tells them apart"
            yield self._told("prompt-conflict", int(group[0]), what, why, fix, group[1:].tolist())

    def _leaks(
        self, code: str, keys: Hashes, asked: npt.NDArray[np.bool_], learnt: Numbers, leaked: npt.NDArray[np.bool_]
    ) -> Iterator[Finding]:
        """Tells of held-out rows whose key a learnt row has, and marks them."""
        order = learnt[np.argsort(keys[learnt], kind="stable")]
        ordered = keys[order]
        for row in np.flatnonzero(asked & np.isin(keys, ordered)).tolist():
            leaked[row] = True
            source = int(order[np.searchsorted(ordered, keys[row])])
            yield self._leak(code, row, source, f"it is learnt in {self.places[source]}")

    def _near(self, rows: Numbers, held: npt.NDArray[np.bool_], leaked: npt.NDArray[np.bool_]) -> Iterator[Finding]:
        """Tells of rows that are nearly the same: groups on one side, and held-out rows that have learnt relatives."""
        banded = np.concatenate(self._bands)[rows] if self._bands else np.empty((0, BANDS), np.uint32)
        for members in gather(banded, rows, self._same).values():
            learnt = [row for row in members if not held[row]]
            tested = [row for row in members if held[row]]
            for side in (learnt, tested):
                if len(side) > 1:
                    index = self._spill.jaccard(side[0], side[1])[0]
                    yield self._group("duplicate-near", side, f"{len(side)} rows are nearly the same", index)
            for row in tested:
                index, source = max(((self._spill.jaccard(row, other)[0], other) for other in learnt), default=(0, 0))
                if learnt and not leaked[row] and self._same(source, row):
                    leaked[row] = True
                    yield self._leak(
                        "leak-near", row, source, f"{_index(index)} {self.places[source]}, which is learnt"
                    )

    def _same(self, one: int, other: int) -> bool:
        if self._records[one] and self._records[one] == self._records[other]:
            return False  # several questions about one passage
        index, shingles = self._spill.jaccard(one, other)
        return index >= float(np.interp(shingles, (SHORT, LONG), (NEAR, LONG_NEAR)))

    def _group(self, code: str, group: Sequence[int], what: str, index: float = 0.0) -> Finding:
        others = group[1:]
        why = f"{_index(index)} {self._named(others)}" if index else f"again in {self._named(others)}"
        return self._told(code, group[0], what, why, self._without([self.places[row] for row in others]), others)

    def _leak(self, code: str, row: int, source: int, why: str) -> Finding:
        what = {
            "leak-prompt": "the held-out prompt is learnt, with another answer",
            "leak-near": "the held-out row is nearly the same as a learnt one",
            "leak-answer": "a long stretch of the held-out answer is learnt",
        }.get(code, "the held-out row is learnt")
        why = f"{why}: the held-out loss flatters"
        return self._told(code, row, what, why, self._without([self.places[row]]), [source])

    def _told(self, code: str, row: int, what: str, why: str, fix: str, others: Sequence[int]) -> Finding:
        places = tuple(self.places[other] for other in others)
        return Finding(code, "warning", self.places[row], "", what, why, fix, self._spill.snippet(row), places)

    def _named(self, rows: Sequence[int]) -> str:
        told = ", ".join(self.places[row] for row in rows[:NAMED])
        return told + (f" and {len(rows) - NAMED:,} more" if len(rows) > NAMED else "")

    def _without(self, places: Sequence[str]) -> str:
        """Writes the command that leaves lines out of a file of JSON Lines; of other files it says what to do."""
        files = {place.rpartition(":")[0] for place in places}
        lines = [place.rpartition(":")[2] for place in places]
        (file, *more) = files
        if more or not file.endswith(".jsonl") or len(lines) > 2 * NAMED or not all(map(str.isdecimal, lines)):
            return "keep one of them" if len(places) > 1 else f"remove {places[0]}"
        told = shlex.quote(";".join(f"{line}d" for line in lines))
        return f"sed {told} {shlex.quote(file)} > {shlex.quote(file.removesuffix('.jsonl') + '.kept.jsonl')}"


def _index(index: float) -> str:
    return f"{index:.0%} of all shingles are common with"


def _key(words: Sequence[str]) -> int:
    """Hashes units into 64 bits that are never 0."""
    told = " ".join(words).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(told, digest_size=8).digest(), "big") | 1

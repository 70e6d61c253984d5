"""Examples that lie in stores and are made when they are asked for: as many as a disk holds."""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, overload

from finetune.data.filling import Reading
from finetune.data.rendering import Example
from finetune.data.store import Store

Stores = Sequence[tuple[Store, Reading]]


class Examples(Sequence[Example]):
    """Chosen examples of some stores, in an order, each whole or a stretch of it."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self._which, self._number = array("I"), array("Q")
        self._start, self._stop = array("I"), array("I")

    def choose(self, which: int, number: int, start: int, stop: int) -> None:
        """Adds tokens start to stop of an example."""
        self._which.append(which)
        self._number.append(number)
        self._start.append(start)
        self._stop.append(stop)

    def __len__(self) -> int:
        return len(self._number)

    @overload
    def __getitem__(self, i: int) -> Example: ...
    @overload
    def __getitem__(self, i: slice) -> list[Example]: ...
    def __getitem__(self, i: int | slice) -> Example | list[Example]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        store, reading = self.stores[self._which[i]]
        begin, end = store.span(self._number[i])
        cut = (
            store.parts["ids.u32"][begin + self._stop[i] : end].tolist()
            if not self._start[i] and self.is_cut(i)
            else ()
        )
        begin, end = begin + self._start[i], begin + self._stop[i]
        ids: list[int] = store.parts["ids.u32"][begin:end].tolist()
        learnt = list(map(bool, store.parts["learnt.u8"][begin:end]))
        return Example(ids, learnt, reading.place(store.line(store.row_of(self._number[i]))), cut)

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_same, self, other))

    __hash__ = None  # type: ignore[assignment]  # as a list

    def __add__(self, other: Sequence[Example]) -> list[Example]:
        return [*self, *other]

    def is_cut(self, i: int) -> bool:
        """Tells whether the end of an example is missing, and no other has it."""
        begin, end = self.stores[self._which[i]][0].span(self._number[i])
        following = i + 1 < len(self) and self._number[i + 1] == self._number[i] and self._start[i + 1] > 0
        return self._stop[i] < end - begin and not following

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example, without reading any."""
        return [stop - start for start, stop in zip(self._start, self._stop, strict=True)]

    def place(self, i: int) -> str:
        """Gives `file:line` of the row that an example came from, without reading it."""
        store, reading = self.stores[self._which[i]]
        return reading.place(store.line(store.row_of(self._number[i])))

    def learnt(self, i: int) -> int:
        """Counts the tokens of an example that are learnt."""
        store = self.stores[self._which[i]][0]
        begin, end = store.span(self._number[i])
        if self._stop[i] - self._start[i] == end - begin:
            return store.learnt_of(self._number[i])
        return sum(store.parts["learnt.u8"][begin + self._start[i] : begin + self._stop[i]])

    def source(self, i: int) -> int:
        """Gives the number of the store that an example lies in."""
        return self._which[i]

    def digest(self, into: Any) -> None:
        """Adds the exact ids and masks, in order, to a hash."""
        for which, number, start, stop in zip(self._which, self._number, self._start, self._stop, strict=True):
            parts = self.stores[which][0].parts
            begin, _ = self.stores[which][0].span(number)
            into.update(struct.pack("<I", stop - start))
            into.update(parts["ids.u32"][begin + start : begin + stop])
            into.update(parts["learnt.u8"][begin + start : begin + stop])


def lengths_of(examples: Sequence[Example]) -> list[int]:
    """Gives the tokens of each example, without reading those that lie in stores."""
    return examples.lengths if isinstance(examples, Examples) else [len(example) for example in examples]


def sha256(*sides: Sequence[Example]) -> str:
    """Identifies the exact ids and masks of what is learnt and what is held out."""
    digest = hashlib.sha256()
    for side in sides:
        if isinstance(side, Examples):
            side.digest(digest)
            continue
        for example in side:
            digest.update(struct.pack(f"<I{len(example)}I", len(example), *example.ids))
            digest.update(bytes(example.learnt))
    digest.update(struct.pack("<I", len(sides[0])))
    return digest.hexdigest()


def _same(one: Example, other: Example) -> bool:
    return (one.ids, one.learnt, one.place) == (other.ids, other.learnt, other.place)

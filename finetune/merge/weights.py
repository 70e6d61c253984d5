"""The weights of a text model as they lie in a folder, read a few rows at a time, in float32."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from finetune.architecture import read_architecture
from finetune.layout import match
from finetune.model.roundtrip import CPU, Pieces, Quantised, restored, restored_experts
from finetune.model.streaming import read_whole, stream
from finetune.shape import is_text
from finetune.shards import Stored, list_tensors, shards

BLOCK = 2**20
"""Numbers of a piece in float32: what stays in a processor's cache while it is changed and rounded."""


class Weights:
    """Of one folder; nothing of it is held."""

    def __init__(self, folder: Path, quantised: Mapping[str, Quantised] | None = None) -> None:
        """Finds every weight of the text model.

        Args:
            folder: of the base, or of what was merged.
            quantised: weights that are read as their 4 bits restore them, by their names in the text-only class.

        Raises:
            ArtifactError: a shard is damaged, or the shards are not those of the config.
        """
        self.folder, self.quantised = folder, quantised or {}
        self.parameters = read_architecture(folder).parameters()
        self.tensors = list_tensors(shards(folder))
        texts = [tensor for tensor in self.tensors if is_text(tensor.name)]
        self.parts = match(folder, texts, self.parameters)
        self.stored: dict[str, list[Stored]] = defaultdict(list)
        for tensor, part in sorted(self.parts.items(), key=lambda pair: pair[1].first):
            self.stored[part.name].append(tensor)

    @property
    def head(self) -> str:
        """Names the parameter that gives logits; of a tied one it is the embedding."""
        return "lm_head.weight" if "lm_head.weight" in self.parameters else "model.embed_tokens.weight"

    def rows(self, name: str) -> Pieces:
        """Reads a whole parameter from its first row to its last, as `pieces` does."""
        for tensor in self.stored[name]:
            yield from self.pieces(tensor)

    def pieces(self, tensor: Stored) -> Pieces:
        """Reads a tensor of a shard; the rows are numbered as those of its parameter.

        They may be overwritten, and the next ones do so: memory that is new each time costs more than all arithmetic.
        """
        buffer = torch.empty(max(1, BLOCK // tensor.width), tensor.width)
        for first, rows in self._pieces(tensor):
            for start in range(0, len(rows), len(buffer)):
                some = rows[start : start + len(buffer)]
                yield first + start, buffer[: len(some)].copy_(some)

    def _pieces(self, tensor: Stored) -> Pieces:
        part, width = self.parts[tensor], tensor.width
        quantised = self.quantised.get(part.name)
        if quantised is None:
            for first, rows in _read(tensor, 1):
                yield part.first + first, rows
        elif len(self.stored[part.name]) == 1:
            yield from restored(quantised, lambda together: _read(tensor, together))
        else:  # a matrix of one expert, which was quantised together with its sibling
            out = quantised.shape[1]
            expert, inside = divmod(part.first, out)
            whole = self.experts(part.name, expert, expert + 1).view(out, width)
            yield part.first, whole[inside : inside + tensor.num_rows]

    def experts(self, name: str, first: int, last: int) -> torch.Tensor:
        """Reads one weight of some routed experts, (last - first, out, in)."""
        _, out, width = self.parameters[name]
        found = self.stored[name]
        if len(found) == 1:
            start = found[0].start + first * out * found[0].row_bytes
            rows = read_whole(replace(found[0], shape=((last - first) * out, width), start=start))
        else:
            each = [t for t in found if first * out <= self.parts[t].first < last * out]
            rows = torch.cat([read_whole(tensor) for tensor in each])
        if (quantised := self.quantised.get(name)) is not None:
            return restored_experts(quantised, rows.view(-1, width)).float()
        return rows.view(-1, out, width).float()

    def whole(self, name: str) -> torch.Tensor:
        """Reads a small parameter at once, in its own shape."""
        (tensor,) = self.stored[name]
        return read_whole(tensor).float()

    def part(self, name: str, first: int, last: int) -> torch.Tensor:
        """Reads some rows of a parameter, in one piece or several, (last - first, in)."""
        found = []
        for tensor in self.stored[name]:
            begin = self.parts[tensor].first
            start, end = max(first, begin), min(last, begin + tensor.num_rows)
            if start < end:
                found.append(self.stretch(tensor, start - begin, end - start))
        return found[0] if len(found) == 1 else torch.cat(found)

    def stretch(self, tensor: Stored, first: int, count: int) -> torch.Tensor:
        """Reads some rows of a tensor as they lie on disk, (count, in)."""
        start = tensor.start + first * tensor.row_bytes
        return read_whole(replace(tensor, shape=(count, tensor.width), start=start)).float()

    def some_rows(self, name: str, wanted: torch.Tensor) -> torch.Tensor:
        """Reads a few rows of a parameter, (wanted, in), as an embedding is looked up."""
        return torch.cat([self.part(name, i, i + 1) for i in wanted.tolist()])


def _read(tensor: Stored, together: int) -> Pieces:
    for piece in stream([tensor], lambda _: CPU, together=lambda _: together):
        yield piece.first, piece.rows

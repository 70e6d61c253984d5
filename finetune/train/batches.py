"""From the examples of a step to tensors: padded side by side in micro-batches, or laid end to end in packs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import BatchSampler, Sampler

from finetune.data import Example
from finetune.data.batches import longest_first, packs, shuffled
from finetune.model.losses import IGNORED

FILLER = -1
"""The row of an example that teaches nothing: it keeps a process company that has none left."""


class Shuffled(Sampler[int]):
    """The examples of an epoch in their order, which the seed and the epoch's number alone decide."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Is told the number of the epoch, from 0, before its examples are asked for."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(shuffled(self.count, seed=self.seed, epoch=self.epoch))

    def __len__(self) -> int:
        return self.count


class StepBatches(BatchSampler):
    """Micro-batches of an epoch. Within each step like lengths lie together, and no example leaves its step."""

    def __init__(
        self, sampler: Sampler[int], lengths: Sequence[int], *, micro_batch: int, accumulation: int, processes: int = 1
    ) -> None:
        """Takes the order of the examples.

        Args:
            sampler: of the examples.
            lengths: of all examples, in tokens.
            micro_batch: examples of one.
            accumulation: micro-batches that a process takes in a step.
            processes: that take one in turns; where there are several the last micro-batches are filled up, so that
                each has as many.
        """
        super().__init__(sampler, micro_batch, drop_last=False)
        self.lengths, self.processes = lengths, processes
        self.step = micro_batch * accumulation * processes
        """Examples of one."""

    def __iter__(self) -> Iterator[list[int]]:
        rows = list(self.sampler)
        for first in range(0, len(rows), self.step):
            step = longest_first(rows[first : first + self.step], self.lengths)
            if self.processes > 1:  # the row after the examples is filler
                step += [len(self.lengths)] * (-len(step) % (self.batch_size * self.processes))
            for start in range(0, len(step), self.batch_size):
                yield step[start : start + self.batch_size]

    def __len__(self) -> int:
        together = self.batch_size * self.processes
        return -(-len(self.sampler) // together) * self.processes  # type: ignore[arg-type]


def collate(
    batch: Sequence[dict[str, Any]], *, examples: Sequence[Example], pad: int, pack: int = 0
) -> dict[str, torch.Tensor]:
    """Reads the examples of a micro-batch, or of a whole step that is packed, and makes tensors of them.

    Args:
        batch: rows, each under `index`.
        examples: of which they are the numbers.
        pad: the token that pads, and that filler is made of.
        pack: tokens of a pack; 0 pads instead.
    """
    rows = [row["index"] for row in batch]
    filler = Example([pad, pad], [False, False], "")
    taken = [filler if row == FILLER else examples[row] for row in rows]
    if pack:
        return _end_to_end(rows, taken, pack)
    longest = max(map(len, taken))
    # none of the filler's tokens counts
    lengths = torch.tensor([0 if row == FILLER else len(example) for row, example in zip(rows, taken, strict=True)])
    return {
        "input_ids": torch.tensor([[*e.ids, *[pad] * (longest - len(e))] for e in taken]),
        "labels": torch.tensor([_labels(e) + [IGNORED] * (longest - len(e)) for e in taken]),
        "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
        "index": torch.tensor(rows),
    }


def micro_batches(inputs: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Cuts a packed step into its packs; what is padded is a micro-batch already.

    A pack of several examples comes with what keeps them apart: positions that begin again, which transformers makes
    attention's mask of, the borders for the rule of Gated DeltaNet, and each token's example for its convolution.
    """
    if "packs" not in inputs:
        yield inputs
        return
    lengths, number = inputs["lengths"].tolist(), inputs["packs"].tolist()
    first = token = 0
    while first < len(lengths):
        last = first + number[first:].count(number[first])
        end = token + sum(lengths[first:last])
        micro = {name: inputs[name][:, token:end] for name in ("input_ids", "labels", "attention_mask")}
        micro["index"] = inputs["index"][first:last]
        if last - first > 1:
            micro |= apart(lengths[first:last], micro["input_ids"].device)
        yield micro
        first, token = last, end


def apart(lengths: Sequence[int], device: torch.device) -> dict[str, torch.Tensor]:
    """Says where examples that lie end to end begin and end, in the words of transformers' models."""
    sizes = torch.tensor(lengths)
    numbers = torch.arange(len(lengths)).repeat_interleave(sizes)
    borders = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))  # (examples + 1,)
    positions = torch.arange(len(numbers)) - borders[numbers]
    return {
        "position_ids": positions[None].to(device),
        "cu_seq_lens_q": borders.int().to(device),
        "seq_idx": numbers[None].int().to(device),
    }


def borders_in(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gives what keeps the examples of a micro-batch apart; nothing if they lie side by side."""
    return {name: inputs[name] for name in ("position_ids", "cu_seq_lens_q", "seq_idx") if name in inputs}


def _end_to_end(rows: Sequence[int], taken: Sequence[Example], limit: int) -> dict[str, torch.Tensor]:
    """Lays a step's examples end to end, pack after pack; `packs` tells each one's pack and `lengths` its tokens."""
    laid = packs([len(example) for example in taken], limit)
    order = [place for pack in laid for place in pack]
    ids = [token for place in order for token in taken[place].ids]
    labels = [label for place in order for label in _labels(taken[place])]
    return {
        "input_ids": torch.tensor([ids]),
        "labels": torch.tensor([labels]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.int64),
        "index": torch.tensor([rows[place] for place in order]),
        "lengths": torch.tensor([len(taken[place]) for place in order]),
        "packs": torch.tensor([number for number, pack in enumerate(laid) for _ in pack]),
    }


def _labels(example: Example) -> list[int]:
    """The ids that are learnt. The first never is: nothing comes before it, or another example does."""
    assert not example.learnt[0], example.place
    return [i if learnt else IGNORED for i, learnt in zip(example.ids, example.learnt, strict=True)]

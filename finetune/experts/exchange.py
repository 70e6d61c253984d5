"""Processes that share the experts of every layer, and the two ways on which tokens travel between them.

To all (`to_all.py`): each process gets every token. To owners (`to_owners.py`): a token goes only to the processes that
hold one of its experts, once to each. Of E processes and k experts a token the first sends E - 1 rows a token and the
second (E - 1) (1 - (1 - 1/E)^k) where routers choose evenly: for k = 8 the share is 1.0, 0.90, 0.66, 0.40 and 0.22 at
E = 2, 4, 8, 16 and 32. The second has a message for each pair of processes and waits for the device once more, so it is
taken where there are more processes than experts of a token.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import distributed

from finetune.experts.gathered import Gathered
from finetune.experts.to_all import ToAll
from finetune.experts.to_owners import ToOwners


class Way(Protocol):
    """How tokens get to the processes that hold their experts, and the answers back."""

    def gather(self, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, held: int) -> Gathered:
        """Gives the tokens that this process works on.

        Args:
            hidden: (tokens, width) of this process.
            index: (tokens, chosen) experts.
            weights: (tokens, chosen).
            held: experts that each process holds.
        """
        ...

    def gather_again(self, hidden: torch.Tensor, weights: torch.Tensor, before: Gathered) -> Gathered:
        """Gives what `gather` gave before, without asking anybody; gradients flow as they do through it."""
        ...

    def scatter(self, shares: torch.Tensor, gathered: Gathered) -> torch.Tensor:
        """Adds up what all processes say of this one's tokens.

        Args:
            shares: of the answers for the tokens that were gathered, (rows, width).
            gathered: those tokens.

        Returns:
            (tokens, width).
        """
        ...

    def scatter_again(self, shares: torch.Tensor, gathered: Gathered) -> torch.Tensor:
        """Gives a tensor in the place of `scatter`'s, zeros that nobody reads: a sum keeps nothing for its backward."""
        ...


class Exchange:
    """A group of processes that share the experts of every layer."""

    def __init__(self, group: distributed.ProcessGroup) -> None:
        """Joins the group; call it in every process of it."""
        self.size, self.place = group.size(), group.rank()
        self.to_all, self.to_owners = ToAll(group), ToOwners(group)

    def way(self, chosen: int) -> Way:
        """Chooses the way for tokens that go to so many experts each."""
        return self.to_owners if self.size > chosen else self.to_all

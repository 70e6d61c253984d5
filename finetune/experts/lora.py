"""LoRA of one fused expert weight: for each expert its own A and B, applied to the rows that were routed to it.

The sum W + BA is never made. Its low-rank products are grouped as those of the frozen weights are.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from finetune.experts.products import trained_product
from finetune.experts.routing import Groups
from finetune.memory.mixture import padding


class ExpertLora(nn.Module):
    """Adapters of all experts of a layer, whichever of them this process holds the frozen weights of.

    An expert that lives in another process gets a gradient of zero here, and its gradient there; the mean that data
    parallelism takes anyway is then the right one. No expert needs a group of its own.
    """

    def __init__(
        self,
        experts: int,
        out: int,
        into: int,
        *,
        rank: int,
        scaling: float,
        dropout: float,
        device: torch.device | str,
    ) -> None:
        """Makes fresh adapters: A drawn as PEFT draws it, B zero.

        Args:
            experts: of the whole layer.
            out: outputs of one expert's weight.
            into: its inputs.
            rank: of each expert's adapter.
            scaling: what the adapter's output is multiplied by.
            dropout: share of the inputs that are dropped in training.
            device: where they lie, in float32.
        """
        super().__init__()
        self.rank, self.scaling, self.dropout = rank, scaling, dropout
        bound = 1 / math.sqrt(into)  # kaiming_uniform_ with a = sqrt(5). Source: PEFT 0.21, reset_lora_parameters
        drawn = torch.empty(experts, rank, into).uniform_(-bound, bound)  # on the CPU, so the same for every device
        self.lora_A = nn.Parameter(drawn.to(device))
        self.lora_B = nn.Parameter(torch.zeros(experts, out, rank, device=device))

    def forward(self, rows: torch.Tensor, groups: Groups, first: int) -> torch.Tensor:
        """Gives what the adapters add.

        Args:
            rows: sorted by expert, (rows, in).
            groups: of the experts that are held here.
            first: the first of those.

        Returns:
            (rows, out), in the rows' dtype.
        """
        held, pad = slice(first, first + len(groups.ends)), padding(self.rank, rows.dtype.itemsize)
        inward = functional.pad(self.lora_A[held].to(rows.dtype), (0, 0, 0, pad))
        outward = functional.pad(self.lora_B[held].to(rows.dtype), (0, pad))
        dropped = functional.dropout(rows, self.dropout, self.training)
        narrow = trained_product(dropped, inward, groups) * self.scaling  # here it is a copy of few numbers
        return trained_product(narrow, outward, groups)

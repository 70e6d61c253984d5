"""The routed experts of a layer: frozen weights, whole or in 4 bits, and their adapters, on one GPU or on several."""

from __future__ import annotations

import torch
from torch import nn

from finetune.experts.again import current_pass
from finetune.experts.exchange import Exchange
from finetune.experts.gathered import Gathered
from finetune.experts.lora import ExpertLora
from finetune.experts.products import Stack, frozen_product
from finetune.experts.routing import Groups, add_up, sort_rows, take
from finetune.experts.stacks import NF4Stack, PlainStack

GATE_UP, DOWN = "gate_up_proj", "down_proj"
WEIGHTS = (GATE_UP, DOWN)
"""The two fused weights of a layer's experts, as the published bases name them."""


class RoutedExperts(nn.Module):
    """Stands where transformers' experts stood, and is called as they were."""

    def __init__(
        self,
        *,
        num_experts: int,
        hidden: int,
        intermediate: int,
        activation: nn.Module,
        nf4: bool,
        dtype: torch.dtype,
        device: torch.device | str,
        exchange: Exchange | None = None,
    ) -> None:
        """Makes experts whose frozen weights are still to be filled.

        Args:
            num_experts: of the layer.
            hidden: width of the states.
            intermediate: width of one expert.
            activation: of the gate.
            nf4: whether weights are held in 4 bits.
            dtype: of the arithmetic.
            device: where everything lies.
            exchange: with the processes that hold the other experts; without one all are held here.
        """
        super().__init__()
        self.num_experts, self.activation, self.exchange = num_experts, activation, exchange
        self.num_held = num_experts // (exchange.size if exchange else 1)
        self.first = self.num_held * (exchange.place if exchange else 0)
        kind = NF4Stack if nf4 else PlainStack
        self.gate_up = kind(self.num_held, 2 * intermediate, hidden, dtype=dtype, device=device)
        self.down = kind(self.num_held, hidden, intermediate, dtype=dtype, device=device)
        self.gate_up_lora: ExpertLora | None = None
        self.down_lora: ExpertLora | None = None
        self.adapted = True
        """Whether the adapters take part."""
        self._gathered: Gathered | None = None

    @property
    def stacks(self) -> dict[str, NF4Stack | PlainStack]:
        """The frozen weights under their published names; of the experts that are held here."""
        return {GATE_UP: self.gate_up, DOWN: self.down}

    @property
    def adapters(self) -> dict[str, ExpertLora]:
        """The adapters under the names of their weights; of all experts."""
        both = {GATE_UP: self.gate_up_lora, DOWN: self.down_lora}
        return {name: lora for name, lora in both.items() if lora is not None}

    def add_adapters(self, *, rank: int, scaling: float, dropout: float) -> None:
        """Gives every expert fresh adapters on both of its weights."""

        def fresh(stack: NF4Stack | PlainStack) -> ExpertLora:
            made = ExpertLora(
                self.num_experts,
                stack.out_features,
                stack.in_features,
                rank=rank,
                scaling=scaling,
                dropout=dropout,
                device=stack.device,
            )
            return made.train(self.training)

        self.gate_up_lora, self.down_lora = fresh(self.gate_up), fresh(self.down)

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Sends each token to the experts that the router chose, and adds up what they say.

        Args:
            hidden_states: (tokens, hidden).
            top_k_index: (tokens, chosen) experts.
            top_k_weights: (tokens, chosen).

        Returns:
            (tokens, hidden).
        """
        if self.exchange is None:
            return self._here(hidden_states, top_k_index, top_k_weights)
        way = self.exchange.way(top_k_index.shape[1])
        if current_pass() == "again" and self._gathered is not None:
            gathered = way.gather_again(hidden_states, top_k_weights, self._gathered)
            self._gathered = None
            return way.scatter_again(self._here(gathered.hidden, gathered.index, gathered.weights), gathered)
        gathered = way.gather(hidden_states, top_k_index, top_k_weights, self.num_held)
        if current_pass() == "first":
            self._gathered = gathered.detached()
        return way.scatter(self._here(gathered.hidden, gathered.index, gathered.weights), gathered)

    def _here(self, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Adds up what the experts say that are held here; zero for a token of which none was chosen."""
        tokens, chosen = index.shape
        local = index - self.first
        elsewhere = (local < 0) | (local >= self.num_held)
        order, groups = sort_rows(local.masked_fill(elsewhere, self.num_held), self.num_held)
        order = order[: groups.bounds[-1]]
        rows = take(hidden, order, chosen)
        said = self._feed_forward(rows, weights.reshape(-1, 1)[order].to(rows.dtype), groups)
        return add_up(said, order, tokens, chosen)

    def _feed_forward(self, rows: torch.Tensor, weights: torch.Tensor, groups: Groups) -> torch.Tensor:
        """Weighs what goes into the last product, not what comes out: backward then keeps the narrower of both."""
        gate, up = self._linear(self.gate_up, self.gate_up_lora, rows, groups).chunk(2, dim=-1)
        inner = self.activation(gate) * up * weights
        return self._linear(self.down, self.down_lora, inner, groups)

    def _linear(self, stack: Stack, lora: ExpertLora | None, rows: torch.Tensor, groups: Groups) -> torch.Tensor:
        out = frozen_product(rows, stack, groups)
        return out if lora is None or not self.adapted else out.add_(lora(rows, groups, self.first))

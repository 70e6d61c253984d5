"""How far the answers of two models are apart, over the whole vocabulary, of which a few rows at a time are there."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Distance:
    """Of a model from the one that it should be, over some tokens."""

    max_difference: float
    """Of any logit."""
    mean_kl: float
    """Kullback-Leibler divergence of the distribution of the next token, in nats, mean over the tokens."""
    agreement: float
    """Share of the tokens whose likeliest next token is the same."""


class _Softmax:
    """Sums over a vocabulary that comes in pieces, each relative to the largest logit so far, in float64."""

    def __init__(self, tokens: int) -> None:
        self.largest = torch.full((tokens,), -torch.inf, dtype=torch.float64)
        self.likeliest = torch.zeros(tokens, dtype=torch.int64)
        self.total = torch.zeros(tokens, dtype=torch.float64)
        """Sum of exp(logit - largest)."""
        self.weighed = torch.zeros(tokens, dtype=torch.float64)
        """The same, each term times its difference from the other model's logit."""

    def take(self, first: int, logits: torch.Tensor, differences: torch.Tensor) -> None:
        """Takes the logits of the next tokens of the vocabulary, (tokens, piece) float64."""
        most, at = logits.max(dim=1)
        self.likeliest = torch.where(most > self.largest, first + at, self.likeliest)
        largest = torch.maximum(self.largest, most)
        shrink, terms = (self.largest - largest).exp(), (logits - largest[:, None]).exp()
        self.total = self.total * shrink + terms.sum(dim=1)
        self.weighed = self.weighed * shrink + (terms * differences).sum(dim=1)
        self.largest = largest

    @property
    def log_total(self) -> torch.Tensor:
        """The logarithm of the softmax's denominator, (tokens,)."""
        return self.largest + self.total.log()


class Comparison:
    """Of the model that should be with one that is, over a vocabulary that comes in pieces."""

    def __init__(self, tokens: int) -> None:
        self._wanted, self._found = _Softmax(tokens), _Softmax(tokens)
        self._most = torch.zeros((), dtype=torch.float64)

    def take(self, first: int, wanted: torch.Tensor, found: torch.Tensor) -> None:
        """Takes the logits of both, (tokens, piece); `first` numbers the first token of the vocabulary."""
        p, q = wanted.double(), found.double()
        differences = p - q
        self._most = torch.maximum(self._most, differences.abs().max())
        self._wanted.take(first, p, differences)
        self._found.take(first, q, differences)

    def distance(self) -> Distance:
        """Tells how far they are apart, once the whole vocabulary was seen.

        KL(p || q) = sum of p (p's logit - q's logit), less the difference of both logarithms of the denominators.
        """
        p, q = self._wanted, self._found
        kl = p.weighed / p.total - (p.log_total - q.log_total)
        same = (p.likeliest == q.likeliest).double()
        return Distance(self._most.item(), kl.mean().item(), same.mean().item())

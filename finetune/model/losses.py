"""The loss of each token from the states before the head, without ever making tokens x vocabulary logits.

Rows of the head come a tile at a time and meet the tokens a chunk at a time; backward makes each product again. The
vocabulary is the outer loop, so a quantised tile is restored once a pass and a trained tile's gradient is summed in
float32 while it is small.

What is alive at the peak, beside the head itself; n tokens are learnt, H is the width, and c = min(n, CHUNK),
t = min(vocabulary, TILE). "dtype" is what the product is computed in: the autocast dtype, or that of the states.

    forward   states (n, H) dtype            only if the given states are of another dtype
              rows (t, H) dtype              only if the head is quantised or of another dtype
              product (c, t) dtype           only if dtype is not float32
              2 scratches (c, t) float32
              statistics                     48 bytes a learnt token
    backward  the given states (n, H)        saved, with the targets (n,) int64 and 2 x (n,) float32
              states, rows, product          as in forward
              1 scratch (c, t) float32
              gradient (n, H) float32        then copied to the states' dtype, when all above but it is gone
    trained   gradient (vocabulary, H)       in the head's dtype, and that of one tile, (t, H) float32
    On the CPU in 16 bits the product (c, t) and the rows (t, H) are copied to float32 too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from finetune.memory.loss import CHUNK, TILE
from finetune.model.head import QuantisedHead

IGNORED = -100
"""The label of a token that is not learnt, in transformers and PyTorch alike."""


@dataclass(frozen=True)
class TokenLosses:
    """Of n tokens."""

    nll: torch.Tensor
    """Negative log-likelihood in nats, (n,) float32; its gradient flows to the states and to a trained head."""
    entropy: torch.Tensor
    """Of the predicted distribution, in nats, (n,) float32; without a gradient."""
    is_top1: torch.Tensor
    """Whether the target is the likeliest token, the first of equals, (n,) bool."""


def causal_losses(hidden: torch.Tensor, labels: torch.Tensor, head: nn.Module) -> TokenLosses:
    """Gives the losses of the learnt tokens of a batch; the states before others never reach the head.

    Args:
        hidden: (batch, tokens, hidden), after the final norm.
        labels: (batch, tokens), not shifted; -100 where a token is not learnt.
        head: `lm_head`, plain or quantised.

    Returns:
        The losses in the order of the batch. If no token is learnt they are empty, and their sum still has a gradient:
        zero.
    """
    targets = labels[:, 1:].flatten()
    learnt = (targets != IGNORED).nonzero()[:, 0]  # (learnt,)
    rows, per_row = hidden.shape[0], hidden.shape[1] - 1
    places = learnt + torch.div(learnt, max(per_row, 1), rounding_mode="floor")  # a row has a state more than targets
    states = hidden.reshape(rows * hidden.shape[1], -1).index_select(0, places)  # (learnt, hidden)
    return token_losses(states, head, targets[learnt])


def token_losses(
    hidden: torch.Tensor, head: nn.Module, targets: torch.Tensor, *, chunk: int = CHUNK, tile: int = TILE
) -> TokenLosses:
    """Gives the losses of tokens from the states that predict them.

    Args:
        hidden: (n, hidden).
        head: an `nn.Linear` without bias, frozen or trained, or a `QuantisedHead`.
        targets: (n,), ids.
        chunk: tokens that meet a tile at a time.
        tile: rows of a plain head's tile; a quantised one has its own.

    Raises:
        TypeError: the head is of another kind, such as a layer that carries an adapter.
    """
    weight = None
    if type(head) is nn.Linear and "bias" not in dict(head.named_parameters()):  # subclasses hold packed weights
        weight = head.weight
    elif not isinstance(head, QuantisedHead):
        raise TypeError(f"no loss can be taken through a head of {type(head).__name__}")
    given = cast(tuple[torch.Tensor, ...], _TiledLosses.apply(hidden, weight, targets, head, chunk, tile))
    return TokenLosses(*given)


class _TiledLosses(torch.autograd.Function):
    """Two passes over the head: forward gathers each token's statistics, backward makes the products again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor | None,
        targets: torch.Tensor,
        head: nn.Module,
        chunk: int,
        tile: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        kind = hidden.device.type
        autocast = torch.is_autocast_enabled(kind)
        ctx.dtype = torch.get_autocast_dtype(kind) if autocast else hidden.dtype
        ctx.head, ctx.chunk, ctx.tile = head, chunk, tile
        with torch.autocast(kind, enabled=False):
            log_sum, target_logit, entropy, best_id = _statistics(
                hidden.to(ctx.dtype), _tiles(head, weight, ctx.dtype, tile), targets, chunk, _width(head, tile)
            )
        ctx.save_for_backward(hidden, weight, targets, log_sum)
        is_top1 = best_id == targets
        ctx.mark_non_differentiable(entropy, is_top1)
        return log_sum - target_logit, entropy, is_top1

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_nll: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets, log_sum = ctx.saved_tensors
        with torch.autocast(hidden.device.type, enabled=False):
            grad_hidden, grad_weight = _gradients(
                hidden.to(ctx.dtype),
                _tiles(ctx.head, weight, ctx.dtype, ctx.tile),
                targets,
                log_sum,
                grad_nll.float(),
                ctx.chunk,
                _width(ctx.head, ctx.tile),
                torch.zeros_like(weight) if ctx.needs_input_grad[1] else None,
            )
        return grad_hidden.to(hidden.dtype), grad_weight, None, None, None, None


def _statistics(
    states: torch.Tensor,
    tiles: Iterator[tuple[int, torch.Tensor]],
    targets: torch.Tensor,
    chunk: int,
    width: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gathers, of each token: the log of the sum of exponentials, the target's logit, the entropy, the likeliest id.

    Maximum, sum and weighted sum are kept online: whenever the maximum m rises by d, sum and weighted sum are
    brought to the new one. Entropy = log(sum) - weighted / sum, with weighted = sum of exp(z - m) * (z - m).
    """
    n = len(states)
    top = torch.full((n,), torch.finfo(torch.float32).min, device=states.device)
    total, weighted, target_logit = torch.zeros(3, n, device=states.device)
    best_id = torch.zeros(n, dtype=torch.int64, device=states.device)
    product = _Product(min(n, chunk), width, states)
    spare = torch.empty_like(product.scratch)
    for start, rows in tiles if n else ():
        for first in range(0, n, chunk):
            here = slice(first, first + chunk)
            z = product.of(states[here], rows)  # (chunk, tile), float32
            best, place = z.max(dim=1)
            local, inside = _local(targets[here], start, len(rows))
            torch.where(inside, z.gather(1, local)[:, 0], target_logit[here], out=target_logit[here])
            torch.where(best > top[here], place + start, best_id[here], out=best_id[here])
            risen = torch.maximum(best, top[here])
            rise = risen - top[here]
            z -= risen[:, None]
            e = torch.exp(z, out=_view(spare, *z.shape))
            kept = torch.exp(-rise)
            weighted[here] = kept * (weighted[here] - rise * total[here])
            total[here] = kept * total[here] + e.sum(dim=1)
            weighted[here] += e.mul_(z).sum(dim=1)
            top[here] = risen
    log_total = total.log()
    return top + log_total, target_logit, log_total - weighted / total, best_id


def _gradients(
    states: torch.Tensor,
    tiles: Iterator[tuple[int, torch.Tensor]],
    targets: torch.Tensor,
    log_sum: torch.Tensor,
    grad_nll: torch.Tensor,
    chunk: int,
    width: int,
    grad_weight: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gives the gradient of the states, (n, hidden) float32, and fills that of a trained head."""
    n = len(states)
    grad = torch.zeros(states.shape, dtype=torch.float32, device=states.device)
    product = _Product(min(n, chunk), width, states)
    summed = None if grad_weight is None else torch.empty(width, grad.shape[1], device=grad.device)
    for start, rows in tiles if n else ():
        of_rows = None if summed is None else summed[: len(rows)].zero_()
        for first in range(0, n, chunk):
            here = slice(first, first + chunk)
            p = product.of(states[here], rows)  # (chunk, tile), float32: logits, then probabilities, then gradient
            p.sub_(log_sum[here, None]).exp_()
            local, inside = _local(targets[here], start, len(rows))
            p.scatter_add_(1, local, -inside[:, None].float())
            p.mul_(grad_nll[here, None])
            rounded = product.rounded(p)
            _add_product(grad[here], rounded, rows)
            if of_rows is not None:
                _add_product(of_rows, rounded.T, states[here])
        if grad_weight is not None and of_rows is not None:
            grad_weight[start : start + len(rows)] = of_rows
    return grad, grad_weight


class _Product:
    """States times rows of the head, rounded to the compute dtype as a plain head's logits are, in two buffers."""

    def __init__(self, tokens: int, width: int, states: torch.Tensor) -> None:
        self.scratch = torch.empty(tokens * width, dtype=torch.float32, device=states.device)
        same = states.dtype == torch.float32
        self.raw = self.scratch if same else torch.empty(tokens * width, dtype=states.dtype, device=states.device)

    def of(self, states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Gives logits in float32, (states, rows), which the next call overwrites."""
        raw = torch.mm(states, rows.T, out=_view(self.raw, len(states), len(rows)))
        return raw if self.raw is self.scratch else _view(self.scratch, *raw.shape).copy_(raw)

    def rounded(self, values: torch.Tensor) -> torch.Tensor:
        """Gives what lies in the float32 buffer in the compute dtype."""
        return values if self.raw is self.scratch else _view(self.raw, *values.shape).copy_(values)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Adds left @ right to a float32 total without rounding the product on the way.

    Rounded to bfloat16 tile by tile, the errors of 30 tiles would add up where a plain head rounds once.
    """
    if left.dtype == torch.float32:
        total.addmm_(left, right)
    elif total.device.type == "cuda":
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(left.float(), right.float())


def _tiles(
    head: nn.Module, weight: torch.Tensor | None, dtype: torch.dtype, tile: int
) -> Iterator[tuple[int, torch.Tensor]]:
    if isinstance(head, QuantisedHead):
        yield from head.tiles(dtype)
    elif weight is not None:
        for start in range(0, len(weight), tile):
            yield start, weight[start : start + tile].to(dtype)


def _width(head: Any, tile: int) -> int:
    """Gives the most rows that a tile of the head has."""
    rows: int = head.out_features
    return min(head.tile if isinstance(head, QuantisedHead) else tile, rows)


def _view(flat: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Cuts a matrix from the start of a buffer, without gaps whatever its width."""
    return flat[: rows * columns].view(rows, columns)


def _local(targets: torch.Tensor, start: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gives the targets' columns in a tile, (n, 1), 0 for those outside of it, and which are inside, (n,)."""
    local = targets - start
    inside = (local >= 0) & (local < width)
    return torch.where(inside, local, 0)[:, None], inside

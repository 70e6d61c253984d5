"""A text model that holds no matrix: each is read from its folder whenever it multiplies, a few rows at a time.

All around it is transformers' own: its class is built without memory, and of its weights only norms, convolutions,
decays and routers are filled. Everything is float32, so that what is compared is weights and not arithmetic.
An adapter is never added to a weight here: it works beside it, by two low-rank products, as in training. What several
add together may have full rank; then a few of its rows at a time are made, and multiplied beside the weight's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from finetune.experts import ExpertLora, RoutedExperts
from finetune.experts.products import frozen_product
from finetune.experts.routing import Groups
from finetune.merge.changes import CPU, Changes, LowRank, OfExperts, Whole
from finetune.merge.deltas import Deltas
from finetune.merge.weights import Weights
from finetune.model.experts import experts_of, replace_experts
from finetune.model.skeleton import make_skeleton
from finetune.plan import Plan

EXPERTS_AT_ONCE = 4
"""That are whole in memory: of the 35B-A3B, 34 MB."""

Blur = Callable[[torch.Tensor], torch.Tensor]
"""Changes rows of a weight a little, to see what so little does."""


class LinearOnDisk(nn.Module):
    """Stands where a linear layer without bias stood."""

    def __init__(self, weights: Weights, name: str, adapter: Changes | None, blur: Blur | None) -> None:
        super().__init__()
        self.weights, self.name, self.adapter, self.blur = weights, name, adapter, blur

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Multiplies with the weight; an adapter's product is added, and DoRA's length is put right."""
        flat = given.reshape(-1, given.shape[-1])
        change = self.adapter.change(self.name, device=flat.device) if self.adapter else None
        out = flat.new_empty(len(flat), self.weights.parameters[self.name][0])
        lengthen = out.new_ones(out.shape[1])
        for first, rows in self.weights.rows(self.name):
            rows = (self.blur(rows) if self.blur else rows).to(flat.device)
            here = slice(first, first + len(rows))
            out[:, here] = flat @ rows.T
            if isinstance(change, Deltas):
                out[:, here] += flat @ change.rows(first, len(rows)).T
            if isinstance(change, LowRank) and change.magnitude is not None:
                lengthen[here] = change.lengthen(here, rows.add_(change.b[here] @ change.a, alpha=change.scale))
        assert not isinstance(change, Whole), f"{self.name} is trained whole"
        if isinstance(change, LowRank):
            out += (flat @ change.a.T) @ change.b.T * change.scale
        return (out * lengthen).view(*given.shape[:-1], -1)


class StackOnDisk(nn.Module):
    """One weight of all routed experts of a layer, of which a few at a time are read."""

    at_once = EXPERTS_AT_ONCE

    def __init__(self, weights: Weights, name: str, blur: Blur | None, device: torch.device) -> None:
        super().__init__()
        self.weights, self.name, self.blur, self.device = weights, name, blur, device
        _, self.out_features, self.in_features = weights.parameters[name]

    def whole(self, first: int, last: int) -> torch.Tensor:
        """Reads the weights of some experts, (last - first, out, in)."""
        found = self.weights.experts(self.name, first, last)
        return (self.blur(found) if self.blur else found).to(self.device)


class LoraOnDisk(nn.Module):
    """The adapters of one weight of all experts of a layer, read when they are applied."""

    def __init__(self, adapter: Changes, name: str, num_experts: int) -> None:
        super().__init__()
        self.adapter, self.name, self.num_experts = adapter, name, num_experts

    def forward(self, rows: torch.Tensor, groups: Groups, first: int) -> torch.Tensor:
        """Applies them as training does."""
        change = self.adapter.change(self.name, self.num_experts, rows.device)
        if isinstance(change, Deltas):
            assert first == 0, "all experts are here"
            return frozen_product(rows, StackOfDeltas(change), groups)
        assert isinstance(change, OfExperts)
        (experts, out, rank), into = change.b.shape, change.a.shape[2]
        lora = ExpertLora(experts, out, into, rank=rank, scaling=change.scale, dropout=0.0, device=rows.device)
        lora.lora_A.data, lora.lora_B.data = change.a, change.b
        return cast("torch.Tensor", lora(rows, groups, first))


class StackOfDeltas:
    """What is added to one weight of all routed experts of a layer, of which a few at a time are made."""

    at_once = EXPERTS_AT_ONCE

    def __init__(self, deltas: Deltas) -> None:
        self.deltas, self.out_features, self.in_features = deltas, deltas.out, deltas.width

    def whole(self, first: int, last: int) -> torch.Tensor:
        """Makes what is added to some experts, (last - first, out, in)."""
        found = self.deltas.rows(first * self.out_features, (last - first) * self.out_features)
        return found.view(last - first, self.out_features, self.in_features)


class EmbeddingOnDisk(nn.Module):
    """Stands where the embedding stood."""

    def __init__(self, weights: Weights, name: str, blur: Blur | None) -> None:
        super().__init__()
        self.weights, self.name, self.blur = weights, name, blur

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Looks rows up on disk."""
        wanted, places = torch.unique(ids, return_inverse=True)
        found = self.weights.some_rows(self.name, wanted)
        return (self.blur(found) if self.blur else found).to(ids.device)[places]


def model_on_disk(
    weights: Weights, plan: Plan, adapter: Changes | None, blur: Blur | None = None, device: torch.device = CPU
) -> Any:
    """Builds the text model of a folder, without its head; what it is called with is what transformers' is called with.

    Args:
        weights: of the folder.
        plan: of the run.
        adapter: that works beside the weights.
        blur: of the weights that the adapter changes; without an adapter, of every weight.
        device: where it computes. With fla installed that has to be a GPU, for its kernels run nowhere else.
    """
    causal = make_skeleton(weights.folder, replace(plan, quantisation=None, dtype="float32", device="cpu"))
    changed = adapter.place(weights.parameters) if adapter else set(weights.parameters if blur else ())
    replace_experts(causal, nf4=False, dtype=torch.float32, device=torch.device("meta"))
    for block, experts in experts_of(causal).items():
        own = (adapter, blur) if f"{block}.gate_up_proj" in changed else (None, None)
        _put_on_disk(experts, block, weights, *own, device)
    for block, module in list(causal.model.named_modules(prefix="model")):
        name = f"{block}.weight"
        if isinstance(module, nn.Linear):
            assert f"{block}.bias" not in weights.parameters, f"{block} has a bias"
            own = (adapter, blur) if name in changed else (None, None)
            causal.set_submodule(block, LinearOnDisk(weights, name, *own))
        elif isinstance(module, nn.Embedding):
            causal.set_submodule(block, EmbeddingOnDisk(weights, name, None if adapter else blur))
    model = causal.model
    for path in {name.rpartition(".")[0] for name, _ in model.named_non_persistent_buffers()}:
        rotary = model.get_submodule(path)  # its frequencies follow from the config
        model.set_submodule(path, type(rotary)(rotary.config).to(device))
    for name, parameter in list(model.named_parameters(prefix="model")):
        filled = weights.whole(name)
        if name in changed:
            if adapter:
                change = adapter.change(name)
                assert isinstance(change, Whole), f"{name} is no linear layer"
                filled = change.apply(0, filled)
            filled = blur(filled) if blur else filled
        block, _, leaf = name.rpartition(".")
        filled = filled.view(parameter.shape).to(device)
        setattr(causal.get_submodule(block), leaf, nn.Parameter(filled, requires_grad=False))
    return model.eval()


def _put_on_disk(
    experts: RoutedExperts,
    block: str,
    weights: Weights,
    adapter: Changes | None,
    blur: Blur | None,
    device: torch.device,
) -> None:
    """Puts the weights of a layer's experts, and their adapters, where they are read from disk."""
    for leaf in list(experts.stacks):
        name, part = f"{block}.{leaf}", leaf.removesuffix("_proj")
        setattr(experts, part, StackOnDisk(weights, name, blur, device))
        if adapter:
            setattr(experts, f"{part}_lora", LoraOnDisk(adapter, name, experts.num_experts))


@torch.no_grad()
def states(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Gives what goes into the head, (tokens, hidden).

    Args:
        model: as `model_on_disk` built it.
        ids: (tokens,), where the model computes.
    """
    return cast("torch.Tensor", model(input_ids=ids[None], use_cache=False).last_hidden_state[0])

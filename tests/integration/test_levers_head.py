"""The quantised head and the loss that never makes full logits, against PyTorch's own on full logits."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes import functional as bnb
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial.alive import Alive

from finetune.model import HostEmbedding, QuantisedHead, causal_losses, token_losses

TOKENS, VOCABULARY, HIDDEN = 300, 5000, 64
TILE, CHUNK = 512, 128
"""Neither divides what it cuts: the last tile and the last chunk are short."""
KINDS = ("plain", "int8", "nf4")
EXACT = 1e-5
"""Relative error in float32: the sums are the same, in another order."""


def linear(dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    head = nn.Linear(HIDDEN, VOCABULARY, bias=False, dtype=dtype)
    nn.init.normal_(head.weight, std=0.3)
    return head.requires_grad_(False)


def quantised(kind: Any, full: nn.Linear) -> QuantisedHead:
    head = QuantisedHead.empty(VOCABULARY, HIDDEN, kind=kind, dtype=full.weight.dtype, device="cpu", tile=TILE)
    for start in reversed(range(0, VOCABULARY, TILE)):
        head.fill(start, full.weight[start : start + TILE])
    return head


def heads(kind: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Linear]:
    """Gives a head and the plain one that has just its weights."""
    full = linear(dtype)
    if kind == "plain":
        return full, full
    head = quantised(kind, full)
    full.weight.copy_(torch.cat([rows.clone() for _, rows in head.tiles()]))
    return head, full


def asked(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gives states, targets, and a weight for each token's loss, as dividing by the learnt tokens of a step is one."""
    torch.manual_seed(1)
    hidden = torch.randn(TOKENS, HIDDEN, dtype=dtype, requires_grad=True)
    return hidden, torch.randint(VOCABULARY, (TOKENS,)), torch.rand(TOKENS)


def of(error: torch.Tensor, size: torch.Tensor) -> float:
    return float(error.detach().float().norm() / size.detach().float().norm())


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_full_logits(kind: str, within: Any) -> None:
    head, full = heads(kind)
    hidden, targets, weights = asked()
    told = token_losses(hidden, head, targets, chunk=CHUNK, tile=TILE)
    (told.nll * weights).sum().backward()
    plain = hidden.detach().requires_grad_()
    logits = full(plain)
    nll = functional.cross_entropy(logits, targets, reduction="none")
    (nll * weights).sum().backward()
    assert hidden.grad is not None
    assert plain.grad is not None
    within(f"the loss alone, head {kind}: losses", of(told.nll - nll, nll), EXACT)
    within(f"the loss alone, head {kind}: gradients", of(hidden.grad - plain.grad, plain.grad), EXACT)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    assert of(told.entropy - entropy, entropy) <= EXACT
    assert torch.equal(told.is_top1, logits.argmax(dim=1) == targets)
    assert {t.dtype for t in (told.nll, told.entropy)} == {torch.float32}
    assert not told.entropy.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_the_gradient_is_as_near_the_truth_as_that_of_full_logits(kind: str) -> None:
    head, full = heads(kind, torch.bfloat16)
    hidden, targets, _ = asked(torch.bfloat16)
    token_losses(hidden, head, targets, chunk=CHUNK, tile=TILE).nll.mean().backward()
    grads = []
    for dtype in (torch.bfloat16, torch.float32):
        plain = hidden.detach().to(dtype).requires_grad_()
        functional.cross_entropy((plain @ full.weight.to(dtype).T).float(), targets).backward()
        assert plain.grad is not None
        grads.append(plain.grad.float())
    assert hidden.grad is not None
    assert of(hidden.grad - grads[1], grads[1]) <= 1.1 * of(grads[0] - grads[1], grads[1])


def test_under_autocast_the_product_is_rounded_as_that_of_a_plain_head() -> None:
    head, full = heads("int8")
    hidden, targets, _ = asked()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        told = token_losses(hidden, head, targets, chunk=CHUNK)
        nll = functional.cross_entropy(full(hidden).float(), targets, reduction="none")
    assert told.nll.dtype == torch.float32
    assert of(told.nll - nll, nll) <= EXACT


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_trained_head_gets_its_gradient(dtype: torch.dtype) -> None:
    full = linear(dtype).requires_grad_(True)
    hidden, targets, weights = asked(dtype)
    (token_losses(hidden, full, targets, chunk=CHUNK, tile=TILE).nll * weights).sum().backward()
    assert full.weight.grad is not None
    assert full.weight.grad.dtype == dtype
    told = full.weight.grad.float()
    truth = full.weight.detach().float().requires_grad_()
    logits = hidden.detach().float() @ truth.T
    (functional.cross_entropy(logits, targets, reduction="none") * weights).sum().backward()
    assert truth.grad is not None
    assert of(told - truth.grad, truth.grad) <= (EXACT if dtype == torch.float32 else 2**-8), "one rounding to bfloat16"


def test_of_two_equal_logits_the_first_is_the_likeliest() -> None:
    head = nn.Linear(HIDDEN, 4 * TILE, bias=False)
    nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.weight[[10, TILE + 10, TILE + 11]] = 1.0
    hidden = torch.ones(4, HIDDEN)
    told = token_losses(hidden, head, torch.tensor([10, TILE + 10, TILE + 11, 0]), tile=TILE)
    assert told.is_top1.tolist() == [True, False, False, False]


class Sizes(TorchDispatchMode):
    """Notes the size of every tensor that an operation gives, and the rows that meet a tile of the head."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.products: list[torch.Size] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        if func.overloadpacket is torch.ops.aten.mm:
            self.products.append(out.shape)
        return out


@pytest.mark.parametrize("kind", [*KINDS, "trained"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_of_tokens_by_vocabulary_is_ever_made(kind: str, dtype: torch.dtype) -> None:
    head, _ = heads("plain" if kind == "trained" else kind, dtype)
    head.requires_grad_(kind == "trained")
    hidden, targets, _ = asked(dtype)
    with Sizes() as sizes:
        token_losses(hidden, head, targets, chunk=CHUNK, tile=TILE).nll.sum().backward()
    assert hidden.grad is not None, "backward was watched too"
    tiles = -(-VOCABULARY // TILE)
    assert len(sizes.products) == 2 * tiles * -(-TOKENS // CHUNK), "one product of a tile and a chunk a pass"
    bound = VOCABULARY * HIDDEN if kind == "trained" else max(CHUNK * TILE, TILE * HIDDEN, TOKENS * HIDDEN)
    assert sizes.largest <= bound < TOKENS * VOCABULARY / 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["plain", "int8", "trained"])
def test_at_the_peak_just_those_buffers_are_alive_that_the_page_of_the_loss_names(
    kind: str, dtype: torch.dtype
) -> None:
    """Within 1 %: scalars of a chunk are not named. NF4 copies each tile on the CPU, so it is not among them."""
    head, _ = heads("plain" if kind == "trained" else kind, dtype)
    head.requires_grad_(kind == "trained")
    hidden, targets, _ = asked(dtype)
    given = [hidden, targets, *head.parameters(), *head.buffers()]
    with Alive(not_counted=given) as count:
        loss = token_losses(hidden, head, targets, chunk=CHUNK, tile=TILE).nll.sum()
        forward, count.peak_bytes = count.peak_bytes, 0
        loss.backward()
    wide, halved = CHUNK * TILE, dtype == torch.bfloat16
    rows = TILE * HIDDEN * dtype.itemsize * (kind == "int8") + 2 * wide * halved
    assert forward == pytest.approx(rows + 2 * 4 * wide + 48 * TOKENS, rel=0.01)
    trained = (VOCABULARY * dtype.itemsize + TILE * 4) * HIDDEN * (kind == "trained")
    in_float32 = 4 * (wide + max(TILE, CHUNK) * HIDDEN) * halved  # on the CPU
    backward = rows + 4 * wide + (4 * HIDDEN + 12) * TOKENS + trained + in_float32
    assert count.peak_bytes == pytest.approx(backward, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_are_not_learnt_never_reach_the_head(kind: str) -> None:
    head, full = heads(kind)
    torch.manual_seed(2)
    labels = torch.randint(VOCABULARY, (3, 20))
    labels[torch.rand(3, 20) < 0.6] = -100
    hidden = torch.randn(3, 20, HIDDEN)
    learnt = torch.zeros(3, 20, dtype=torch.bool)  # does the state predict a learnt token?
    learnt[:, :-1] = labels[:, 1:] != -100
    hidden[~learnt] = torch.nan  # 0 * nan would show
    hidden.requires_grad_()
    with Sizes() as sizes:
        told = causal_losses(hidden, labels, head)
    assert {rows for rows, _ in sizes.products} == {len(told.nll)} == {int(learnt.sum())}
    told.nll.sum().backward()
    logits = full(hidden.detach())[learnt]
    nll = functional.cross_entropy(logits, labels[:, 1:][learnt[:, :-1]], reduction="none")
    assert of(told.nll - nll, nll) <= EXACT
    assert hidden.grad is not None
    assert bool((hidden.grad[~learnt] == 0).all())
    assert bool(hidden.grad[learnt].any())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 5), (2, 1)])
def test_a_batch_without_learnt_tokens_has_a_gradient_of_zero(kind: str, shape: tuple[int, int]) -> None:
    head, _ = heads(kind)
    hidden = torch.randn(*shape, HIDDEN, requires_grad=True)
    told = causal_losses(hidden, torch.full(shape, -100), head)
    assert told.nll.shape == told.entropy.shape == told.is_top1.shape == (0,)
    told.nll.sum().backward()
    assert hidden.grad is not None
    assert not hidden.grad.any()


def test_a_head_with_an_adapter_is_refused() -> None:
    with pytest.raises(TypeError, match="Sequential"):
        token_losses(torch.ones(1, HIDDEN), nn.Sequential(linear()), torch.zeros(1, dtype=torch.int64))


def test_the_head_of_the_27b_holds_just_the_bytes_that_are_promised() -> None:
    weights, tiles = 248_320 * 5_120, 31

    def held(kind: Any) -> int:
        head = QuantisedHead.empty(248_320, 5_120, kind=kind, dtype=torch.bfloat16, device="meta")
        return sum(buffer.nbytes for buffer in head.state_dict().values())

    assert held("int8") == weights + 4 * 248_320
    assert held("nf4") == 0.515869140625 * weights + 4 * tiles + 1_024


def test_a_tile_in_nf4_is_what_bitsandbytes_makes_of_it() -> None:
    full = linear()
    for start, rows in quantised("nf4", full).tiles():
        packed, state = bnb.quantize_4bit(
            full.weight[start : start + TILE].contiguous(), compress_statistics=True, quant_type="nf4"
        )
        assert torch.equal(rows, bnb.dequantize_4bit(packed, state))


def test_a_weight_in_int8_is_off_by_half_a_step_at_most_and_a_row_of_zeros_stays() -> None:
    full = linear()
    full.weight[7] = 0
    rows = torch.cat([rows.clone() for _, rows in quantised("int8", full).tiles()])
    step = full.weight.abs().amax(dim=1, keepdim=True) / 127
    assert bool(((rows - full.weight).abs() <= 0.5001 * step).all())
    assert not rows[7].any()


@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize(("start", "rows"), [(1, TILE), (0, TILE + 1), (VOCABULARY - VOCABULARY % TILE, TILE)])
def test_rows_that_are_not_whole_tiles_are_refused(kind: Any, start: int, rows: int) -> None:
    with pytest.raises(ValueError, match="not whole tiles"):
        quantised(kind, linear()).fill(start, torch.zeros(rows, HIDDEN))


@pytest.fixture
def moved() -> Iterator[nn.ModuleDict]:
    weight = torch.randn(10, HIDDEN, dtype=torch.bfloat16)
    model = nn.ModuleDict(
        {
            "embedding": HostEmbedding(weight),
            "int8": quantised("int8", linear()),
            "nf4": quantised("nf4", linear()),
            "norm": nn.LayerNorm(4),
        }
    )
    before = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    yield model
    after = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"norm.weight", "norm.bias"}
    assert model["embedding"].weight.data_ptr() == weight.data_ptr()


def test_a_cast_of_the_model_leaves_embedding_and_head_as_they_are(moved: nn.ModuleDict) -> None:
    state = {name: tensor.clone() for name, tensor in moved.state_dict().items() if "norm" not in name}
    moved.to(torch.float16)
    assert all(torch.equal(moved.state_dict()[name], tensor) for name, tensor in state.items())
    assert state.keys() == {
        "embedding.weight",
        "int8.quantised",
        "int8.scale",
        *(f"nf4.{part}" for part in ("quantised", "absmax", "absmax_scale", "offset", "absmax_code")),
    }


def test_a_move_of_the_model_takes_the_head_along_and_not_the_embedding(moved: nn.ModuleDict) -> None:
    moved.to("meta")
    devices = {name: tensor.device.type for name, tensor in moved.state_dict().items()}
    assert {name for name, device in devices.items() if device == "cpu"} == {"embedding.weight"}


def test_an_embedding_that_is_not_on_the_host_is_refused() -> None:
    with pytest.raises(ValueError, match="meta"):
        HostEmbedding(torch.empty(2, 2, device="meta"))


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_logits_of_a_quantised_head_are_for_generation(kind: str) -> None:
    head, full = heads(kind)
    hidden = torch.randn(2, 3, HIDDEN)
    assert of(head(hidden) - full(hidden), full(hidden)) <= EXACT
    with pytest.raises(RuntimeError, match="token_losses"):
        head(hidden.requires_grad_())

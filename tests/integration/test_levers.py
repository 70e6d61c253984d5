"""Every lever holds less memory and leaves the training as it was: loss and gradients against the plain stack.

The plain stack is transformers' own forward with full logits and its own loss, PEFT's adapters, no checkpointing; the
batch is padded, and not every token is learnt.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial.alive import Alive

from finetune.data import Example
from finetune.levers import Levers
from finetune.model import QuantisedHead, causal_losses, embed_on_host, recompute, score

BASES = ("pico_base", "pico_tied_base", "pico_moe_base")
PLAIN_HEAD = (
    Levers(),
    Levers(embeddings="host"),
    Levers(recompute="halves"),
    Levers(checkpoints="host"),
    Levers(checkpoints="host", recompute="halves"),
    Levers(embeddings="host", checkpoints="host", recompute="halves"),
)
QUANTISED_HEAD = tuple(
    levers
    for head in ("int8", "nf4")
    for levers in (
        Levers(head=head),
        Levers("host", head, "host", "halves"),
    )
)
FLOAT32 = 1e-5
"""Relative error of the loss, and of each gradient by its norm: only the loss adds its terms in another order."""
TARGETS = (
    *("in_proj_qkv", "in_proj_z", "out_proj"),
    *("q_proj", "k_proj", "v_proj", "o_proj"),
    *("gate_proj", "up_proj", "down_proj"),
)
LENGTHS = (70, 41, 23)
"""Longer than the 64 tokens of a chunk of Gated DeltaNet, and shorter."""


@dataclass(frozen=True)
class Learnt:
    """What one forward and backward give."""

    loss: float
    gradients: dict[str, torch.Tensor]

    def off(self, other: Learnt) -> float:
        """The largest relative difference of any of them from another's."""
        assert self.gradients.keys() == other.gradients.keys() != set()
        errors = [abs(self.loss - other.loss) / other.loss]
        for name, gradient in other.gradients.items():
            assert gradient.norm() > 0, name
            errors.append(float((self.gradients[name] - gradient).norm() / gradient.norm()))
        return max(errors)

    def only(self, wanted: Callable[[str], bool]) -> Learnt:
        return replace(self, gradients={name: g for name, g in self.gradients.items() if wanted(name)})


@pytest.fixture(params=BASES)
def base(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


@lru_cache
def batch(base: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    ids = torch.randint(0, 600, (len(LENGTHS), max(LENGTHS)))
    labels = ids.clone()
    labels[torch.rand(labels.shape) < 0.3] = -100
    labels[:, :10] = -100
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels.masked_fill(mask == 0, -100)}


def load(base: Path, dtype: torch.dtype, *, nf4: bool = False) -> Any:
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["lm_head", "in_proj_a", "in_proj_b", "shared_expert_gate"],
    )
    return AutoModelForCausalLM.from_pretrained(
        base, dtype=dtype, attn_implementation="sdpa", quantization_config=config if nf4 else None
    )


def quantise_head(model: Any, kind: Any) -> QuantisedHead:
    weight = model.lm_head.weight.detach()
    head = QuantisedHead.empty(*weight.shape, kind=kind, dtype=weight.dtype, device="cpu", tile=256)
    head.fill(0, weight)
    return head


def restored(head: QuantisedHead) -> nn.Linear:
    plain = nn.Linear(head.in_features, head.out_features, bias=False)
    plain.weight = nn.Parameter(torch.cat([rows.clone() for _, rows in head.tiles()]), requires_grad=False)
    return plain


def adapted(model: Any, dropout: float = 0.0) -> Any:
    torch.manual_seed(4)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_dropout=dropout, target_modules=list(TARGETS))
    model = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return model.train()


def levered(base: Path, dtype: torch.dtype, levers: Levers, *, nf4: bool = False, dropout: float = 0.0) -> Any:
    model = load(base, dtype, nf4=nf4)
    if levers.head != "full":
        model.lm_head = quantise_head(model, levers.head)
    if levers.embeddings == "host":
        embed_on_host(model)
    model = adapted(model, dropout)
    recompute(model, levers)
    return model


def plain_loss(model: Any, **given: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor = model(**given, use_cache=False).loss
    return loss


def levered_loss(model: Any, labels: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
    causal = model.get_base_model()
    hidden = causal.model(**given, use_cache=False).last_hidden_state
    return causal_losses(hidden, labels, causal.lm_head).nll.mean()


def learn(model: Any, loss: Callable[..., torch.Tensor], given: dict[str, torch.Tensor], *, bf16: bool) -> Learnt:
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        told = loss(model, **given)
    told.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}
    assert gradients.keys() == trained.keys()
    return Learnt(told.item(), gradients)


@lru_cache
def plain(base: Path, dtype: torch.dtype, head: str, *, nf4: bool = False) -> Learnt:
    """The plain stack; with a quantised head, on the weights that it restores."""
    model = load(base, dtype, nf4=nf4)
    if head != "full":
        model.lm_head = restored(quantise_head(model, head))
    return learn(adapted(model), plain_loss, batch(base), bf16=dtype == torch.bfloat16)


@pytest.mark.parametrize("levers", [*PLAIN_HEAD, *QUANTISED_HEAD], ids=str)
def test_in_float32_loss_and_gradients_are_those_of_the_plain_stack(base: Path, levers: Levers, within: Any) -> None:
    told = learn(levered(base, torch.float32, levers), levered_loss, batch(base), bf16=False)
    kind = "float32" if levers.head == "full" else f"float32, head in {levers.head}"
    within(f"levers: {kind}", told.off(plain(base, torch.float32, levers.head)), FLOAT32)


@pytest.mark.parametrize("levers", [PLAIN_HEAD[-1], QUANTISED_HEAD[1], QUANTISED_HEAD[3]], ids=str)
def test_in_bfloat16_they_are_no_further_from_the_plain_stack_than_that_is_from_float32(
    base: Path, levers: Levers, within: Any
) -> None:
    rounded = plain(base, torch.bfloat16, levers.head)
    noise = rounded.off(plain(base, torch.float32, levers.head))
    told = learn(levered(base, torch.bfloat16, levers), levered_loss, batch(base), bf16=True)
    within("levers: bfloat16, at most as plain bfloat16 from float32", told.off(rounded), noise)


@pytest.mark.parametrize("levers", [PLAIN_HEAD[-1], QUANTISED_HEAD[3]], ids=str)
def test_on_a_base_in_4_bits_they_are_those_of_the_plain_stack(base: Path, levers: Levers, within: Any) -> None:
    told = learn(levered(base, torch.float32, levers, nf4=True), levered_loss, batch(base), bf16=False)
    within("levers: base in NF4", told.off(plain(base, torch.float32, levers.head, nf4=True)), FLOAT32)


class Whole(nn.Module):
    """Stands where PEFT's wrapper stands, which full training has not."""

    def __init__(self, base: Path) -> None:
        super().__init__()
        self.causal = load(base, torch.float32).train().requires_grad_(True)

    def forward(self, **given: Any) -> Any:
        return self.causal(**given)

    def get_base_model(self) -> Any:
        return self.causal


def exact_loss(model: Any, labels: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
    """The plain loss, summed in float64."""
    logits = model(**given, use_cache=False).logits[:, :-1].double()
    return functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())


def is_decay(name: str) -> bool:
    """Tells the weights whose gradient is the difference of large sums: those of Gated DeltaNet's decay."""
    return name.endswith(("A_log", "dt_bias", "in_proj_a.weight"))


def test_full_training_has_the_same_gradients_head_and_embedding_included(base: Path, within: Any) -> None:
    """The decay's, a thousandth of the others in size, are off as the plain stack's are by summing its loss in float32.

    Both are draws of the same rounding, so a few times as far at most.
    """
    truth = learn(Whole(base), plain_loss, batch(base), bf16=False)
    noise = learn(Whole(base), exact_loss, batch(base), bf16=False).only(is_decay).off(truth.only(is_decay))
    model = Whole(base)
    recompute(model.causal, Levers(checkpoints="host", recompute="halves"))
    told = learn(model, levered_loss, batch(base), bf16=False)
    assert ("causal.lm_head.weight" in told.gradients) == ("tied" not in base.name)
    others, of_others = (each.only(lambda name: not is_decay(name)) for each in (told, truth))
    within("levers: all weights trained", others.off(of_others), FLOAT32)
    decay = told.only(is_decay).off(truth.only(is_decay))
    within("levers: the decay's own weights, of thrice the plain loss's distance from its float64", decay, 3 * noise)


def test_right_padding_needs_no_mask(base: Path) -> None:
    """Neither causal attention nor the recurrence looks right, so what stands behind the last token changes nothing."""
    given = batch(base)
    real = given["attention_mask"].bool()
    model = adapted(load(base, torch.float32))
    unmasked = {"input_ids": given["input_ids"], "labels": given["labels"]}
    states = [
        model.get_base_model().model(input_ids=given["input_ids"], attention_mask=mask).last_hidden_state.detach()[real]
        for mask in (given["attention_mask"], None)
    ]
    off = max(
        float((states[1] - states[0]).norm() / states[0].norm()),
        learn(model, plain_loss, unmasked, bf16=False).off(learn(model, plain_loss, given, bf16=False)),
    )
    assert off <= 1e-6


@pytest.mark.parametrize("recomputed", ["layer", "halves"])
def test_each_layers_router_is_heard_once_and_learns_from_its_own_loss(pico_moe_base: Path, recomputed: Any) -> None:
    def loss(model: Any, **given: torch.Tensor) -> torch.Tensor:
        out = model(**given, use_cache=False, output_router_logits=True)
        heard.append(out.router_logits)
        total: torch.Tensor = out.loss + out.aux_loss  # which already holds a thousandth of it
        return total

    heard: list[tuple[torch.Tensor, ...]] = []
    models = [adapted(load(pico_moe_base, torch.float32)) for _ in range(2)]
    recompute(models[1], Levers(recompute=recomputed, checkpoints="host"))
    for model in models:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("mlp.gate." in name or "lora" in name)
    truth, told = (learn(model, loss, batch(pico_moe_base), bf16=False) for model in models)
    assert told.off(truth) <= FLOAT32
    assert [len(layers) for layers in heard] == [4, 4]
    assert all(torch.equal(*pair) for pair in zip(*heard, strict=True))


def test_a_forward_in_halves_is_bit_for_bit_that_of_transformers(base: Path) -> None:
    model = load(base, torch.float32).train()
    given = {name: batch(base)[name] for name in ("input_ids", "attention_mask")}
    whole = model(**given, use_cache=False).logits
    recompute(model, Levers(recompute="halves"))
    assert torch.equal(model(**given, use_cache=False).logits, whole)


@pytest.mark.parametrize("levers", [Levers(), PLAIN_HEAD[-1], QUANTISED_HEAD[3]], ids=str)
def test_outside_of_training_levers_change_no_answer(base: Path, levers: Levers) -> None:
    full = load(base, torch.float32)
    if levers.head != "full":
        full.lm_head = restored(quantise_head(full, levers.head))
    prompt = batch(base)["input_ids"][:1, :12]
    asked = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    answers = [
        model.eval().generate(input_ids=prompt, use_cache=True, **asked).tolist()
        for model in (adapted(full), levered(base, torch.float32, levers))
    ]
    assert answers[0] == answers[1]


def test_in_training_mode_a_cache_is_refused(pico_base: Path) -> None:
    model = levered(pico_base, torch.float32, Levers(recompute="halves"))
    with pytest.raises(ValueError, match="use_cache=False"):
        model(**batch(pico_base), use_cache=True)


@pytest.mark.parametrize("head", ["full", "int8", "nf4"])
def test_scores_are_those_of_full_logits_from_wherever_the_embedding_lies(pico_base: Path, head: Any) -> None:
    levers = Levers("host", head, "host", "halves")
    given = batch(pico_base)
    examples = [
        Example(place=f"row:{i}", ids=ids[:length].tolist(), learnt=(labels[:length] != -100).tolist())
        for i, (ids, labels, length) in enumerate(zip(given["input_ids"], given["labels"], LENGTHS, strict=True))
    ]
    model = levered(pico_base, torch.float32, levers)
    told = score(model, examples)
    assert model.training
    assert sum(told.tokens) == int((given["labels"][:, 1:] != -100).sum())
    assert told.loss == pytest.approx(plain(pico_base, torch.float32, head).loss, rel=FLOAT32)


@pytest.mark.parametrize("recomputed", ["layer", "halves"])
def test_in_halves_the_feed_forward_is_over_before_the_mixer_is_recomputed(pico_base: Path, recomputed: Any) -> None:
    model = levered(pico_base, torch.float32, Levers(recompute=recomputed))
    layers = model.get_base_model().model.layers
    starts = [
        (start, i, half)
        for i, layer in enumerate(layers)
        for half, start in (("mixer", layer.input_layernorm), ("feed-forward", layer.post_attention_layernorm))
    ]
    events: list[tuple[int, str]] = []

    def note(i: int, told: str) -> Callable[..., None]:
        return lambda *_: events.append((i, told))

    def note_gradient(i: int, half: str) -> Callable[[nn.Module, tuple[torch.Tensor]], None]:
        def hook(_: nn.Module, args: tuple[torch.Tensor]) -> None:
            if args[0].requires_grad:
                args[0].register_hook(note(i, f"{half} done"))

        return hook

    handles = [start.register_forward_pre_hook(note_gradient(i, half)) for start, i, half in starts]
    loss = levered_loss(model, **batch(pico_base))
    for handle in handles:
        handle.remove()  # what is recomputed hangs on the same gradients
    for start, i, half in starts:
        start.register_forward_pre_hook(note(i, f"{half} again"))
    loss.backward()
    order = {
        "layer": ("mixer again", "feed-forward again", "feed-forward done", "mixer done"),
        "halves": ("feed-forward again", "feed-forward done", "mixer again", "mixer done"),
    }[recomputed]
    wanted = [(i, event) for i in reversed(range(len(layers))) for event in order]
    wanted.remove((0, "mixer done"))  # the embedding is frozen
    assert events == wanted


def test_in_halves_nothing_of_the_mixer_is_alive_while_the_feed_forward_has_its_backward(pico_base: Path) -> None:
    def alive(recomputed: Any) -> tuple[int, list[int]]:
        """Bytes before backward, and when the backward of each layer's feed-forward is done, the last layer first."""
        model = levered(pico_base, torch.float32, Levers(recompute=recomputed))
        learn(model, levered_loss, batch(pico_base), bf16=False)
        held: list[int] = []

        def note(_: nn.Module, args: tuple[torch.Tensor]) -> None:
            args[0].register_hook(lambda _: held.append(count.num_bytes))

        norms = [layer.post_attention_layernorm for layer in model.get_base_model().model.layers]
        handles = [norm.register_forward_pre_hook(note) for norm in norms]
        with Alive() as count:
            loss = levered_loss(model, **batch(pico_base))
            for handle in handles:
                handle.remove()
            inputs = count.num_bytes
            loss.backward()
        return inputs, held

    inputs, held = alive("halves")
    assert len(held) == 4
    assert max(held) < inputs, "not even all of the inputs are left"
    inputs, held = alive("layer")
    assert min(held[1:]) > 4 * inputs, "a recomputed mixer of Gated DeltaNet lies beside it"


@pytest.mark.parametrize("recomputed", ["layer", "halves"])
def test_after_forward_no_input_of_a_checkpoint_is_left_on_the_device(pico_base: Path, recomputed: Any) -> None:
    def alive(checkpoints: Any) -> list[bool]:
        model = levered(pico_base, torch.float32, Levers(checkpoints=checkpoints, recompute=recomputed))
        inputs: list[weakref.ref[torch.Tensor]] = []
        for layer in model.get_base_model().model.layers:
            starts = [layer, layer.post_attention_layernorm] if recomputed == "halves" else [layer]
            for start in starts:
                start.register_forward_pre_hook(lambda _, args: inputs.append(weakref.ref(args[0])))
        loss = levered_loss(model, **batch(pico_base))
        assert loss.requires_grad
        return [tensor() is not None for tensor in inputs]

    num_inputs = 8 if recomputed == "halves" else 4
    assert alive("device") == [True] * num_inputs
    assert alive("host") == [False] * num_inputs


def test_dropout_is_recomputed_bit_for_bit_from_the_host(base: Path) -> None:
    told = []
    for placed in ("device", "host"):
        model = levered(base, torch.float32, Levers(checkpoints=placed, recompute="halves"), dropout=0.2)
        torch.manual_seed(5)
        told.append(learn(model, levered_loss, batch(base), bf16=False))
    assert told[0].loss == told[1].loss
    assert all(torch.equal(told[0].gradients[name], told[1].gradients[name]) for name in told[0].gradients)


def test_dropout_is_the_same_a_layer_or_half_a_layer_at_a_time(pico_base: Path) -> None:
    told = []
    for recomputed in ("layer", "halves"):
        model = levered(pico_base, torch.float32, Levers(recompute=recomputed), dropout=0.2)
        torch.manual_seed(5)
        told.append(learn(model, levered_loss, batch(pico_base), bf16=False))
    assert told[0].loss == told[1].loss
    assert told[0].off(told[1]) <= FLOAT32

"""What a layer holds besides where its adapters are DoRA's, or where there are none and every weight is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from finetune.memory.widths import Widths


@dataclass(frozen=True)
class Moment:
    """One point of a layer's backward."""

    name: str
    token_bytes: int
    matrix: int = 0
    """Weights of the matrix that is dequantised just then, if the weights are in NF4."""
    once: int = 0
    """Bytes that do not grow with the tokens."""

    def bytes(self, tokens: int, *, e: int, nf4: bool) -> tuple[int, int]:
        """Gives the bytes of the tensors that grow with the tokens, and those of matrices made just then.

        A dequantised matrix comes with a float32 maximum for every block of 64 weights.
        """
        return tokens * self.token_bytes, self.once + nf4 * (self.matrix * e + self.matrix * 4 // 64)


@dataclass(frozen=True)
class Mixer:
    """The first half of a layer."""

    kind: str
    saved: int
    """Bytes a token that it keeps for its backward."""
    moments: Sequence[Moment]
    once: int = 0
    """Bytes that it keeps whatever the tokens."""


Halves = tuple[list[Mixer], list[Moment]]


def with_dropout(widths: Widths, e: int, mixers: list[Mixer], feed_forward: list[Moment]) -> Halves:
    """Adds each adapter's dropped copy of its input, with a mask of one byte a number; an output's comes later."""
    dropped = (e + 1) * widths.hidden
    inputs = {"attention": 3, "gated delta net": 2}  # of q, k and v, or of qkv and z
    return (
        [_grown(mixer, inputs[mixer.kind] * dropped) for mixer in mixers],
        [replace(moment, token_bytes=moment.token_bytes + 2 * dropped) for moment in feed_forward],
    )


def with_dora(widths: Widths, e: int, mixers: list[Mixer], feed_forward: list[Moment]) -> Halves:
    """Adds what PEFT's DoRA keeps: of every adapted layer the base's output and the adapter's, apart.

    It also takes the length of each row anew, from the adapter's product with an identity matrix that is as wide as the
    layer's input: in float32, and in the compute dtype. The widest is that of down_proj.

    Source: PEFT 0.21, tuners/lora/dora.py, DoraLinearLayer.forward.
    """
    hidden, wide = widths.hidden, widths.feed_forward
    norm, waiting = (4 + e) * hidden + 4, (2 * e + 8) * hidden  # four gradients of the output, until it is recomputed
    # all outputs of the mixer's adapted layers, those of its widest, and what its last one reads
    read = {
        "attention": (2 * widths.query + 2 * widths.key_value + hidden, 2 * widths.query, widths.query),
        "gated delta net": (2 * widths.key + 2 * widths.value + hidden, 2 * widths.key + widths.value, widths.value),
    }
    grown = []
    for mixer in mixers:
        outputs, widest, inner = read[mixer.kind]
        made, first = _grown(mixer, 2 * e * outputs), f"{mixer.kind}: DoRA"
        at_out = made.saved + waiting + e * hidden + e * widest
        found = [
            Moment(f"{first} of the output", at_out, 0, _identity(max(hidden, inner), hidden, e)),
            Moment(f"{first}'s gradients of the input", norm + 2 * e * hidden + (3 * e + 16) * widest),
        ]
        grown.append(replace(made, moments=[*made.moments, *found]))
    kept = 2 * e * (2 * wide + hidden)  # outputs of gate_proj, up_proj and down_proj
    if widths.num_experts:
        return grown, [replace(moment, token_bytes=moment.token_bytes + kept) for moment in feed_forward]
    at_down = norm + 8 * e * wide + 2 * e * hidden + waiting  # with the residual
    return grown, [
        Moment("feed-forward: DoRA of down_proj", at_down, 0, _identity(wide, hidden, e)),
        # seven tensors, and four in float32, because magnitudes are
        Moment("feed-forward: DoRA's gradients of up_proj", norm + e * hidden + (7 * e + 16) * wide),
    ]


def with_trained_weights(widths: Widths, e: int, mixers: list[Mixer], feed_forward: list[Moment]) -> Halves:
    """Adds what a trained weight keeps: its copy in the compute dtype, the input of a norm's factor, its gradient."""
    hidden, matrix = widths.hidden, widths.hidden * widths.feed_forward
    copy = e if e == 2 else 0
    weights = {
        "attention": hidden * (3 * widths.query + 2 * widths.key_value),
        "gated delta net": hidden * (2 * widths.key + 3 * widths.value + 2 * widths.value_heads),
    }
    normed = {
        "attention": 4 * (widths.query + widths.key_value),
        "gated delta net": 4 * widths.value + 4 * widths.value_heads,  # the product with a float32 factor is float32
    }
    grown = [_grown(mixer, 4 * hidden + normed[mixer.kind], copy * weights[mixer.kind]) for mixer in mixers]
    if widths.num_experts:
        return grown, [replace(m, token_bytes=m.token_bytes + 4 * hidden) for m in feed_forward]
    at_down, at_product = (moment.token_bytes + 4 * hidden for moment in feed_forward)
    return grown, [
        Moment(feed_forward[0].name, at_down, 0, (3 * copy + e) * matrix),
        Moment(
            "feed-forward: gradient of down_proj", at_down - e * widths.feed_forward, 0, (2 * copy + e + 4) * matrix
        ),
        Moment(feed_forward[1].name, at_product, 0, 2 * copy * matrix),
    ]


def _identity(width: int, hidden: int, e: int) -> int:
    """Bytes of the identity in float32, of its copy, and of the product's."""
    return width * width * (4 + (e if e == 2 else 0)) + e * width * hidden


def _grown(mixer: Mixer, num_bytes: int, once: int = 0) -> Mixer:
    """Lets a mixer keep more bytes a token, and hold some more at its moments."""
    moments = [
        replace(moment, token_bytes=moment.token_bytes + num_bytes, once=moment.once + once) for moment in mixer.moments
    ]
    return replace(mixer, saved=mixer.saved + num_bytes, once=mixer.once + once, moments=moments)

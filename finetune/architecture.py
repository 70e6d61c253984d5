"""What parameters a Qwen3.5 or Qwen3.6 has, from the numbers of its config.json alone.

A config that no model can be made of is refused here, key by key, before torch is ever imported.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import ArtifactError
from finetune.shards import read_json, refetch

DENSE: Mapping[str, int] = {
    "vocab_size": 248_320,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "max_position_embeddings": 32_768,
    "intermediate_size": 12_288,
}
"""The whole numbers of a dense text_config, and what transformers takes for those that are not in the file."""

MIXTURE: Mapping[str, int] = {
    **{key: value for key, value in DENSE.items() if key != "intermediate_size"},
    "hidden_size": 2048,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts": 256,
    "num_experts_per_tok": 8,
}
"""The same of a mixture of experts."""

NUMBERS = {"qwen3_5": DENSE, "qwen3_5_text": DENSE, "qwen3_5_moe": MIXTURE, "qwen3_5_moe_text": MIXTURE}
"""By model_type: of the whole model, or of its text model saved alone."""

GROUPED = (("num_attention_heads", "num_key_value_heads"), ("linear_num_value_heads", "linear_num_key_heads"))
"""Numbers of heads of which each of the second serves a whole number of the first."""

MOST_LAYERS = 1000
"""More than any has; a damaged number would be counted to for hours."""

LAYERS = ("linear_attention", "full_attention")
DTYPES = ("bfloat16", "float16", "float32", "float64")
ROPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional")
"""Ways to compute rotary positions; a base is published with the first."""


@dataclass(frozen=True)
class Architecture:
    """A config whose numbers make a model."""

    model_type: str
    numbers: Mapping[str, int]
    layer_types: tuple[str, ...]
    attention_bias: bool
    tied: bool
    """Whether the head shares the embedding's weight."""
    quantised_by: str
    """Who quantised the weights before us; empty for plain ones."""

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Lists the parameters of the text-only class and their shapes, as (out, in); of tied ones only the first.

        Source: transformers 5.23, modeling_qwen3_5.py and modeling_qwen3_5_moe.py.
        """
        hidden, vocabulary = self.numbers["hidden_size"], self.numbers["vocab_size"]
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
        for number, kind in enumerate(self.layer_types):
            layer = f"model.layers.{number}"
            mixer = self._attention() if kind == "full_attention" else self._linear_attention()
            found |= {f"{layer}.{name}": shape for name, shape in (*mixer, *self._feed_forward())}
            found[f"{layer}.input_layernorm.weight"] = found[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        found["model.norm.weight"] = (hidden,)
        return found if self.tied else found | {"lm_head.weight": (vocabulary, hidden)}

    def _attention(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        hidden, head = self.numbers["hidden_size"], self.numbers["head_dim"]
        query, key = self.numbers["num_attention_heads"] * head, self.numbers["num_key_value_heads"] * head
        for name, out in (("q", 2 * query), ("k", key), ("v", key)):  # a query comes with its gate
            yield f"self_attn.{name}_proj.weight", (out, hidden)
            if self.attention_bias:
                yield f"self_attn.{name}_proj.bias", (out,)
        yield "self_attn.o_proj.weight", (hidden, query)
        if self.attention_bias:
            yield "self_attn.o_proj.bias", (hidden,)
        yield "self_attn.q_norm.weight", (head,)
        yield "self_attn.k_norm.weight", (head,)

    def _linear_attention(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        hidden, heads = self.numbers["hidden_size"], self.numbers["linear_num_value_heads"]
        key = self.numbers["linear_num_key_heads"] * self.numbers["linear_key_head_dim"]
        value = heads * self.numbers["linear_value_head_dim"]
        yield "linear_attn.A_log", (heads,)
        yield "linear_attn.dt_bias", (heads,)
        yield "linear_attn.conv1d.weight", (2 * key + value, 1, self.numbers["linear_conv_kernel_dim"])
        yield "linear_attn.norm.weight", (self.numbers["linear_value_head_dim"],)
        for name, out in (("in_proj_qkv", 2 * key + value), ("in_proj_z", value), ("in_proj_b", heads)):
            yield f"linear_attn.{name}.weight", (out, hidden)
        yield "linear_attn.in_proj_a.weight", (heads, hidden)
        yield "linear_attn.out_proj.weight", (hidden, value)

    def _feed_forward(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        hidden = self.numbers["hidden_size"]
        block, width = "mlp", self.numbers.get("intermediate_size", 0)
        if not width:
            experts, narrow = self.numbers["num_experts"], self.numbers["moe_intermediate_size"]
            yield "mlp.gate.weight", (experts, hidden)
            yield "mlp.experts.gate_up_proj", (experts, 2 * narrow, hidden)
            yield "mlp.experts.down_proj", (experts, hidden, narrow)
            yield "mlp.shared_expert_gate.weight", (1, hidden)
            block, width = "mlp.shared_expert", self.numbers["shared_expert_intermediate_size"]
        yield f"{block}.gate_proj.weight", (width, hidden)
        yield f"{block}.up_proj.weight", (width, hidden)
        yield f"{block}.down_proj.weight", (hidden, width)


def read_model_type(folder: Path) -> str:
    """Reads of what family a base is.

    Raises:
        ArtifactError: its config is damaged.
    """
    config = read_json(folder / "config.json", "the base's config")
    found = config.get("model_type")
    if not isinstance(found, str) or not re.fullmatch(r"[\w.-]+", found):
        raise _Reader(folder, config, "").refusal("model_type", found, "it is a name, such as qwen3_5")
    return found


def read_architecture(folder: Path) -> Architecture:
    """Reads a config of a family that this package knows, and makes sure that a model can be made of it.

    Raises:
        ArtifactError: it is damaged, or a key of it has a value that no model can have.
    """
    model_type = read_model_type(folder)
    whole = _Reader(folder, read_json(folder / "config.json", "the base's config"), "")
    if model_type not in NUMBERS:
        raise whole.refusal("model_type", model_type, f"known are {', '.join(NUMBERS)}")
    text = whole.inner("text_config") if "text_config" in whole.told else whole
    whole.inner("vision_config")
    numbers = {key: text.whole_number(key, default) for key, default in NUMBERS[model_type].items()}
    for many, few in (
        ("num_attention_heads", "num_key_value_heads"),
        ("linear_num_value_heads", "linear_num_key_heads"),
    ):
        if numbers[many] % numbers[few]:
            raise text.refusal(few, numbers[few], f"it divides {many}, which is {numbers[many]}")
    if numbers.get("num_experts_per_tok", 0) > numbers.get("num_experts", 0):
        raise text.refusal("num_experts_per_tok", numbers["num_experts_per_tok"], "it is at most num_experts")
    text.one_of("hidden_act", ("silu",), "silu")
    for reader in (whole, text):
        for key in ("dtype", "torch_dtype"):
            reader.one_of(key, (*DTYPES, None), None)
    epsilon = text.told.get("rms_norm_eps", 1e-6)
    if type(epsilon) is not float or not 0 < epsilon < 1:
        raise text.refusal("rms_norm_eps", epsilon, "it is a small number above 0", "1e-06")
    padding = text.told.get("pad_token_id")
    if padding is not None and not (type(padding) is int and 0 <= padding < numbers["vocab_size"]):
        raise text.refusal("pad_token_id", padding, "it is null or the number of a row of the vocabulary", "null")
    coefficient = text.told.get("router_aux_loss_coef", 0.001)
    if type(coefficient) not in (int, float) or not 0 <= coefficient < math.inf:
        raise text.refusal("router_aux_loss_coef", coefficient, "it is a number from 0 on", "0.001")
    _check_rope(text, numbers["head_dim"])
    quantised_by = whole.quantised_by() or text.quantised_by()
    return Architecture(
        model_type,
        numbers,
        _layer_types(text, numbers["num_hidden_layers"]),
        text.one_of("attention_bias", (True, False), False),
        text.one_of("tie_word_embeddings", (True, False), False),
        quantised_by,
    )


@dataclass(frozen=True)
class _Reader:
    """Takes values out of one object of a config.json, or refuses them by name."""

    folder: Path
    told: Mapping[str, Any]
    prefix: str
    """Of its keys, as a reader of the file would name them: `text_config.`, or nothing."""

    def inner(self, key: str) -> _Reader:
        found = self.told.get(key, {})
        if not isinstance(found, dict):
            raise self.refusal(key, found, "it is an object")
        return _Reader(self.folder, found, f"{self.prefix}{key}.")

    def whole_number(self, key: str, default: int) -> int:
        found = self.told.get(key, default)
        most = MOST_LAYERS if key == "num_hidden_layers" else 2**31
        if type(found) is not int or not 1 <= found <= most:
            raise self.refusal(key, found, f"it is a whole number from 1 to {most:,}")
        return found

    def one_of(self, key: str, known: Collection[Any], default: Any) -> Any:
        found = self.told.get(key, default)
        if not any(found is value or (isinstance(found, str) and found == value) for value in known):
            words = [str(value).lower() for value in known if value is not None]
            raise self.refusal(key, found, f"it is {' or '.join(words)}", words[0] if len(words) == 1 else "")
        return found

    def quantised_by(self) -> str:
        if self.told.get("quantization_config") is None:
            return ""
        named = self.inner("quantization_config").told.get("quant_method")
        return named if isinstance(named, str) and named.isprintable() else "an unknown method"

    def refusal(self, key: str, found: Any, rule: str, good: str = "") -> ArtifactError:
        """Makes the error of a value that cannot be; with the one that can, where only one can."""
        return ArtifactError(
            f"{self.prefix}{key} of the base's config cannot be {json.dumps(found)[:40]}",
            where=f"{self.folder / 'config.json'}  {self.prefix}{key}",
            why=rule,
            fix=f"{key}: {good}" if good else refetch(self.folder, "config.json"),
        )


def _layer_types(text: _Reader, number: int) -> tuple[str, ...]:
    """Reads the kind of every layer; without a list, each full_attention_interval-th is of full attention."""
    found = text.told.get("layer_types")
    if found is None:
        interval = text.whole_number("full_attention_interval", 4)
        return tuple(LAYERS[(layer + 1) % interval == 0] for layer in range(number))
    if not isinstance(found, list) or len(found) != number:
        why = f"it names the kind of each of num_hidden_layers = {number} layers"
        raise text.refusal("layer_types", found, why + (f"; here are {len(found)}" if isinstance(found, list) else ""))
    for kind in found:
        if kind not in LAYERS:
            raise text.refusal("layer_types", kind, f"a layer is {' or '.join(LAYERS)}")
    return tuple(found)


def _check_rope(text: _Reader, head_dim: int) -> None:
    """Makes sure that rotary positions can be computed."""
    rope = text.inner("rope_parameters") if text.told.get("rope_parameters") is not None else None
    if rope is None:
        return
    rope.one_of("rope_type", ROPES, "default")
    for key, default, most in (("rope_theta", 10_000.0, math.inf), ("partial_rotary_factor", 0.25, 1.0)):
        found = rope.told.get(key, default)
        if type(found) not in (int, float) or not 0 < found <= most or not math.isfinite(found):
            raise rope.refusal(key, found, "it is a number above 0" + (", at most 1" if most == 1 else ""))
    turned = int(head_dim * rope.told.get("partial_rotary_factor", 0.25))
    section = rope.told.get("mrope_section", [11, 11, 10])
    if not isinstance(section, list) or any(type(n) is not int or n < 0 for n in section) or len(section) != 3:
        raise rope.refusal("mrope_section", section, "it is three whole numbers")
    if turned < 2 or turned % 2:
        raise rope.refusal(
            "partial_rotary_factor", turned / head_dim, f"it turns an even part of head_dim = {head_dim}"
        )

"""The kinds of GGUF files that `finetune export` makes, and what they are called. It makes none."""

from __future__ import annotations

FTYPES = {
    "q4_0": 2,
    "q8_0": 7,
    "q2_k": 10,
    "q3_k_s": 11,
    "q3_k_m": 12,
    "q3_k_l": 13,
    "q4_k_s": 14,
    "q4_k_m": 15,
    "q5_k_s": 16,
    "q5_k_m": 17,
    "q6_k": 18,
    "iq4_nl": 25,
    "iq4_xs": 30,
}
"""What the quantiser writes, and llama.cpp's number of it; those that need an importance matrix are left out.

Source: llama.cpp, include/llama.h (llama_ftype).
"""

CONVERTED = ("f32", "f16", "bf16", "q8_0")
"""What the converter writes by itself."""

KINDS = tuple(dict.fromkeys((*CONVERTED, *FTYPES)))
"""What can be asked for."""

DEFAULT = ("q4_k_m", "q8_0")
"""Which fit a card beside a context, and which keeps nearly all."""


def gguf_name(run: str, kind: str) -> str:
    """Names the file of a kind, by the name of its run."""
    return f"{run}-{kind.upper()}.gguf"

"""The host memory that `finetune merge` takes, proof included: little more than what it imports, whatever the base."""

from __future__ import annotations

import math
import re

from finetune.memory import Widths
from finetune.shape import ModelShape, is_text

PROCESS_BYTES = 650_000_000
"""Imports (411 MB, measured) and a tokenizer of 248,320 tokens (238 MB, measured)."""

PIECES_BYTES = 3 * 8 * 2**20
"""Rows as they are read, in float32, and as they are written."""

PROMPT_TOKENS = 256
"""That the proof passes through the model, in float32."""

STATES = 5
"""Tensors as wide as the widest of a layer that live at once."""

EXPERTS_AT_ONCE = 4
"""Routed experts that are whole, in float32, while they multiply; as many are being read."""

HELD = re.compile(r"norm|conv1d|A_log|dt_bias|\.mlp\.gate\.")
"""Weights that the proof's model holds, in float32; all matrices are read as they multiply."""


def merge_bytes(shape: ModelShape, widths: Widths) -> int:
    """Adds up the most that is held; `scripts/prove merge` compares it with the peak of a process."""
    held = sum(math.prod(dims) for name, dims in shape.parameters.items() if is_text(name) and HELD.search(name))
    widest = max(widths.feed_forward, 2 * widths.key + widths.value, 2 * widths.query)
    experts = 2 * EXPERTS_AT_ONCE * 3 * widths.expert * widths.hidden
    return PROCESS_BYTES + PIECES_BYTES + 4 * (held + STATES * PROMPT_TOKENS * widest + experts)

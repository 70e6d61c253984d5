"""A small Qwen3.6 made on the spot: the real architecture and the published layout on disk, and none of Qwen's weights.

The demo base is pre-trained for a minute on this folder's corpus, so that fine-tuning it visibly teaches something.
The pico base has random weights and is made in a second, for tests.
Both are read by whatever reads the real ones: transformers, peft, llama.cpp. Neither is of any other use.
"""

from finetune.demo_base.build import make_demo_base, make_pico_base
from finetune.demo_base.layout import mtp_shapes

__all__ = ["make_demo_base", "make_pico_base", "mtp_shapes"]

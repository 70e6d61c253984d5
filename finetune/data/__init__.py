"""Floor 3: from files of rows to exactly the tokens that are learnt. No torch.

A *row* is what stands in a line of a file; an *example* is what the model sees.
"""

from finetune.data.dataset import Counts, Dataset, count_rows, prepare, renderer_of
from finetune.data.examples import lengths_of
from finetune.data.messages import Row
from finetune.data.reading import read, read_held_out, read_rows, read_split
from finetune.data.rendering import Example, Renderer

__all__ = [
    "Counts",
    "Dataset",
    "Example",
    "Renderer",
    "Row",
    "count_rows",
    "lengths_of",
    "prepare",
    "read",
    "read_held_out",
    "read_rows",
    "read_split",
    "renderer_of",
]

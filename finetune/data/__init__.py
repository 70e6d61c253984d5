"""Floor 3: from files of rows to exactly the tokens that are learnt. No torch.

A *row* is what stands in a line of a file; an *example* is what the model sees.
"""

from finetune.data.dataset import Counts, Dataset, count_rows, prepare
from finetune.data.messages import Row
from finetune.data.rendering import Example, Renderer
from finetune.data.rows import read_rows
from finetune.data.split import read_split

__all__ = ["Counts", "Dataset", "Example", "Renderer", "Row", "count_rows", "prepare", "read_rows", "read_split"]

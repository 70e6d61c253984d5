"""Floor 5: shows, token by token, what training learns of an example; in a terminal, or as one page. No torch."""

from finetune.lens.cells import Cell, Reader
from finetune.lens.choosing import SIDES, Shown, Side, by_place, by_row, everything, examples_of, worst
from finetune.lens.page import MOST_EXAMPLES, page
from finetune.lens.stretches import Stretch, stretches
from finetune.lens.telling import told
from finetune.lens.terminal import Look, draw, legend

__all__ = [
    "MOST_EXAMPLES",
    "SIDES",
    "Cell",
    "Look",
    "Reader",
    "Shown",
    "Side",
    "Stretch",
    "by_place",
    "by_row",
    "draw",
    "everything",
    "examples_of",
    "legend",
    "page",
    "stretches",
    "told",
    "worst",
]

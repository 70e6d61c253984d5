"""Floor 5: shows, token by token, what training learns of an example; in a terminal, or as one page. No torch."""

from finetune.lens.cells import Cell, Reader
from finetune.lens.choosing import SIDES, Shown, Side, by_place, by_row, everything, examples_of, worst
from finetune.lens.page import MOST_EXAMPLES, page
from finetune.lens.steps import Step, step_of
from finetune.lens.stretches import Stretch, stretches
from finetune.lens.telling import told, told_step
from finetune.lens.terminal import Look, draw, draw_step, legend

__all__ = [
    "MOST_EXAMPLES",
    "SIDES",
    "Cell",
    "Look",
    "Reader",
    "Shown",
    "Side",
    "Step",
    "Stretch",
    "by_place",
    "by_row",
    "draw",
    "draw_step",
    "everything",
    "examples_of",
    "legend",
    "page",
    "step_of",
    "stretches",
    "told",
    "told_step",
    "worst",
]

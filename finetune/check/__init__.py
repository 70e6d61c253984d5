"""What is wrong with data before anything is learnt from it. No torch.

A detector sees row after row and yields findings; what only all rows together show, it yields at the end.
"""

from finetune.check.figures import Figures
from finetune.check.finding import CODES, Finding, Findings
from finetune.check.verb import Checked, check, check_rows

__all__ = ["CODES", "Checked", "Figures", "Finding", "Findings", "check", "check_rows"]

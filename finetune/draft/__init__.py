"""Floor 6: from documents to examples, asked of a teacher, each with the words of the document that it rests on.

No torch. What is not here: judging whether an answer is true; a person does that.
"""

from finetune.draft.settings import Kind, Prices, Settings, Wishes
from finetune.draft.verb import Forecast, Progress, check_out, draft, foresee, journal_of

__all__ = [
    "Forecast",
    "Kind",
    "Prices",
    "Progress",
    "Settings",
    "Wishes",
    "check_out",
    "draft",
    "foresee",
    "journal_of",
]

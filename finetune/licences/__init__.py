"""Floor 1: what licences of a base and of data leave to the model that is tuned of them. Not legal advice."""

from finetune.licences.combining import Stated, Verdict, combine
from finetune.licences.reading import licence_of_base
from finetune.licences.table import KNOWN, Licence, known

__all__ = ["KNOWN", "Licence", "Stated", "Verdict", "combine", "known", "licence_of_base"]

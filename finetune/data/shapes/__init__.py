"""From a record in anybody's form to the turns of a conversation."""

from finetune.data.shapes.recognising import Columns, talks
from finetune.data.shapes.talk import Talk

__all__ = ["Columns", "Talk", "talks"]

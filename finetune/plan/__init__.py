"""Floor 3: what follows from a recipe on a machine, decided by arithmetic and written down."""

from finetune.plan.candidates import Candidate, Room
from finetune.plan.deciding import UNQUANTISED, check_fits, decide, make_plan, room_of
from finetune.plan.explaining import explain
from finetune.plan.record import Choices, Plan, read_plan
from finetune.plan.rescue import out_of_memory
from finetune.plan.rules import refusals

__all__ = [
    "UNQUANTISED",
    "Candidate",
    "Choices",
    "Plan",
    "Room",
    "check_fits",
    "decide",
    "explain",
    "make_plan",
    "out_of_memory",
    "read_plan",
    "refusals",
    "room_of",
]

"""Floor 3: what follows from a recipe on a machine, decided by arithmetic and written down."""

from finetune.plan.candidates import Candidate, Room
from finetune.plan.deciding import check_family, decide, job_of, room_of
from finetune.plan.explaining import Rejected, explain, in_short
from finetune.plan.making import check_fits, make_plan
from finetune.plan.record import Choices, Plan, levers_of, read_plan
from finetune.plan.rescue import out_of_memory
from finetune.plan.rules import problem, refusals
from finetune.plan.sharing import told_gb
from finetune.plan.writing import UNQUANTISED

__all__ = [
    "UNQUANTISED",
    "Candidate",
    "Choices",
    "Plan",
    "Rejected",
    "Room",
    "check_family",
    "check_fits",
    "decide",
    "explain",
    "in_short",
    "job_of",
    "levers_of",
    "make_plan",
    "out_of_memory",
    "problem",
    "read_plan",
    "refusals",
    "room_of",
    "told_gb",
]

"""How several processes share out what they hold: every way that was looked at, and why one of them was taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from finetune.memory import Job
from finetune.plan.candidates import Candidate, Room, best
from finetune.plan.ways import Way
from finetune.recipe import Recipe

GIB, GB = 2**30, 1e9


def best_by_way(found: Sequence[Candidate], room: Room) -> dict[Way, Candidate]:
    """Gives the best set of levers of each way, in the order in which they were worked out."""
    by_way: dict[Way, list[Candidate]] = {}
    for each in found:
        by_way.setdefault(each.way, []).append(each)
    return {way: best(those, room) for way, those in by_way.items()}


def told_gb(num_bytes: int) -> str:
    """Writes bytes on the wire, in the units of those who sell networks."""
    return f"{num_bytes / GB:,.2f} GB" if num_bytes >= GB / 100 else f"{num_bytes / 1e6:,.1f} MB"


def why_shared(recipe: Recipe, job: Job, chosen: Candidate, found: Sequence[Candidate], room: Room) -> str:
    """Says in a sentence why the processes hold what they hold; nothing of one process."""
    if job.processes == 1:
        return ""
    by_way = best_by_way(found, room)
    told = list(_of_experts(recipe, job, chosen, by_way, room)) if job.widths.num_experts else []
    return "; ".join([*told, _of_stage(recipe, chosen, by_way, room)])


def _of_experts(recipe: Recipe, job: Job, chosen: Candidate, by_way: dict[Way, Candidate], room: Room) -> Iterator[str]:
    expert, each_one = chosen.way.expert, "GPU" if job.cuda else "process"
    if recipe.parallel.expert is not None:
        yield f"the recipe says parallel.expert {expert}"
        return
    whole, spread = _split(by_way.values())
    if expert > 1 and not any(each.fits for each in whole):
        lacking = min(room.lacks(each.budget)[0] for each in whole) / GIB
        yield f"whole the experts lack {lacking:.1f} GiB, so they are spread over {expert}"
    elif expert > 1:
        saved = 1 - chosen.seconds / min(each.seconds for each in whole if each.fits)
        yield f"spread over {expert} each makes fewer experts whole: {saved:.0%} less time than with all of them"
    elif spread:
        other = min(spread, key=lambda each: each.wire.num_bytes)
        tokens = told_gb(other.wire.parts["tokens for routed experts"])
        held = sum(size for name, size in chosen.budget.parts.items() if name.startswith("routed experts")) / GIB
        what = f"each {each_one} holds all experts ({held:.1f} GiB)"
        yield f"{what}: spread over {other.way.expert} they would send {tokens} of tokens a step"


def _split(all_ways: Iterable[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
    """Parts those that hold all experts in each process from those that spread them."""
    every = list(all_ways)
    return [each for each in every if each.way.expert == 1], [each for each in every if each.way.expert > 1]


def _of_stage(recipe: Recipe, chosen: Candidate, by_way: dict[Way, Candidate], room: Room) -> str:
    zero = chosen.way.zero
    if recipe.parallel.zero is not None:
        return f"the recipe says parallel.zero {zero}"
    if not zero:
        return "AdamW's states fit whole, and ZeRO would send more"
    what = "AdamW's states" if zero == 1 else "AdamW's states and gradients"
    plain = by_way[Way(0, chosen.way.expert)]
    if not plain.fits:
        return f"{what} are shared out, or {room.lacks(plain.budget)[0] / GIB:.1f} GiB would be lacking"
    return f"{what} are shared out, which leaves room for a quicker step"

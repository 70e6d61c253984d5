"""A plan as a page of text: the verdict, what follows from the recipe, and the memory part by part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from finetune.plan import levers_of, told_gb

if TYPE_CHECKING:
    from finetune.data import Counts
    from finetune.plan import Plan

GIB, MIB = 2**30, 2**20

BAR = 40
"""Columns of a bar that fills the device, or the peak where that is more."""

NARROW = 0.03
"""Of the peak: what the arithmetic may be off by."""


def page(plan: Plan, counts: Counts, notes: Iterable[str], bar: str = "▇") -> str:
    """Writes the whole page, with bars of the given character."""
    lines = [_verdict(plan), ""]
    lines += [f"{name:<13}{told}" for name, told in _rows(plan, counts)]
    batch = f"{plan.choices.micro_batch} x {plan.length:,} tokens"
    lines += _ways(plan)
    lines += ["", f"memory       of {plan.gpu or 'the host'} in a micro-batch of {batch}, at its worst moment:"]
    lines += [f"             {plan.peak}"]
    scale = BAR / max(plan.gpu_bytes, plan.peak_bytes)
    lines += [f"  {name:<26}{size(part)}  {bar * round(scale * part)}".rstrip() for name, part in plan.parts.items()]
    lines += [f"  {'together':<26}{size(plan.peak_bytes)}", ""]
    return "\n".join([*lines, *(f"note: {note}" for note in (*plan.notes, *notes))]).rstrip()


def _verdict(plan: Plan) -> str:
    where = f"{plan.gpu or 'this machine without a GPU'} gives training {size(plan.gpu_bytes).strip()}"
    needed, spare = size(plan.peak_bytes).strip(), plan.gpu_bytes - plan.peak_bytes
    if not plan.fits:
        return f"DOES NOT FIT: {needed} at the peak; {where}"
    if spare < NARROW * plan.peak_bytes and plan.gpu:
        told = f"{size(spare).strip()} to spare is less than this arithmetic may be off by"
        return f"fits NARROWLY: {needed} at the peak; {where}; {told} (memory.spare leaves more)"
    return f"fits: {needed} at the peak; {where}; {size(spare).strip()} to spare"


def _rows(plan: Plan, counts: Counts) -> Iterator[tuple[str, str]]:
    choices, on_each = plan.choices, " on each of the GPUs" if plan.gpu else " in each process"
    on_each *= plan.processes > 1
    yield "base", plan.base + (f" @ {plan.revision[:12]}" if plan.revision else "")
    yield "method", f"{plan.method}, {plan.quantisation or 'not quantised'}, {plan.dtype} on {plan.gpu or plan.device}"
    share = plan.trainable_parameters / plan.total_parameters
    yield "trained", f"{plan.trainable_parameters:,} of {plan.total_parameters:,} text parameters ({share:.2%})"
    yield "adapters", _adapters(plan)
    yield "examples", f"{plan.examples:,} to learn, {counts.held_out_examples:,} held out"
    yield "tokens", _tokens(plan)
    yield "steps", f"{plan.steps:,}: {plan.steps_per_epoch:,} in an epoch, {plan.warmup_steps} to warm up"
    yield "", f"saved every {plan.save_every} step{'s' if plan.save_every > 1 else ''} and each epoch"
    batch = choices.micro_batch * choices.accumulation
    yield "a step", f"{batch * plan.processes} examples, {choices.micro_batch} at a time{on_each}"
    yield from _processes(plan)
    yield "levers", levers_of(plan)
    yield "", plan.why
    if plan.fits:
        yield (
            "time",
            f"at best {_clock(plan.run_seconds)} of steps: {_seconds(plan.step_seconds)} each, "
            + (f"{plan.tokens_per_second:,.0f} tokens/s, {plan.energy_kwh:.2f} kWh"),
        )
        yield "", "by the card's limits, not measured; loading and held-out rows are not counted"
    yield "host memory", f"{size(plan.host_bytes).strip()}: " + _largest(plan.host_parts)
    yield "disk", _disk(plan.disk_bytes, plan.merge_bytes)


def _processes(plan: Plan) -> Iterator[tuple[str, str]]:
    """What several processes do together, and what that sends."""
    if plan.processes == 1:
        return
    machines = f"{plan.nodes} machines" if plan.nodes > 1 else "one machine"
    joined = f"{plan.links[0]} inside" + (f", {plan.links[1]} between" if plan.nodes > 1 else "")
    yield "processes", f"{plan.processes} on {machines}: {joined}"
    yield from (("", clause) for clause in plan.sharing.split("; "))
    parts = ", ".join(f"{name} {told_gb(told)}" for name, told in plan.wire_bytes.items())
    computing = 1 - plan.wire_seconds / plan.step_seconds
    yield "on the wire", f"{parts} a step from each; {computing:.1%} of a step computes"


def _ways(plan: Plan) -> list[str]:
    """A table of the ways to share out: each spread of the experts, and each stage with the chosen one."""
    if len(plan.alternatives) < 2:
        return []
    lines = ["", f"{'sharing out':<13}experts  ZeRO  GPU GiB  wire GB  {'a step':<9}computes"]
    for each in plan.alternatives:
        if each.zero == plan.zero or each.expert_parallel == plan.expert_parallel:
            spread = "-" if each.expert_parallel == 1 else str(each.expert_parallel)
            computing = 1 - each.wire_seconds / each.step_seconds
            figures = f"{each.peak_bytes / GIB:>7.2f}  {each.wire_bytes / 1e9:>7,.2f}  {_seconds(each.step_seconds):<9}"
            lines.append(f"{'':<13}{spread:>7}  {each.zero:>4}  {figures}{computing:>8.1%}  {each.verdict}")
    return lines


def _tokens(plan: Plan) -> str:
    if plan.tokens:
        return f"{plan.tokens:,} an epoch, {plan.learnt_tokens:,} of them learnt"
    most = plan.examples * plan.length
    return f"at most {most:,} an epoch: without the base's tokenizer each example counts as {plan.length:,}"


def _largest(parts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size(part).strip()}" for name, part in parts.items() if part > GIB / 10)


def _disk(disk: Mapping[str, int], merging: int) -> str:
    run = sum(disk.get(stage, 0) for stage in ("checkpoints", "adapter", "weights"))
    told = f"base {size(disk['base']).strip()}, run {size(run).strip()}"
    if "cache" in disk:
        told += f", with --cache {size(disk['cache']).strip()} more"
    told += f"; merged it would be {size(disk['merged']).strip()} (in {size(merging).strip()} of memory)"
    return told + f", as GGUF {size(disk['gguf q4_k_m']).strip()} (Q4_K_M)"


def rejected(rows: Sequence[Mapping[str, Any]], *, gpu: bool) -> str:
    """Writes the table of what was rejected."""
    where = "GPU GiB" if gpu else "GiB"
    lines = ["", "rejected, one lever moved and all else as chosen (--why-not plans the rest anew):"]
    lines.append(f"  {'':<36}{where:>8}{'host GiB':>10}  {'time':<9}")
    for row in rows:
        name = f"{row['lever']} {row['position']}"
        if row["peak_bytes"] is None:
            lines.append(f"  {name:<36}{'':>8}{'':>10}  {'':<9}{row['verdict']}")
        else:
            peak, host = _change(row["peak_bytes"]), _change(row["host_bytes"])
            lines.append(f"  {name:<36}{peak:>8}{host:>10}  {_times(row['seconds']):<9}{row['verdict']}")
    return "\n".join(lines)


def compared(plan: Plan, other: Plan) -> str:
    """Says what another plan would be beside this one."""
    if _done(other) == _done(plan):
        return "that is what the plan does"
    if not other.fits:
        short = other.peak_bytes - other.gpu_bytes
        told = f"does not fit: {size(short).strip()} too much on {other.gpu or 'the host'}"
        if short <= 0:
            told = f"does not fit: it needs {size(other.host_bytes).strip()} of host memory"
        cards = [f"  as it is it fits --gpu {', '.join(other.cards)}"] if other.cards else []
        return "\n".join([told, *cards, *(f"  with  {words}" for words in other.proposals)])
    before, after = (asdict(each.choices) | _shared(each) for each in (plan, other))
    changed = [f"{name} {after[name]}" for name in before if after[name] != before[name] and name != "accumulation"]
    then = f"; then {', '.join(changed)}" if changed else ""
    peak = f"{_change(other.peak_bytes - plan.peak_bytes)} GiB at the peak"
    sent, would = (told_gb(sum(each.wire_bytes.values())) for each in (plan, other))
    wire = f", {would} on the wire a step instead of {sent}" if would != sent else ""
    return f"it fits, {peak}, {_times(other.run_seconds / plan.run_seconds)}{wire}{then}"


def _done(plan: Plan) -> dict[str, Any]:
    """A plan without what it says of others: with one word more in the recipe, fewer are left to compare."""
    return {key: value for key, value in asdict(plan).items() if key not in ("alternatives", "sharing")}


def _shared(plan: Plan) -> dict[str, int]:
    return {"zero": plan.zero, "expert": plan.expert_parallel}


def _change(more: int) -> str:
    return f"{more / GIB:+.2f}" if abs(more) >= GIB / 200 else "0"


def _times(ratio: float) -> str:
    """Says how long beside what was chosen; a roofline tells no difference under a hundredth."""
    if abs(ratio - 1) < 0.01:
        return "as fast"
    return f"{ratio - 1:+.0%}" if ratio < 2 else f"x {ratio:.1f}"


def _adapters(plan: Plan) -> str:
    if not plan.num_targets:
        return "none: every text weight is trained"
    families = ", ".join(f"{family} {number}" for family, number in plan.num_targets.items())
    kind = {"dora": "DoRA, ", "rslora": "rsLoRA, "}.get(plan.variant, "")
    routers = f", and {plan.num_routers} routers whole" if plan.num_routers else ""
    layers = sum(plan.num_targets.values())
    return f"{kind}rank {plan.rank}, alpha {plan.alpha:g} on {layers} layers ({families}){routers}"


def _clock(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds >= 1 else f"{1000 * seconds:,.0f} ms"


def size(num_bytes: int) -> str:
    """Writes bytes in GiB, or in MiB where that would be nothing, twelve columns wide."""
    return f"{num_bytes / GIB:>8.2f} GiB" if abs(num_bytes) >= GIB / 100 else f"{num_bytes / MIB:>8.1f} MiB"

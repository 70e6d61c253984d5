"""Writes the tables and the picture of a benchmark from its results.json, whole or cut short."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.picture import draw
from bench.results import load

GIB = 2**30

TABLE, PICTURE = "table.md", "benchmark.png"

NONE = "–"

GOAL = 0.03
"""How far a predicted peak may be from the measured one."""


def write_report(folder: Path) -> None:
    """Writes table.md and benchmark.png beside results.json."""
    told = load(folder)
    (folder / TABLE).write_text(tables(told))
    draw(told, folder / PICTURE)


def tables(told: dict[str, Any]) -> str:
    """Writes all tables in Markdown."""
    parts = (_heading, _cells, _longest, _parity, _copies, _first_step, _constants, _skipped)
    return "\n".join(filter(None, (part(told) for part in parts)))


def _heading(told: dict[str, Any]) -> str:
    base, card, kernels, where = told["base"], told["card"], told["kernels"], told["conditions"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    lines = [
        f"## {base.get('name', 'nothing')} on {where['gpu'] or 'a CPU'}, {told['started'][:10]}",
        "",
        f"`{' '.join(told['command'])}`, {told['seconds']:.0f} s"
        + ("" if told["complete"] else ", **cut short**")
        + ".",
        f"Driver {where['driver'] or NONE}, Python {where['python']}, {versions}.",
    ]
    if base:
        lines.append(
            f"{base['num_layers']} layers of random weights, {base['quantisation']}, {base['dtype']}, "
            f"rank {base['rank']}, "
            f"batch 1, every token learnt. First loss {_number(told['first_step'].get('loss'))}, "
            f"that of guessing {base['guessing_loss']:.2f}."
        )
    if "free_bytes" in card:
        lines.append(
            f"Of {_gib(card['total_bytes'])} GiB {_gib(card['free_bytes'])} were left free by a ballast of "
            f"{_gib(card['ballast_bytes'])} GiB, as a card of {card['name']} leaves them. "
            f"Not emulated: {'; '.join(card['not_emulated'])}."
        )
    if kernels:
        lines.append(
            f"Gated delta rule: {kernels['rule']}; convolution: {kernels['convolution']}. {kernels['why']}".rstrip()
        )
    if kernels.get("errors"):
        errors = ", ".join(f"d{name} {error:.2%}" for name, error in kernels["errors"].items())
        lines.append(f"Its gradients against the reference in float32: {errors}.")
    promise = told["promise"]
    if promise:
        word = {True: "shown to fit", False: "**does not fit**", None: "not tried"}[promise["shown"]]
        lines.append(f"{promise['tokens']:,} tokens: {word}.")
    return "\n".join(lines) + "\n"


def _cells(told: dict[str, Any]) -> str:
    head = (
        *("stack", "tokens", "predicted GiB", "allocated", "reserved", "taken", "predicted / allocated", "/ reserved"),
        *("step s, median", "p90", "forward / backward / optimizer", "tokens/s", "TFLOP/s 6N", "4N", "steps"),
    )
    return _section("Memory and speed", head, (_cell(cell) for cell in told["cells"]))


def _cell(cell: dict[str, Any]) -> list[str]:
    predicted, measured, ratio, times = (cell[name] or {} for name in ("predicted", "measured", "ratio", "times"))
    start = [cell["stack"], f"{cell['tokens']:,}", _gib(predicted.get("allocated_bytes"))]
    if not cell["fits"]:
        return [*start, "does not fit", *[NONE] * 11]
    return [
        *start,
        _gib(measured.get("allocated_bytes")),
        _gib(measured.get("reserved_bytes")),
        _gib(measured.get("taken_bytes")),
        _judged(ratio.get("allocated")),
        _judged(ratio.get("reserved")),
        f"{times['step_seconds']:.3f}",
        f"{times['step_seconds_p90']:.3f}",
        " / ".join(f"{times[f'{part}_seconds']:.3f}" for part in ("forward", "backward", "optimizer")),
        f"{times['tokens_per_second']:,.0f}",
        f"{times['tflops_6n']:.3g}",
        f"{times['tflops_4n']:.3g}",
        str(times["num_steps"]),
    ]


def _judged(ratio: float | None) -> str:
    if ratio is None:
        return NONE
    return f"{ratio:.3f}" if abs(ratio - 1) <= GOAL else f"**{ratio:.3f}**"


def _longest(told: dict[str, Any]) -> str:
    def row(each: dict[str, Any]) -> list[str]:
        predicted = NONE if each["predicted_tokens"] is None else f"{each['predicted_tokens']:,}"
        if each["tokens"] is None:
            found = f"at least {each['at_least']:,}: {each['why']}"
        elif each["tokens"] >= each["most_tokens"]:
            found = f"{each['tokens']:,}, where the search ends"
        else:
            found = f"{each['tokens']:,}"
        return [each["stack"], predicted, found, str(len(each["probes"]))]

    head = ("stack", "predicted tokens", "found by running out of memory", "trials")
    return _section("Longest context", head, map(row, told["longest"]))


def _parity(told: dict[str, Any]) -> str:
    def row(each: dict[str, Any]) -> list[str]:
        return [
            f"{each['stack']} against {each['other']}",
            f"{each['tokens']:,}",
            f"{each['loss']:.4f} / {each['other_loss']:.4f}",
            f"{each['norm_ratio']:.4f}",
            f"{each['least_cosine']:.5f}",
            f"{each['mean_cosine']:.5f}",
            f"{each['num_below_goal']} of {each['num_tensors']}",
        ]

    head = ("stacks", "tokens", "loss", "ratio of norms", "least cosine", "mean cosine", "tensors below 0.999")
    return _section("Same batch, same weights", head, map(row, told["parity"]))


def _copies(told: dict[str, Any]) -> str:
    def row(each: dict[str, Any]) -> list[str]:
        speeds = [each["to_host_gb_per_second"], each["to_device_gb_per_second"]]
        return [
            each["stack"],
            f"{each['tokens']:,}",
            *(f"{each[way] / 1e9:.2f}" for way in ("to_host_bytes", "to_device_bytes")),
            *(NONE if speed is None else f"{speed:.1f}" for speed in speeds),
            NONE if each["num_launches"] is None else f"{each['num_launches']:,}",
        ]

    head = ("stack", "tokens", "GB to the host", "GB back", "GB/s to the host", "GB/s back", "kernels a step")
    return _section("Copies of one step", head, map(row, told["copies"]))


def _first_step(told: dict[str, Any]) -> str:
    rows = (
        [name.removesuffix("_seconds").replace("_", " "), f"{value:.2f}"] for name, value in told["first_step"].items()
    )
    return _section("Time to the first step", ("part", "seconds"), rows)


def _constants(told: dict[str, Any]) -> str:
    def row(name: str, value: float | int | None) -> list[str]:
        if value is None:
            return [name, NONE]
        return [name, f"{value / 2**20:,.0f} MiB" if name.endswith("_bytes") else f"{value:.4f}"]

    found = told["constants"] | {k: v for k, v in told["card"].items() if k == "taken_by_context_bytes"}
    return _section("Constants of the plan, as measured", ("constant", "value"), (row(*item) for item in found.items()))


def _skipped(told: dict[str, Any]) -> str:
    rows = [(each["task"], f"**failed**: {each['why']}".replace("\n", " ")) for each in told["failed"]]
    rows += [(each["task"], each["why"]) for each in told["skipped"]]
    return _section("Not measured", ("task", "why"), rows)


def _section(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Writes a table; nothing where it has no rows."""
    written = [f"| {' | '.join(row)} |" for row in rows]
    if not written:
        return ""
    return "\n".join([f"### {title}", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head), *written, ""])


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _gib(size: int | None) -> str:
    return NONE if size is None else f"{size / GIB:.2f}"

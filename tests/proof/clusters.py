"""Proof `clusters`: what 16, 64 and 256 GPUs would do on fast and slow networks, computed and not measured.

    scripts/prove clusters [--write]

Pure arithmetic, in Markdown; `--write` puts it into docs/clusters.md, between its two marks.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from finetune.data import Counts
from finetune.hardware import Hardware, wished, with_network, with_nodes
from finetune.links import NETWORKS
from finetune.plan import Plan, make_plan
from finetune.recipe import load
from finetune.shape import read_shape

PAGE = Path(__file__).parents[2] / "docs" / "clusters.md"
BEGIN, END = "<!-- made by scripts/prove clusters -->\n", "<!-- end of what is made -->\n"

BASES = ("Qwen/Qwen3.6-27B", "Qwen/Qwen3.6-35B-A3B")
GPUS = (16, 64, 256)
LINKS = ("ib400", "100gbe", "25gbe", "site-1g", "site-100m")
ALONE = ("h100x8", "rtx4090x8", "rtx4080x8")
BATCH, LENGTH = 256, 4096
GIB, GB = 2**30, 1e9

COUNTS = Counts(rows=BATCH, examples=BATCH, tokens=BATCH * LENGTH, learnt_tokens=BATCH * LENGTH, longest=LENGTH)


def main() -> None:
    """Prints the tables, or writes them into their page."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--write", action="store_true")
    text = tables()
    if not asked.parse_args().write:
        print(text, end="")
        return
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + text + END + rest.partition(END)[2])


def tables() -> str:
    """Writes all tables."""
    return "\n".join([*many_machines(), "", *one_machine(), ""])


def many_machines() -> Iterator[str]:
    """Yields a table of machines with eight H100 each."""
    for base in BASES:
        single = planned(base, replace(wished("h100"), processes=1), batch=BATCH // GPUS[0])
        columns = "GPUs | the plan takes | a step | wire, GB | computes | of one | 90 %, Mtok"
        yield f"| {base.removeprefix('Qwen/')} | {columns} |"
        yield "|---|---:|---|---:|---:|---:|---:|---:|"
        for link in LINKS:
            for gpus in GPUS:
                made = planned(base, with_network(with_nodes(wished("h100x8"), gpus // 8), link))
                yield row(NETWORKS[link].told, gpus, made, single)
        if base != BASES[-1]:
            yield ""


def row(link: str, gpus: int, made: Plan, single: Plan) -> str:
    """Writes one cluster's line, and with how many tokens a step nine tenths of it would compute."""
    sent, computes = sum(made.wire_bytes.values()) / GB, 1 - made.wire_seconds / made.step_seconds
    efficiency = made.tokens_per_second / gpus / single.tokens_per_second
    rate = made.tokens_per_second / computes
    tenth = 9 * made.wire_seconds * rate / 1e6
    step = f"{made.step_seconds:,.1f} s"
    most = "-" if computes >= 0.9 else f"{tenth:,.0f}" if tenth >= 10 else f"{tenth:.1f}"
    return f"| {link} | {gpus} | {way(made)} | {step} | {sent:.2f} | {computes:.0%} | {efficiency:.0%} | {most} |"


def way(made: Plan) -> str:
    """Names what the processes share out."""
    spread = f"experts over {made.expert_parallel}" if made.expert_parallel > 1 else "all in each"
    return spread + f", ZeRO-{made.zero}"


def one_machine() -> Iterator[str]:
    """Yields a table of every way of sharing a mixture of experts out over the eight GPUs of one machine."""
    yield "| Qwen3.6-35B-A3B on one machine | experts over | ZeRO | GPU, GiB | wire, GB | a step | computes | |"
    yield "|---|---:|---:|---:|---:|---:|---:|---|"
    for gpus in ALONE:
        for each in planned(BASES[1], wished(gpus), batch=64).alternatives:
            spread = "-" if each.expert_parallel == 1 else str(each.expert_parallel)
            figures = f"{each.peak_bytes / GIB:.1f} | {each.wire_bytes / GB:.1f} | {each.step_seconds:.1f} s"
            computes = f"{1 - each.wire_seconds / each.step_seconds:.0%}"
            yield f"| {gpus} | {spread} | {each.zero} | {figures} | {computes} | {each.verdict} |"


def planned(base: str, hardware: Hardware, batch: int = BATCH) -> Plan:
    """Plans examples that are all of one length."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "r.yaml"
        file.write_text(f"base: {base}\ndata: {{train: x.jsonl}}\n")
        recipe = load(file, [f"data.max_length={LENGTH}", f"train.batch_size={batch}"])
    return make_plan(recipe, read_shape(base, None), hardware, COUNTS)


if __name__ == "__main__":
    main()

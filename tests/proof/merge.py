"""Merges bases of several GB: seconds beside cp, sha256sum and sync, peak memory; then kills small merges.

    scripts/prove merge [--layers 4] [--kills 20] [--seed 0] [--skip-large] [--skip-dequantised]

The bases have the widths of the 27B and of the 35B-A3B, written under .cache/ and removed again; their adapters, over
all linear layers and all routed experts, are drawn by chance. "Cold" begins after the base's files were dropped from
the page cache. Writing is compared with copying, hashing and flushing the same bytes; the proof is timed
apart. Both take turns, and of each the fastest counts. Memory is the whole process's peak, imports included, beside
what the plan says of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from load import drop_pages
from peft import LoraConfig
from safetensors.torch import save_file
from trial import struck
from trial.made_run import begun_run, finish, made_run
from trial.wide_base import write_wide_base

from finetune.demo_base import make_pico_base
from finetune.experts import DOWN, GATE_UP
from finetune.experts.layouts import to_peft
from finetune.merge import merge
from finetune.model.experts import with_experts
from finetune.plan import read_plan
from finetune.run import Run, atomic, manifest
from finetune.shape import FAMILY_MODULES, read_shape

ROOT = Path(__file__).parents[2]
NUM_TOKENS = 49_152
MOST_TIMES = 1.5
TURNS = 2
Case = tuple[str, str, bool]

CASES: tuple[Case, ...] = (
    ("cold", "bf16", True),
    ("warm", "bf16", False),
    ("dequantised, warm", "dequantised", False),
)
"""What is told, onto what is merged, whether the base's files are dropped from the page cache first."""

CHILD = """\
import sys
from pathlib import Path
from finetune.cli import main
try:
    main()
finally:
    print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0], file=sys.stderr)
"""
"""The command, which tells its own peak at the end: what the system says of a child counts its parent's memory too."""

SERVED = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def main() -> int:
    """Prints a line for each measurement; 0 if all bounds hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 4), ("kills", 20), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--skip-large", action="store_true")
    parser.add_argument("--skip-dequantised", action="store_true")
    wanted = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    wrong: list[str] = []
    (ROOT / ".cache").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache", prefix="merge-") as folder:
        if not wanted.skip_large:
            words = "".join(f"{word:>9}" for word in ("merge", "times", "proof", "RSS, MB", "planned"))
            print(f"{'':<34}{'GB':>6}{'cp':>7}{'sha256':>8}{'sync':>7}{words}")
            for kind, moe in (("27B's widths", False), ("35B-A3B's widths", True)):
                cases = CASES[:2] if wanted.skip_dequantised else CASES
                wrong += measure(Path(folder) / kind[:3], kind, moe, wanted.layers, cases)
        wrong += strike(Path(folder) / "pico", wanted.kills, random.Random(wanted.seed))
    print("\n".join(wrong) or "all bounds hold")
    return bool(wrong)


def measure(folder: Path, kind: str, moe: bool, num_layers: int, cases: tuple[Case, ...]) -> Iterator[str]:
    """Merges one base, cold and warm, onto its own weights, and onto those that 4 bits restore."""
    run = large_run(folder, moe, num_layers)
    base = folder / "base"
    for told, onto, cold in cases:
        copied, made = [], []
        for _ in range(TURNS):
            copied.append(plainly(base, folder / "copy", cold))
            if cold:
                drop_pages(base.iterdir())
            made.append(merged(run, folder / "merged", onto))
        seconds, figures = min(copied, key=sum), min(made, key=lambda each: each["writing"])
        figures["rss"] = max(each["rss"] for each in made)
        size = sum(file.stat().st_size for file in base.iterdir()) / 1e9
        times, mega = figures["writing"] / sum(seconds), figures["rss"] / 1e6
        planned = read_plan(run.plan).merge_bytes
        print(
            f"{f'{kind}, {told}':<34}{size:>6.2f}{seconds[0]:>7.1f}{seconds[1]:>8.1f}{seconds[2]:>7.1f}"
            f"{figures['writing']:>9.1f}{times:>9.2f}{figures['proof']:>9.1f}{mega:>9,.0f}"
            f"{planned / 1e6:>9,.0f}",
            flush=True,
        )
        for claim in figures["claims"]:
            print(f"    {claim['claim']}: {claim['measured']:.4g} of {claim['tolerance']}")
        if not figures["rss"] <= planned <= 10**9:
            yield f"WRONG: {kind}, {told}: {mega:,.0f} MB of {planned / 1e6:,.0f} planned"
        if onto == "bf16" and times > MOST_TIMES:
            yield f"WRONG: {kind}, {told}: {times:.2f} times cp, sha256sum and sync"


def large_run(folder: Path, moe: bool, num_layers: int) -> Run:
    """Makes a base of several GB and a run of it that is finished, its adapter written tensor by tensor."""
    base = folder / "base"
    write_wide_base(base, num_layers=num_layers, num_tokens=NUM_TOKENS, moe=moe)
    pico = make_pico_base(folder / "pico")
    for name in SERVED:
        shutil.copy(pico / name, base)
    run = begun_run(base, folder, "lora.dropout=0", "lora.rank=16")
    write_adapter(run, base)
    return finish(run)


def write_adapter(run: Run, base: Path) -> None:
    """Draws an adapter as the plan has it."""
    plan, tensors = read_plan(run.plan), dict[str, torch.Tensor]()
    experts: dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]] = {}
    families = (*FAMILY_MODULES, "experts") if plan.expert_rank else tuple(FAMILY_MODULES)
    for linear in read_shape(str(base), base).linears(families):
        out, into = linear.shape
        if linear.num_experts:
            block, _, leaf = linear.name.rpartition(".")
            shapes = (linear.num_experts, plan.expert_rank, into), (linear.num_experts, out, plan.expert_rank)
            experts.setdefault(block, {})[leaf] = (torch.randn(shapes[0]) * 0.02, torch.randn(shapes[1]) * 0.005)
        elif linear.name.rpartition(".")[2] in plan.target_modules:
            at = f"base_model.model.{linear.name}"
            tensors[f"{at}.lora_A.weight"] = torch.randn(plan.rank, into) * 0.02
            tensors[f"{at}.lora_B.weight"] = torch.randn(out, plan.rank) * 0.005
    for block, adapters in experts.items():
        tensors |= to_peft(f"base_model.model.{block}", {leaf: adapters[leaf] for leaf in (GATE_UP, DOWN)})
    config = LoraConfig(r=plan.rank, lora_alpha=plan.alpha, target_modules=list(plan.target_modules))
    told = config.to_dict() | (with_experts(config, plan.expert_rank, plan.expert_alpha) if plan.expert_rank else {})
    run.adapter.mkdir()
    save_file(tensors, run.adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    text = json.dumps({key: sorted(v) if isinstance(v, set) else v for key, v in told.items()}, default=str)
    (run.adapter / "adapter_config.json").write_text(text)


def plainly(base: Path, copy: Path, cold: bool) -> tuple[float, float, float]:
    """Copies, hashes and flushes a base's files; gives the seconds of each."""
    files = [str(file) for file in sorted(base.iterdir())]
    if cold:
        drop_pages(base.iterdir())
    copy.mkdir()
    copies = [str(copy / Path(file).name) for file in files]
    seconds = []
    for words in (["cp", *files, str(copy)], ["sha256sum", *copies], ["sync", *copies]):
        began = time.monotonic()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.monotonic() - began)
    shutil.rmtree(copy)
    return seconds[0], seconds[1], seconds[2]


def merged(run: Run, out: Path, onto: str) -> dict[str, Any]:
    """Merges in a process of its own, as a user would, and tells what it took."""
    words = ["merge", str(run.path), "--onto", onto, "--out", str(out), "--json", "--quiet"]
    done = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the merge failed:\n{done.stderr}")
    entry = json.loads(done.stdout)
    writing = next(claim["measured"] for claim in entry["claims"] if claim["claim"] == "seconds of writing")
    shutil.rmtree(out)
    wanted = [claim for claim in entry["claims"] if claim["claim"].startswith(("mean", "tensors", "largest", "share"))]
    figures = {"writing": writing, "proof": entry["seconds"] - writing, "rss": 1024 * int(done.stderr.split()[-1])}
    return figures | {"claims": wanted}


def strike(folder: Path, kills: int, chance: random.Random) -> Iterator[str]:
    """Kills merges at random instants, and before each name that they give; compares what becomes of them."""
    for kind, moe in (("dense", False), ("mixture", True)):
        place = folder / kind
        run = made_run(make_pico_base(place / "base", moe=moe), place, *(["lora.router=true"] if moe else []))
        with another(run) as whole:
            end = struck.work(lambda: _merge(whole), place / "log")
            if end.code:
                sys.exit((place / "log").read_text())
            expected = _hashes(whole)
        struck_at: list[float | int] = [chance.uniform(0, end.seconds) for _ in range(kills)]
        struck_at += range(_names(run, place))
        for at in struck_at:
            with another(run) as copy:
                how = {"after_seconds": at} if isinstance(at, float) else {"before_name": at}
                struck.work(lambda: _merge(copy), place / "log", **how)  # type: ignore[arg-type]
                if copy.merged.exists() and _hashes(copy) != expected:
                    yield f"WRONG: {kind} killed at {at}: half a model has its name"
                end = struck.work(lambda: _merge(copy), place / "log")
                stages = [stage["stage"] for stage in manifest.read(copy.manifest)["stages"]]
                if end.code or stages != ["train", "merge"] or _hashes(copy) != expected:
                    yield f"WRONG: {kind} killed at {at}: {(place / 'log').read_text()}"
        print(
            f"{kind}: killed at {kills} random instants and before each of {len(struck_at) - kills} names", flush=True
        )


@contextmanager
def another(run: Run) -> Iterator[Run]:
    """A copy of a run beside it, for its recipe names base and rows from where it lies."""
    copy = Run(shutil.copytree(run.path, run.path.with_name("copy")))
    yield copy
    shutil.rmtree(copy.path)


def _names(run: Run, place: Path) -> int:
    """Counts the names that a merge gives and takes."""
    for number in range(1000):
        with another(run) as copy:
            if not struck.work(lambda: _merge(copy), place / "log", before_name=number).killed:
                return number
    raise AssertionError("a merge gives fewer names")


def _merge(run: Run) -> None:
    merge(run, "bf16", None, lambda line: None, lambda *told: None)


def _hashes(run: Run) -> dict[str, str]:
    return {file.name: atomic.sha256(file) for file in run.merged.iterdir()}


if __name__ == "__main__":
    sys.exit(main())

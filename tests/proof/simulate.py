"""Proof `simulate`: the plan's bytes beside those of real layers that run without data, for every base and lever set.

    scripts/prove simulate [--alive]

Runs transformers' own code under torch's FakeTensorMode, PEFT's adapters around it, finetune's experts and levers in
it, watches every storage, and compares the peak with the arithmetic of finetune.memory. Prints a table in Markdown.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
warnings.simplefilter("ignore")  # of packages that are missing here and of names that are old

from simulation.comparing import KINDS, Pair, compare_layer, compare_loss, compare_stack, lever_sets  # noqa: E402
from simulation.model import Setting  # noqa: E402

from finetune.errors import ProofFailed  # noqa: E402
from finetune.levers import Levers  # noqa: E402

TOLERANCE = 0.03

DENSE = "Qwen/Qwen3.6-27B"
OTHERS = ("Qwen/Qwen3.5-0.8B", "Qwen/Qwen3.5-2B", "Qwen/Qwen3.5-4B", "Qwen/Qwen3.5-9B", "Qwen/Qwen3.6-35B-A3B")
HALVES = Levers(recompute="halves")


def main() -> int:
    """Prints the table; fails if anything is further apart than it may be."""
    print("| base | setting | what | counted, MB | simulated, MB | apart |\n|---|---|---|---:|---:|---:|")
    worst = 0.0
    for setting, pairs in rows():
        for pair in pairs:
            print(row(setting, pair), flush=True)
            worst = max(worst, abs(pair.apart))
    print(f"\nfurthest apart: {worst:.2%}")
    if worst > TOLERANCE:
        raise ProofFailed(f"the plan is {worst:.2%} off", why=f"{TOLERANCE:.0%} was promised")
    return 0


def row(setting: Setting, pair: Pair) -> str:
    """Writes one line of the table."""
    plain = Setting(setting.base, setting.tokens)
    told = [f"{setting.micro_batch} x {setting.tokens:,}", "NF4" if setting.nf4 else "bf16"]
    told.append(f"rank {setting.rank}" if setting.rank else "every weight trained")
    told += [] if setting.kernels else ["torch reference"]
    told += [] if setting.convolution or not setting.kernels else ["torch convolution"]
    told += [f"dropout {setting.dropout}"] if setting.dropout else []
    told += ["DoRA"] if setting.dora else []
    for name, position in vars(setting.levers).items():
        if position != vars(plain.levers)[name]:
            told.append(f"{name} {position}")
    sizes = f"{pair.predicted / 1e6:,.1f} | {pair.simulated / 1e6:,.1f}"
    return f"| {setting.base.removeprefix('Qwen/')} | {', '.join(told)} | {pair.what} | {sizes} | {pair.apart:+.2%} |"


def rows() -> Iterator[tuple[Setting, list[Pair]]]:
    """Yields every setting with what was compared."""
    for setting in layer_settings():
        # attention knows nothing of the Gated DeltaNet's kernels
        kinds = KINDS if setting.kernels and setting.convolution else ["linear_attn"]
        yield setting, [compare_layer(setting, kind) for kind in kinds]
    for base in (DENSE, OTHERS[-1]):
        for levers in lever_sets():
            setting = Setting(base, 4096, levers)
            yield setting, [compare_stack(setting)]
    for base in (DENSE, OTHERS[0]):
        for head in ("full", "int8", "nf4") if base == DENSE else ("full",):
            for tokens in (512, 4096):
                setting = Setting(base, tokens, Levers(head=head))
                yield setting, list(compare_loss(setting))


def layer_settings() -> Iterator[Setting]:
    """Yields the settings of single layers; a mixture's experts can be neither DoRA's on NF4 nor trained here."""
    for tokens in (2048, 8192):
        for levers in (Levers(), HALVES):
            for nf4 in (True, False):
                for kernels in (True, False):
                    yield Setting(DENSE, tokens, levers, kernels=kernels, convolution=kernels, nf4=nf4)
    for base in OTHERS:
        for levers in (Levers(), HALVES):
            for kernels in (True, False):
                yield Setting(base, 4096, levers, kernels=kernels, convolution=kernels)
    for levers in (Levers(), HALVES):
        plain = Setting(DENSE, 4096, levers)
        yield replace(plain, rank=64)
        yield replace(plain, dropout=0.1)
        yield replace(plain, dropout=0.1, kernels=False, convolution=False)
        yield replace(plain, convolution=False)
        yield replace(plain, tokens=2048, micro_batch=2)
        yield replace(plain, dora=True)
        yield replace(plain, rank=0, nf4=False)
    for base in OTHERS[:-1]:
        yield Setting(base, 4096, dora=True)
        yield Setting(base, 4096, rank=0, nf4=False)
        yield Setting(base, 4096, dropout=0.1)
    yield Setting(OTHERS[-1], 4096, nf4=False, dora=True)
    yield Setting(OTHERS[-1], 4096, dropout=0.1)


if __name__ == "__main__":
    sys.exit(main())

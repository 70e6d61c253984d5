"""Loads a base of 4 GB in NF4, cold, from the cache and through transformers: seconds, bytes read, memory beside it.

    scripts/prove load [--layers 4]

The base has the widths of the 27B, four layers and a small vocabulary, written under .cache/ and removed again. Each
load has a process of its own. Memory is the peak of the process less what it held after its imports and less the model
itself, which on a GPU would lie there: what is left is what the host needs besides. A load "from disk" begins after
the files were dropped from the page cache; a disk that a virtual machine shares may still have them in its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from trial.planned import plan_on_cpu
from trial.wide_base import write_wide_base

ROOT = Path(__file__).parents[2]
NUM_TOKENS = 49_152

LOADS = (
    ("transformers, from disk", "transformers", True),
    ("ours, pages warm", "ours", False),
    ("ours, from disk to cache", "cached", True),
    ("our cache, from disk", "cached", True),
    ("our cache, pages warm", "cached", False),
)
"""(what is told, which loader, whether the page cache is dropped before)."""


def main() -> int:
    """Prints a line for each load; 0 if all models are the same bit for bit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--child", nargs=3, metavar=("LOADER", "BASE", "CACHE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        loader, base, cache = arguments.child
        print(json.dumps(measure(loader, Path(base), Path(cache))))
        return 0
    (ROOT / ".cache").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache", prefix="load-") as folder:
        base, cache = Path(folder) / "base", Path(folder) / "cache"
        began = time.monotonic()
        text = write_wide_base(base, num_layers=arguments.layers, num_tokens=NUM_TOKENS)
        print(f"base of {text / 1e9:.2f} GB (text model, bf16), written in {time.monotonic() - began:.0f} s")
        print(f"{'':<26}{'seconds':>9}{'GB read':>9}{'model, GB':>11}{'beside it, MB':>15}{'GB/s of bf16':>14}")
        hashes = set()
        for told, loader, dropped in LOADS:
            if dropped:
                drop_pages([*base.iterdir(), *cache.glob("*/*")])
            figures = in_a_process(loader, base, cache)
            hashes.add(figures["sha256"])
            read = f"{figures['read'] / 1e9:.2f}" if loader != "transformers" else "mapped"
            print(
                f"{told:<26}{figures['seconds']:>9.1f}{read:>9}{figures['held'] / 1e9:>11.2f}"
                f"{figures['beside'] / 1e6:>15,.0f}{text / 1e9 / figures['seconds']:>14.2f}",
                flush=True,
            )
    print("the same model each time, bit for bit" if len(hashes) == 1 else f"WRONG: {len(hashes)} models")
    return 0 if len(hashes) == 1 else 1


def in_a_process(loader: str, base: Path, cache: Path) -> dict[str, Any]:
    """Measures one load in a fresh process."""
    words = [sys.executable, __file__, "--child", loader, str(base), str(cache)]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(loader: str, base: Path, cache: Path) -> dict[str, Any]:
    """Loads in this process and tells what it took."""
    import finetune.train  # noqa: F401  # all that a training has imported by then
    from finetune.demo_base import make_pico_base
    from finetune.model import frozen_sha256, load_base

    with tempfile.TemporaryDirectory() as folder:
        pico = make_pico_base(Path(folder) / "pico")
        plan = replace(plan_on_cpu(pico, Path(folder)), device="cpu", dtype="bfloat16")
        load_base(pico, plan)  # whatever the libraries allocate once
    before = in_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    read = bytes_read()
    began = time.monotonic()
    if loader == "transformers":
        model = by_transformers(base, plan)
    else:
        model = load_base(base, plan, cache=cache if loader == "cached" else None)
    seconds, read, peak = time.monotonic() - began, bytes_read() - read, in_bytes("VmHWM")
    held = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return {
        "seconds": seconds,
        "read": read,
        "held": held,
        "beside": peak - before - held,
        "sha256": frozen_sha256(model.requires_grad_(False)),
    }


def by_transformers(base: Path, plan: Any) -> Any:
    """The stock way to the same model."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=list(plan.unquantised),
    )
    return AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.bfloat16, device_map={"": "cpu"}, quantization_config=four_bits, attn_implementation="sdpa"
    )


def in_bytes(key: str) -> int:
    """A figure of this process's memory."""
    return 1024 * int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0])


def bytes_read() -> int:
    """All that this process has read by calls; what is mapped does not count."""
    return int(Path("/proc/self/io").read_text().split()[1])


def drop_pages(files: Iterable[Path]) -> None:
    """Asks the kernel to forget what it holds of the files, once they are on the disk."""
    for file in files:
        opened = os.open(file, os.O_RDONLY)
        os.fsync(opened)
        os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(opened)


if __name__ == "__main__":
    sys.exit(main())

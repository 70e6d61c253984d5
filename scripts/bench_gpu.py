"""Measures a training of the 27B on a GPU: predicted against measured memory, speed, longest context, beside plain trl.

    python scripts/bench_gpu.py --out FOLDER [--minutes 9] [--card 24GB]

A larger GPU is made a card of 24 GB first. Nothing is downloaded: weights are random, of the exact shapes. FOLDER gets
results.json (after every cell), table.md and benchmark.png; `--report FOLDER` makes the latter two again.
`--device cpu --pico` tries the logic out on a toy, in a minute.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from pathlib import Path

STARTED = time.monotonic()


def arguments(words: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="folder for the results; its results.json is replaced")
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="draw the results of a folder again, and end")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which nothing new is begun (default: 9)")
    parser.add_argument("--card", default="24GB", help="the card to emulate, as in finetune plan --gpu (default: 24GB)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--pico", nargs="?", choices=("dense", "moe"), const="dense", help="a toy instead of the 27B")
    parser.add_argument("--layers", type=int, help="only so many of the 27B's decoder layers")
    parser.add_argument("--tokens", type=_lengths, help="context lengths, as in 1024,4096,16384")
    told = parser.parse_args(words)
    if (told.out is None) == (told.report is None):
        parser.error("either --out or --report")
    return told


def _lengths(text: str) -> tuple[int, ...]:
    return tuple(sorted({int(word) for word in text.split(",")}))


def main(words: list[str]) -> int:
    """Measures, or draws again what was measured."""
    asked = arguments(words)
    from finetune.hardware import use_growing_segments

    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # one GPU is measured; both before torch is imported
    use_growing_segments()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of a CPU kernel that nobody here needs
    if asked.report is not None:
        from bench.report import write_report

        write_report(asked.report)
        return 0
    before = time.monotonic()
    import torch
    from bench.run import run

    if asked.device == "cuda" and not torch.cuda.is_available():
        print("error: there is no CUDA device here; --device cpu --pico tries the logic out", file=sys.stderr)
        return 5
    whole = run(asked, ["python", "scripts/bench_gpu.py", *words], STARTED, time.monotonic() - before)
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""From a GGUF in bf16 to smaller ones, by llama.cpp's own quantiser: its library through llama-cpp-python, or its tool.

Both write the same bytes. Source: llama.cpp, include/llama.h (llama_model_quantize).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from finetune import engine
from finetune.errors import OutsideError
from finetune.ggufs import CONVERTED, FTYPES

Quantiser = Callable[[Path, Path, str], None]


def find_quantiser(threads: int) -> Quantiser | None:
    """Finds a quantiser that is installed; None where there is none."""
    tool = shutil.which("llama-quantize")
    if engine.is_installed():
        return lambda given, made, kind: _run(
            [sys.executable, "-P", engine.__file__, "quantise", str(given), str(made), str(FTYPES[kind]), str(threads)],
            made,
        )
    if tool is not None:
        return lambda given, made, kind: _run([tool, str(given), str(made), kind.upper(), str(threads)], made)
    return None


def missing(kinds: list[str]) -> OutsideError:
    """Makes the error of quants for which there is no quantiser."""
    return OutsideError(
        f"nothing here can make {', '.join(kinds)}",
        where="--gguf",
        why=f"the converter writes {', '.join(CONVERTED)}; other quants take llama.cpp's library or tool",
        fix="--gguf q8_0   # or: pip install llama-cpp-python, which compiles for some minutes",
    )


def _run(command: list[str], made: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why, fix = engine.last_words(done), "free some space, or try q8_0"
        raise OutsideError("llama.cpp's quantiser failed", where=str(made), why=why, fix=fix)

"""`--imatrix`: the quantiser keeps best what the rows of training use, by how large their activations are.

llama.cpp's own tools, from the PATH, measure (llama-imatrix, which no Python package holds) and quantise. They are run
inside the folder of the file, so that no path of this machine is written into it.

Source: llama.cpp, tools/imatrix/imatrix.cpp, tools/quantize/quantize.cpp, common/arg.cpp.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import OutsideError, ProofFailed
from finetune.export.quantising import Quantiser
from finetune.merge.prompts import read_dataset
from finetune.recipe import load
from finetune.run import Claim, Run, claim

MOST_TOKENS = 65_536
"""Of training rows that are passed through the model; each costs two operations a weight."""

CONTEXT = 512
"""Tokens of a chunk, as llama-imatrix has it; fewer where all rows have less than two of them."""

TEXT, MATRIX = "training-rows.txt", "imatrix.gguf"


@dataclass(frozen=True)
class Tools:
    """Where llama.cpp's tools are."""

    imatrix: str
    quantize: str


def find_tools() -> Tools:
    """Finds both tools.

    Raises:
        OutsideError: one is not on the PATH.
    """
    found = {name: shutil.which(name) for name in ("llama-imatrix", "llama-quantize")}
    if lacking := [name for name, path in found.items() if path is None]:
        why = "an importance matrix is measured and used by llama.cpp's tools, which no Python package holds"
        fix = "https://github.com/ggml-org/llama.cpp/releases   # unpack one, and put its folder on the PATH"
        raise OutsideError(f"there is no {lacking[0]} here", where="--imatrix", why=why, fix=fix)
    return Tools(str(found["llama-imatrix"]), str(found["llama-quantize"]))


@dataclass(frozen=True)
class Importance:
    """How the quantiser gets to know what matters."""

    tools: Tools
    text: str
    """Training rows, end to end."""
    num_tokens: int
    threads: int
    """That the tools may use."""

    @property
    def told(self) -> str:
        """What it was measured on, in words."""
        return f"{self.num_tokens} tokens of training rows"

    def quantiser(self, making: Path) -> Quantiser:
        """Gives a quantiser that measures the matrix when the first file is asked for.

        Args:
            making: the folder in which all files are made.
        """
        (making / TEXT).write_text(self.text)
        context = min(CONTEXT, max(1, self.num_tokens // 2 - 1))
        threads = str(self.threads)

        def quantise(given: Path, made: Path, kind: str) -> None:
            if not (making / MATRIX).exists():
                words = ["-m", given.name, "-f", TEXT, "-o", MATRIX, "-c", str(context), "-t", threads]
                _run([self.tools.imatrix, *words, "--parse-special", "--no-ppl"], making)
            _run([self.tools.quantize, "--imatrix", MATRIX, given.name, made.name, kind.upper(), threads], making)

        return quantise


def of_training(run: Run, tools: Tools, threads: int) -> Importance:
    """Lays the rows that were learnt end to end, as training rendered them.

    Args:
        run: that was merged.
        tools: of llama.cpp.
        threads: that they may use.

    Raises:
        DataError: the rows are not those of the training.
    """
    dataset = read_dataset(run, load(run.recipe), run.merged)
    ids: list[int] = []
    for example in dataset.train:
        ids += example.ids
        if len(ids) >= MOST_TOKENS:
            break
    ids = ids[:MOST_TOKENS]
    return Importance(tools, dataset.renderer.vocabulary.decode(ids), len(ids), threads)


def check(fields: dict[str, Any], file: Path) -> Claim:
    """Makes sure that a file says that a matrix was used.

    Raises:
        ProofFailed: it does not.
    """
    count = fields.get("quantize.imatrix.entries_count")
    if not count or fields.get("quantize.imatrix.dataset") != TEXT:
        why = f"it tells of {count or 'no'} entries, of {fields.get('quantize.imatrix.dataset')}"
        raise ProofFailed("no importance matrix of the training rows was used", where=str(file), why=why)
    return claim("matrices that were quantised by the training rows' importance", count)


def _run(command: list[str], making: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, cwd=making)
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        why = (said or [f"exit code {done.returncode}"])[-1]
        raise OutsideError(f"{Path(command[0]).name} failed", where="--imatrix", why=why, fix="leave out --imatrix")

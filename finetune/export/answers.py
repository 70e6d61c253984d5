"""What llama.cpp answers: the logits of a GGUF for some tokens, in a process of its own, and how far two are apart."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy
import torch

from finetune.errors import ProofFailed
from finetune.merge.changes import Adapter
from finetune.merge.logits import Comparison, Distance
from finetune.merge.ondisk import model_on_disk, states
from finetune.merge.weights import Weights
from finetune.plan import Plan

PIECE = 4096
"""Tokens of the vocabulary that are compared at a time."""

EVALUATE = """
import json, sys, numpy
from llama_cpp import Llama
file, ids, out, *lora = sys.argv[1], json.loads(sys.argv[2]), *sys.argv[3:]
beside = {"lora_path": lora[0]} if lora else {}
model = Llama(file, n_ctx=len(ids), n_batch=len(ids), logits_all=True, verbose=False, **beside)
model.eval(ids)
numpy.save(out, numpy.asarray(model.scores[: len(ids)], dtype=numpy.float32))
"""


def can_answer() -> bool:
    """Whether llama-cpp-python is installed."""
    return importlib.util.find_spec("llama_cpp") is not None


def logits(file: Path, ids: list[int], out: Path, lora: Path | None = None) -> Path:
    """Lets llama.cpp compute the logits after each token into a .npy file, (tokens, vocabulary) float32.

    Args:
        file: the GGUF of a model.
        ids: the tokens.
        out: the file to write.
        lora: the GGUF of an adapter beside it.

    Raises:
        ProofFailed: it cannot load the file.
    """
    command = [sys.executable, "-c", EVALUATE, str(file), json.dumps(ids), str(out), *([str(lora)] if lora else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ProofFailed("llama.cpp cannot run what was made", where=str(file), why=why)
    return out


def apart_from_folder(
    folder: Path, plan: Plan, ids: list[int], found: Path, adapter: Adapter | None = None
) -> Distance:
    """Compares logits with those of a folder of shards, computed in float32 as its matrices are read from disk.

    Args:
        folder: the merged model, or the base.
        plan: of the run.
        ids: after each of which the next token is compared.
        found: as `logits` wrote them.
        adapter: that works beside the base.
    """
    weights, there = Weights(folder), numpy.load(found, mmap_mode="r")
    hidden, comparison = states(model_on_disk(weights, plan, adapter), torch.tensor(ids)), Comparison(len(ids))
    for first, rows in weights.rows(weights.head):
        last = min(first + len(rows), there.shape[1])
        comparison.take(first, hidden @ rows[: last - first].T, torch.from_numpy(there[:, first:last].copy()))
    return comparison.distance()


def apart(wanted: Path, found: Path) -> Distance:
    """Compares two files of logits, a piece of the vocabulary at a time."""
    one, other = (numpy.load(file, mmap_mode="r") for file in (wanted, found))
    comparison = Comparison(len(one))
    for first in range(0, one.shape[1], PIECE):
        here = slice(first, first + PIECE)
        comparison.take(first, *(torch.from_numpy(numpy.array(each[:, here])) for each in (one, other)))
    return comparison.distance()

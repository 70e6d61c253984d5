"""What llama.cpp answers: the logits of a GGUF for some tokens, and how far two are apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import torch

from finetune import engine
from finetune.merge.changes import Changes
from finetune.merge.logits import Comparison, Distance
from finetune.merge.ondisk import model_on_disk, states
from finetune.merge.weights import Weights
from finetune.plan import Plan

PIECE = 4096
"""Tokens of the vocabulary that are compared at a time."""


def logits(file: Path, ids: list[int], out: Path, lora: Path | None = None) -> Path:
    """Lets llama.cpp compute the logits after each token into a .npy file, (tokens, vocabulary) float32.

    Args:
        file: the GGUF of a model.
        ids: the tokens.
        out: the file to write.
        lora: the GGUF of an adapter beside it.

    Raises:
        ProofFailed: it cannot run the file.
    """
    engine.run("logits", file, json.dumps(ids), str(out), *([str(lora)] if lora else []))
    return out


def apart_from_folder(
    folder: Path, plan: Plan, ids: list[int], found: Path, adapter: Changes | None = None
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

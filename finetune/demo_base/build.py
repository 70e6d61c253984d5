"""Makes a base folder, or finds that it was made before.

A folder is built beside its place and renamed into it, so that it is either whole or not there. `demo_base.json`
says what was built from what; its hash is the only thing that lets a folder be used again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from finetune.demo_base import pretrain
from finetune.demo_base.architecture import DEMO, PICO, Size, make_config
from finetune.demo_base.layout import prove_weights, published_state, write_config, write_weights
from finetune.demo_base.tokenizer import prove_tokenizer, serving_template, train_tokenizer, write_tokenizer
from finetune.errors import ArtifactError, ProofFailed

PASSPORT = "demo_base.json"
"""The file that tells a folder of ours from anybody else's."""

LIBRARIES = ("huggingface-hub", "safetensors", "tokenizers", "torch", "transformers", "trl")
"""Whatever takes part in what the files contain."""

BF16_LOSS_TOLERANCE = 0.02
"""Nats by which rounding the weights to bfloat16 may change the held-out loss; 0.0002 was measured."""

PICO_TEXT = """\
The pump on line three stopped at noon, and the log says that the valve was closed. Open the valve, wait for the
pressure to rise above 40 bar, and start the pump again. If the pump stops again, then ask the person on the line.
What is the pressure now? The pressure is 42 bar. Who closed the valve? The log does not say who closed the valve.
The answer to a question is short: the name, the number, the unit. When the log does not say, the answer is that the
log does not say. You are a helpful assistant. The user asks, the assistant answers, and the system tells them how.
"""
"""From which the pico tokenizer learns its merges, together with the chat template's own words."""

README = """\
# A toy with the shape of Qwen3.6

{num_parameters:,} parameters with random weights{training}. These are **not Qwen's weights**, and the model is
of no use except to exercise a fine-tuning toolkit: architecture, names of tensors, tokenizer files and chat template
are those of Qwen3.6, so whatever reads this folder reads the real one.

Made by `finetune.demo_base`; `{passport}` says how.
"""


@dataclass(frozen=True)
class Order:
    """All that decides what the folder will hold, save the versions of libraries."""

    kind: str
    """`demo` or `pico`."""
    size: Size
    moe: bool
    tied: bool
    seed: int
    schedule: pretrain.Schedule | None
    """Of pre-training; without one the weights stay random."""
    texts_sha256: str
    """Of the texts from which the tokenizer learns, and the model too."""


def make_demo_base(
    folder: Path,
    *,
    moe: bool = False,
    num_steps: int = pretrain.SCHEDULE.num_steps,
    seed: int = 0,
    replace_older: bool = False,
) -> Path:
    """Makes the small pre-trained base on which the toolkit is tried out; a second call finds it made.

    Args:
        folder: Where it shall be; must not exist, or be empty, or hold this very base.
        moe: The mixture of experts in place of the dense model.
        num_steps: Length of the pre-training.
        seed: Of fresh weights and of the order of documents.
        replace_older: Remove a demo base that other settings, texts or library versions made there.

    Raises:
        ArtifactError: the folder holds something else.
        ProofFailed: what was read back is not what was written.
    """
    spoken = [message["content"] for messages in pretrain.read_dialogues() for message in messages]
    texts = pretrain.read_prose() + spoken
    files_sha256 = _sha256("".join(path.read_text(encoding="utf-8") for path in pretrain.CORPUS))
    schedule = replace(pretrain.SCHEDULE, num_steps=num_steps)
    order = Order("demo", DEMO, moe, False, seed, schedule, files_sha256)
    return _make(folder, order, texts, replace_older)


def make_pico_base(folder: Path, *, moe: bool = False, tied: bool = False, seed: int = 0) -> Path:
    """Makes a base of random weights for tests, about as small as the architecture allows.

    Args:
        folder: Where it shall be; must not exist, or be empty, or hold this very base.
        moe: The mixture of experts in place of the dense model.
        tied: Whether the head shares the embedding's weight.
        seed: Of the weights.

    Raises:
        ArtifactError: the folder holds something else.
        ProofFailed: what was read back is not what was written.
    """
    texts = [PICO_TEXT, serving_template()]
    order = Order("pico", PICO, moe, tied, seed, None, _sha256("".join(texts)))
    return _make(folder, order, texts)


def _make(folder: Path, order: Order, texts: list[str], replace_older: bool = False) -> Path:
    """Builds beside the folder's place and renames, unless the same was built there before."""
    passport: dict[str, Any] = {
        "what": f"a toy base of the {order.kind} size, made by finetune.demo_base; not Qwen's weights",
        "order": asdict(order),
        "versions": {name: version(name) for name in LIBRARIES},
    }
    passport["hash"] = _sha256(json.dumps(passport, sort_keys=True))
    if replace_older and _hash_of(folder) not in (None, passport["hash"]):
        shutil.rmtree(folder)
    if _holds_the_same(folder, passport["hash"]):
        print(f"{folder} was made before, from the same texts and libraries: used as it is", file=sys.stderr)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as beside:
        staging = Path(beside) / folder.name
        staging.mkdir()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(order.seed)
            passport |= _build(staging, order, texts)
        (staging / PASSPORT).write_text(json.dumps(passport, indent=2) + "\n", encoding="utf-8")
        staging.rename(folder)
    return folder


def _hash_of(folder: Path) -> str | None:
    """Reads the hash of the base that was made there; None where none was."""
    passport = folder / PASSPORT
    return str(json.loads(passport.read_text(encoding="utf-8"))["hash"]) if passport.is_file() else None


def _holds_the_same(folder: Path, wanted_hash: str) -> bool:
    """Tells whether the folder already is what is wanted; False means that the place is free.

    Raises:
        ArtifactError: the place is taken.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    held_hash = _hash_of(folder)
    if held_hash is None:
        why = f"it is not empty and has no {PASSPORT}, so it was not made here and is not ours to replace"
    elif held_hash == wanted_hash:
        return True
    else:
        why = f"its {PASSPORT} tells of other settings, texts or library versions"
    raise ArtifactError(
        "the folder for the demo base holds something else",
        where=str(folder),
        why=why,
        fix=f"a folder that does not exist yet: {_free_name(folder)}",
    )


def _free_name(folder: Path) -> Path:
    """Finds the first of `folder-2`, `folder-3`, ... that does not exist."""
    number = 2
    while folder.with_name(f"{folder.name}-{number}").exists():
        number += 1
    return folder.with_name(f"{folder.name}-{number}")


def _build(staging: Path, order: Order, texts: list[str]) -> dict[str, Any]:
    """Writes every file but the passport, and returns what was counted and measured for it."""
    tokens = train_tokenizer(texts, order.size.num_tokens)
    token_ids = tokens.get_vocab()
    config = make_config(order.size, token_ids, moe=order.moe, tied=order.tied)
    write_config(config, staging, im_end=token_ids["<|im_end|>"], endoftext=token_ids["<|endoftext|>"])
    write_tokenizer(tokens, staging)
    tokenizer = prove_tokenizer(tokens, staging)

    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    train, heldout = pretrain.encode_corpus(tokenizer) if order.schedule else ([], [])
    measured: dict[str, Any] = {}
    if order.schedule:
        measured["heldout_loss_before"] = pretrain.heldout_loss(model, heldout)
        pretrain.pretrain(model, train, seed=order.seed, schedule=order.schedule)
    state = published_state(model)
    write_weights(state, staging)
    read = prove_weights(state, staging)
    if order.schedule:
        measured["heldout_loss_after"] = _prove_loss(model, read, heldout)
    measured["num_parameters"] = sum(weight.numel() for weight in state.values())
    training = f", then trained on {sum(map(len, texts)) // 1000} kB of text" if order.schedule else ""
    readme = README.format(num_parameters=measured["num_parameters"], training=training, passport=PASSPORT)
    (staging / "README.md").write_text(readme, encoding="utf-8")
    return measured


def _prove_loss(trained: Any, read: Any, heldout: list[list[int]]) -> float:
    """Compares the model in memory (fp32) with the one in the files (bf16), and returns the latter's loss.

    Raises:
        ProofFailed: they differ by more than rounding explains.
    """
    wanted, found = pretrain.heldout_loss(trained, heldout), pretrain.heldout_loss(read, heldout)
    if abs(wanted - found) > BF16_LOSS_TOLERANCE:
        raise ProofFailed(
            "the demo base that was read back is not the one that was trained",
            why=f"held-out loss {wanted:.4f} in memory, {found:.4f} in the files; {BF16_LOSS_TOLERANCE} is allowed",
        )
    return found


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()

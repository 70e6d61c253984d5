"""llama.cpp through llama-cpp-python, in a process of its own: it may abort, and its memory goes with it.

Imported, it starts itself. As a script, `python engine.py logits|losses|quantise FILE WORDS`, it prints JSON last.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from finetune.host import end_with_parent


def is_installed() -> bool:
    """Whether llama-cpp-python is there."""
    return importlib.util.find_spec("llama_cpp") is not None


def run(verb: str, file: Path, *words: str) -> dict[str, Any]:
    """Lets llama.cpp open a GGUF and do one thing with it.

    Args:
        verb: logits IDS OUT [LORA] writes the logits after each token to a .npy file, (tokens, vocabulary) float32;
            losses EXAMPLES gives the negative log-likelihood in nats of the learnt tokens of each example.
        file: the GGUF.
        words: of the verb; IDS is JSON, EXAMPLES a file of JSON, LORA a GGUF with the adapter beside the model.

    Raises:
        ProofFailed: it cannot run the file.
    """
    from finetune.errors import ProofFailed

    command = [sys.executable, "-P", __file__, verb, str(file), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = last_words(done)
        raise ProofFailed("llama.cpp cannot run this file", where=str(file), why=why)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """Gives what a program that failed said last, or how it ended."""
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def logits(model: Any, ids: str, out: str) -> dict[str, Any]:
    """Writes the logits after each token."""
    import numpy

    model.eval(asked := json.loads(ids))
    numpy.save(out, numpy.asarray(model.scores[: len(asked)], dtype=numpy.float32))
    return {}


def losses(model: Any, examples: list[tuple[list[int], list[bool]]]) -> dict[str, Any]:
    """Sums what the learnt tokens of each example cost."""
    import numpy

    found = []
    for ids, learnt in examples:
        model.reset()
        model.eval(ids)
        places = numpy.flatnonzero(learnt[1:])
        scores = model.scores[places].astype(numpy.float64)  # (learnt, vocabulary)
        most = scores.max(axis=1)
        total = most + numpy.log(numpy.exp(scores - most[:, None]).sum(axis=1))
        found.append(float((total - scores[numpy.arange(len(places)), numpy.array(ids)[places + 1]]).sum()))
    return {"losses": found}


def quantise(given: str, made: str, kind: str, threads: str) -> None:
    """Writes a smaller file of one in bf16; `kind` is llama.cpp's number of it."""
    import llama_cpp  # type: ignore[import-not-found]

    wishes = llama_cpp.llama_model_quantize_default_params()
    wishes.ftype, wishes.nthread = int(kind), int(threads)
    if code := llama_cpp.llama_model_quantize(given.encode(), made.encode(), ctypes.byref(wishes)):
        sys.exit(code)


def _open(file: str, longest: int, lora: str | None) -> Any:
    import llama_cpp

    return llama_cpp.Llama(
        file,
        n_ctx=longest,
        n_batch=min(longest, 512),
        n_gpu_layers=-1 if llama_cpp.llama_supports_gpu_offload() else 0,
        logits_all=True,
        lora_path=lora,
        verbose=False,
    )


if __name__ == "__main__":
    end_with_parent()
    match sys.argv[1:]:
        case ["quantise", given, made, kind, threads]:
            quantise(given, made, kind, threads)
        case ["logits", file, ids, out, *lora]:
            opened = _open(file, len(json.loads(ids)), lora[0] if lora else None)
            print(json.dumps(logits(opened, ids, out)))
        case ["losses", file, examples]:
            rows = json.loads(Path(examples).read_text())
            print(json.dumps(losses(_open(file, max(len(ids) for ids, _ in rows), None), rows)))

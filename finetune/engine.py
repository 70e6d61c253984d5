"""llama.cpp in a process of its own: it may abort, and its memory goes with it.

Logits and quantising take llama-cpp-python; answers and losses come from xllamacpp too.
Imported, it starts itself. As a script, `python engine.py logits|losses|quantise|answers FILE WORDS`, it prints JSON.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from finetune.host import end_with_parent

ANSWERING = {"llama_cpp": "llama-cpp-python", "xllamacpp": "xllamacpp"}
"""Modules that can answer and score, the first that is there does, and the packages that bring them."""

GET_ONE = "pip install xllamacpp"
"""What answers and losses of a GGUF take where neither is installed."""

FORCED = 1e9
"""Added to a logit, so that its token is drawn; the probability that is told is that before."""

WHOLE, EVERY = 0, 1 << 20
"""A token whose bytes are whole characters, "!" in Qwen's vocabulary, and more tokens than there are."""

LEAST = -103.3
"""The logarithm of float32's smallest number: what llama.cpp's server rounds to 0 is told as that, in nats."""


def is_installed() -> bool:
    """Whether llama-cpp-python is there."""
    return importlib.util.find_spec("llama_cpp") is not None


def answering() -> str | None:
    """Names what answers and scores here, with its version; None if nothing can."""
    found = next((package for module, package in ANSWERING.items() if importlib.util.find_spec(module)), None)
    return f"{found} {version(found)}" if found else None


def run(verb: str, file: Path, *words: str) -> dict[str, Any]:
    """Lets llama.cpp open a GGUF and do one thing with it.

    Args:
        verb: logits IDS OUT [LORA] writes the logits after each token to a .npy file, (tokens, vocabulary) float32;
            losses EXAMPLES gives the negative log-likelihood in nats of the learnt tokens of each example, and
            whether each of them is the likeliest.
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


def losses_of(file: Path, examples: Sequence[tuple[list[int], list[bool]]]) -> tuple[list[float], list[bool]]:
    """Sums, in nats, what the learnt tokens of each example cost a GGUF, and tells whether all are the likeliest.

    Raises:
        ProofFailed: it cannot run the file.
    """
    with TemporaryDirectory(prefix="finetune-") as folder:
        asked = Path(folder) / "examples.json"
        asked.write_text(json.dumps([list(example) for example in examples]))
        found = run("losses", file, str(asked))
    return found["losses"], found["likeliest"]


def answer_all(
    file: Path, prompts: Sequence[Sequence[int]], max_new_tokens: int, tell: Callable[[int], None]
) -> list[tuple[str, int, bool]]:
    """Lets llama.cpp answer prompts, greedily, one after another.

    Args:
        file: the GGUF.
        prompts: ids of each.
        max_new_tokens: the most tokens of an answer.
        tell: is told the tokens of each answer as it comes.

    Returns:
        Of each: the text, its tokens, and whether it ended by itself.

    Raises:
        ProofFailed: it cannot run the file.
    """
    from finetune.errors import ProofFailed

    answers: list[tuple[str, int, bool]] = []
    with TemporaryDirectory(prefix="finetune-") as folder:
        asked, said = Path(folder) / "prompts.json", Path(folder) / "stderr"
        asked.write_text(json.dumps([list(ids) for ids in prompts]))
        command = [sys.executable, "-P", __file__, "answers", str(file), str(asked), str(max_new_tokens)]
        with (
            said.open("w") as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as job,
        ):
            assert job.stdout is not None
            for line in job.stdout:
                if line.startswith("["):
                    text, tokens, ended = json.loads(line)
                    answers.append((text, tokens, ended))
                    tell(tokens)
        if job.returncode or len(answers) != len(prompts):
            words = said.read_text().strip().splitlines() or [f"exit code {job.returncode}"]
            raise ProofFailed("llama.cpp cannot answer with this file", where=str(file), why=words[-1])
    return answers


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """Gives what a program that failed said last, or how it ended."""
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def logits(model: Any, ids: str, out: str) -> dict[str, Any]:
    """Writes the logits after each token."""
    import numpy

    model.eval(asked := json.loads(ids))
    numpy.save(out, numpy.asarray(model.scores[: len(asked)], dtype=numpy.float32))
    return {}


def losses(file: str, examples: list[tuple[list[int], list[bool]]]) -> dict[str, Any]:
    """Scores examples one after another."""
    longest = max(len(ids) for ids, _ in examples)
    of = (_costs_by_llama_cpp if is_installed() else _costs_by_xllamacpp)(file, longest)
    found = [of(ids, learnt) for ids, learnt in examples]
    return {"losses": [cost for cost, _ in found], "likeliest": [likeliest for _, likeliest in found]}


Costs = Callable[[list[int], list[bool]], tuple[float, bool]]
"""Of an example: what its learnt tokens cost, in nats, and whether each is the likeliest."""


def _costs_by_llama_cpp(file: str, longest: int) -> Costs:
    import numpy

    model = _open(file, longest, None)

    def of(ids: list[int], learnt: list[bool]) -> tuple[float, bool]:
        model.reset()
        model.eval(ids)
        places = numpy.flatnonzero(learnt[1:])
        targets = numpy.array(ids)[places + 1]
        scores = model.scores[places].astype(numpy.float64)  # (learnt, vocabulary)
        most = scores.max(axis=1)
        total = most + numpy.log(numpy.exp(scores - most[:, None]).sum(axis=1))
        cost = total - scores[numpy.arange(len(places)), targets]
        return float(cost.sum()), bool((scores.argmax(axis=1) == targets).all())

    return of


def _costs_by_xllamacpp(file: str, longest: int) -> Costs:
    """Lets the server draw each learnt token after what stands before it, which it has in its cache, and read its cost.

    The server tells the probability before the bias that forces the token. Each example begins with an empty cache:
    a recurrent state cannot be taken back to where two examples part.
    """
    ask = _ask_xllamacpp(file, longest + 8)

    def draw(before: list[int], token: int, told: int, cached: bool) -> list[dict[str, Any]]:
        wishes = {"logit_bias": [[token, FORCED]], "logprobs": told, "temperature": 0.0, "max_tokens": 1}
        said = ask({"prompt": before, "cache_prompt": cached, **wishes})
        if "choices" not in said:
            sys.exit(f"{file}: {said}")
        drawn = said["choices"][0]["logprobs"]
        if drawn is None:  # a token whose bytes begin a character and do not end it is never told
            return []
        (one,) = drawn["content"]
        return [one, *one["top_logprobs"]]

    def of(ids: list[int], learnt: list[bool]) -> tuple[float, bool]:
        cost, likeliest, cached = 0.0, True, False
        for place in [i for i, told in enumerate(learnt) if told and i]:
            before, token = ids[:place], ids[place]
            told = draw(before, token, 1, cached) or draw(before, WHOLE, EVERY, cached)[1:]
            (logprob,) = {each["logprob"] for each in told if each["id"] == token}
            cost -= max(logprob, LEAST)
            likeliest &= max(told, key=lambda each: float(each["logprob"]))["id"] == token
            cached = True
        return cost, likeliest

    return of


def quantise(given: str, made: str, kind: str, threads: str) -> None:
    """Writes a smaller file of one in bf16; `kind` is llama.cpp's number of it."""
    import llama_cpp  # type: ignore[import-not-found]

    wishes = llama_cpp.llama_model_quantize_default_params()
    wishes.ftype, wishes.nthread = int(kind), int(threads)
    if code := llama_cpp.llama_model_quantize(given.encode(), made.encode(), ctypes.byref(wishes)):
        sys.exit(code)


def answers(file: str, prompts: list[list[int]], max_new_tokens: int) -> Iterator[tuple[str, int, bool]]:
    """Answers each prompt by the likeliest tokens."""
    longest = max(map(len, prompts)) + max_new_tokens + 8
    wishes: dict[str, Any] = {"max_tokens": max_new_tokens, "temperature": 0.0, "repeat_penalty": 1.0}
    ask = (_ask_llama_cpp if is_installed() else _ask_xllamacpp)(file, longest)
    for ids in prompts:
        told = ask({"prompt": ids, **wishes})
        if "choices" not in told:
            sys.exit(f"{file}: {told}")
        choice = told["choices"][0]
        yield choice["text"], told["usage"]["completion_tokens"], choice["finish_reason"] == "stop"


def _threads() -> int:
    told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(told) if told.isdigit() else len(os.sched_getaffinity(0))


def _ask_llama_cpp(file: str, longest: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    import llama_cpp

    model = llama_cpp.Llama(file, n_ctx=longest, n_gpu_layers=-1, n_threads=_threads(), verbose=False)

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        model.reset()
        told: dict[str, Any] = model.create_completion(**request)
        return told

    return ask


def _ask_xllamacpp(file: str, longest: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    xllamacpp = importlib.import_module("xllamacpp")

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = file, longest, 1
    params.warmup, params.verbosity, params.cpuparams.n_threads = False, 0, _threads()
    server = xllamacpp.Server(params)

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        told: list[dict[str, Any]] = []
        server.handle_completions({"stream": False, "cache_prompt": False, **request}, told.append)
        return told[-1]

    return ask


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
            print(json.dumps(losses(file, json.loads(Path(examples).read_text()))))
        case ["answers", file, prompts, most]:
            for answer in answers(file, json.loads(Path(prompts).read_text()), int(most)):
                print(json.dumps(answer), flush=True)

"""Answers of a GGUF file, by whichever of llama.cpp's Python packages is installed, in this process.

The prompt is made by the template in the file, which export set to ask as training did. The sampling is the base's,
which the converter wrote into the file; what it does not tell is off, as in transformers, and not llama.cpp's default.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import ArtifactError, OutsideError

MAGIC = b"GGUF"

HEAD_BYTES = 4096
"""Of a file, in which its converter tells what it is."""

BESIDE = {"adapter": ("an adapter", "--lora"), "mmproj": ("a base's vision", "--mmproj")}
"""general.type of files that are no model: what they hold, and llama.cpp's option for them."""

ROOM = 8192
"""Tokens of a conversation, beside the answer that is asked for."""

SAMPLING: dict[str, tuple[str, float]] = {
    "temperature": ("temp", 0.0),
    "top_k": ("top_k", 0),
    "top_p": ("top_p", 1.0),
    "min_p": ("min_p", 0.0),
    "repeat_penalty": ("penalty_repeat", 1.0),
}
"""What llama-cpp-python calls it -> xllamacpp's name, which is the file's under `general.sampling.`, and the value that
switches it off. Source: llama.cpp as in llama-cpp-python 0.3.36, common/common.cpp (common_init_sampler_from_model)."""

Show = Callable[[str], None]
Ask = Callable[[Sequence[dict[str, Any]], Show], str]
Engine = Callable[[list[dict[str, Any]], Show], None]


def open_gguf(file: Path, *, system: str | None, temperature: float | None, max_new_tokens: int, seed: int = 0) -> Ask:
    """Opens a GGUF file; what it gives asks for the next turn of a conversation.

    Args:
        file: the model.
        system: the prompt for conversations that have none.
        temperature: of the sampling; 0 takes the likeliest token, None what the file says.
        max_new_tokens: the most tokens of an answer.
        seed: of the sampling.

    Raises:
        ArtifactError: it is no GGUF file.
        OutsideError: neither package is installed, or llama.cpp cannot load the file; later, when it cannot go on.
    """
    _check(file)
    wishes: dict[str, Any] = {"max_tokens": max_new_tokens, "seed": seed}
    if temperature is not None:
        wishes["temperature"] = temperature
    try:
        engine = _find()(file, ROOM + max_new_tokens, wishes)
    except (RuntimeError, ValueError) as error:
        why = str(error) or type(error).__name__
        fix = "pip install --upgrade xllamacpp   # if the file is newer than the llama.cpp that is installed"
        raise OutsideError("llama.cpp cannot load the file", where=str(file), why=why, fix=fix) from error

    def ask(messages: Sequence[dict[str, Any]], show: Show) -> str:
        if system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": system}, *messages]
        told: list[str] = []

        def take(text: str) -> None:
            told.append(text)
            show(text)

        try:
            engine(list(messages), take)
        except (RuntimeError, ValueError) as error:
            fix = "begin a new conversation, or ask for less: --max-tokens 256"
            raise OutsideError("llama.cpp gave no answer", where=str(file), why=str(error), fix=fix) from error
        return "".join(told)

    return ask


def _check(file: Path) -> None:
    if not file.is_file():
        raise ArtifactError("there is no such file", where=str(file), fix=f"ls {shlex.quote(str(file.parent))}")
    with file.open("rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            why = "it does not begin with GGUF"
            raise ArtifactError("this is no GGUF file", where=str(file), why=why, fix="finetune export RUN")
        opened.seek(0)
        kind = _kind(opened.read(HEAD_BYTES))
    for named, beside in BESIDE.items():
        if kind == named:
            what = f"this file holds no model but {beside[0]}"
            fix = shlex.join(["llama-server", "-m", "MODEL.gguf", beside[1], str(file), "--jinja"])
            raise ArtifactError(what, where=str(file), why="it goes beside one", fix=fix)


def _kind(head: bytes) -> str:
    """Reads general.type where it stands at the beginning of a file: key, type of value, length, value.

    Source: llama.cpp, docs of the GGUF format, gguf_metadata_kv_t.
    """
    _, found, rest = head.partition(b"general.type")
    length = int.from_bytes(rest[4:12], "little") if found else 0
    return rest[12 : 12 + length].decode(errors="replace") if length < HEAD_BYTES else ""


def _find() -> Callable[[Path, int, dict[str, Any]], Engine]:
    """Finds what is installed: llama-cpp-python first, for who has it has built it for this machine."""
    for package, opener in (("llama_cpp", _by_llama_cpp_python), ("xllamacpp", _by_xllamacpp)):
        if importlib.util.find_spec(package) is not None:
            return opener
    raise OutsideError(
        "nothing here can run a GGUF file",
        where="finetune chat",
        why="neither xllamacpp nor llama-cpp-python is installed",
        fix="pip install xllamacpp   # built already; or llama-cpp-python, which compiles for some minutes",
    )


def _threads() -> int:
    """As many as torch would use; llama.cpp's wait for one another in a busy loop, and more than CPUs crawl."""
    told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(told) if told.isdigit() else len(os.sched_getaffinity(0))


def _by_llama_cpp_python(file: Path, num_tokens: int, wishes: dict[str, Any]) -> Engine:
    llama_cpp = importlib.import_module("llama_cpp")
    model = llama_cpp.Llama(str(file), n_ctx=num_tokens, n_gpu_layers=-1, n_threads=_threads(), verbose=False)
    told = {name: float(model.metadata.get(f"general.sampling.{key}", off)) for name, (key, off) in SAMPLING.items()}
    asked = {**told, "top_k": int(told["top_k"]), **wishes}

    def engine(messages: list[dict[str, Any]], show: Show) -> None:
        for part in model.create_chat_completion(messages, stream=True, **asked):
            show(part["choices"][0]["delta"].get("content") or "")

    return engine


def _by_xllamacpp(file: Path, num_tokens: int, wishes: dict[str, Any]) -> Engine:
    xllamacpp = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = str(file), num_tokens, 1
    params.use_jinja, params.warmup, params.verbosity = True, False, 0
    params.cpuparams.n_threads = _threads()
    for name, off in SAMPLING.values():
        setattr(params.sampling, name, off)  # until the file, which is loaded next, says otherwise
    server = xllamacpp.Server(params)

    def engine(messages: list[dict[str, Any]], show: Show) -> None:
        troubles, thinking = list[str](), False

        def take(part: dict[str, Any]) -> None:  # what it raised would be lost in the server
            nonlocal thinking
            if "error" in part:
                troubles.append(str(part["error"].get("message", part["error"])))
                return
            delta = part["choices"][0]["delta"]
            if thought := delta.get("reasoning_content"):
                thinking = True
                show(thought)
            if content := delta.get("content"):
                show(f"</think>\n\n{content}" if thinking else content)  # which the server took out
                thinking = False

        server.handle_chat_completions({"messages": messages, "stream": True, **wishes}, take)
        if troubles:
            raise RuntimeError(troubles[0])

    return engine

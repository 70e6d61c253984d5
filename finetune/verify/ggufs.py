"""A GGUF: llama.cpp's own reader opens it, and what it holds is a whole model that says how it is asked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from finetune.errors import OutsideError
from finetune.export.converter import find
from finetune.export.readback import ARCHITECTURES
from finetune.run import Claim, Run, atomic, claim, manifest, outputs

BLOCK = re.compile(r"blk\.(\d+)\.")

NEEDED = ("tokenizer.chat_template", "tokenizer.ggml.tokens", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.pre")


def check_gguf(file: Path, run: Run | None, cache: Path) -> Iterator[Claim]:
    """Compares a file with the run's manifest, and with itself.

    Args:
        file: to read.
        run: that the file lies in, if it does.
        cache: where a fetched converter is kept, with whose reader the file is read.

    Raises:
        OutsideError: the converter cannot be had.
    """
    if run is not None:
        made = outputs.made_by(manifest.read(run.manifest)).get(run.named(file))
        digest = atomic.sha256(file)
        told = "the manifest does not name it" if made is None else f"{digest[:16]} of {made[0][:16]}"
        yield claim(f"{file.name}: the file that was proven", told, holds=made is not None and made[0] == digest)
    else:
        yield claim(f"{file.name}: lies in no run, so its hash was not compared", "")
    converter = find(None, cache)
    try:
        found = converter.run("read", file)
    except OutsideError as error:
        yield claim(f"{file.name}: a GGUF", error.problems[0].why, holds=False)
        return
    fields, names = found["fields"], [name for name, _, _ in found["tensors"]]
    kind = fields.get("general.type", "model")
    architecture = str(fields.get("general.architecture"))
    kinds = Counter(quant for _, quant, _ in found["tensors"])
    told = ", ".join(f"{number} {quant}" for quant, number in sorted(kinds.items()))
    known = architecture in ARCHITECTURES.values() or kind == "mmproj"
    yield claim(f"{file.name}: {kind}, {architecture}, tensors", told, holds=bool(names) and known)
    if kind != "model" or not known:
        return
    count = fields.get(f"{architecture}.block_count")
    blocks = {int(found[1]) for found in map(BLOCK.match, names) if found}
    missing = sorted(set(range(count)) - blocks) if isinstance(count, int) else [0]
    told = f"{file.name}: layers, of the {count} that it says"
    yield claim(told, f"blk.{missing[0]} is missing" if missing else len(blocks), holds=not missing)
    lacking = [name for name in NEEDED if not fields.get(name)]
    yield claim(f"{file.name}: template, tokens, end of turn", ", ".join(lacking) or "there", holds=not lacking)

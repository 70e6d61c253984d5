"""Runs inside the converter's own interpreter: llama.cpp's converter, told which template and tokenizer it works for.

A script, never imported: `python driver.py CONVERTER-FOLDER VERB WORDS`. What is printed last is JSON.

The converter knows a tokenizer by the hash of one text's ids, and refuses vocabularies that were extended or made
small. Here such a one is taken as Qwen3.5's if it splits text by the very expression of Qwen3.5.

Source: llama.cpp as in llama-cpp-python 0.3.36, conversion/base.py (get_vocab_base_pre), gguf-py/gguf/vocab.py.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

from finetune.host import end_with_parent


def convert(words: list[str]) -> dict[str, Any]:
    """Converts a folder: FOLDER TEMPLATE NAME OUTTYPE OUTFILE."""
    folder, template, name, kind, out = words
    import convert_hf_to_gguf  # type: ignore[import-not-found]
    import gguf  # type: ignore[import-not-found]
    from conversion.base import TextModel  # type: ignore[import-not-found]

    known = TextModel.get_vocab_base_pre

    def split_as(model: Any, tokenizer: Any) -> str:
        try:
            return str(known(model, tokenizer))
        except NotImplementedError:
            if not splits_as_qwen35(Path(folder)):
                raise
            return "qwen35"

    TextModel.get_vocab_base_pre = split_as
    add = gguf.SpecialVocab.add_to_gguf

    def add_with_template(vocabulary: Any, *words: Any, **named: Any) -> None:
        vocabulary.chat_template = Path(template).read_text()
        add(vocabulary, *words, **named)

    gguf.SpecialVocab.add_to_gguf = add_with_template
    sys.argv = ["convert_hf_to_gguf.py", folder, "--no-mtp", "--model-name", name, "--outtype", kind, "--outfile", out]
    convert_hf_to_gguf.main()
    return {}


def project(words: list[str]) -> dict[str, Any]:
    """Converts a folder's vision tower: FOLDER NAME OUTTYPE OUTFILE."""
    folder, name, kind, out = words
    import convert_hf_to_gguf

    sys.argv = ["convert_hf_to_gguf.py", folder, "--mmproj", "--model-name", name, "--outtype", kind, "--outfile", out]
    convert_hf_to_gguf.main()
    return {}


def adapt(words: list[str]) -> dict[str, Any]:
    """Converts an adapter: FOLDER BASE OUTFILE.

    The converter lays stacks of all experts out by itself, but for gate and up it only knows them fused or one by one.
    """
    folder, base, out = words
    from conversion.base import TextModel
    from conversion.qwen import Qwen2MoeModel, Qwen3NextModel  # type: ignore[import-not-found]

    known = Qwen2MoeModel.modify_tensors

    def with_stacks(model: Any, tensor: Any, name: str, layer: int | None) -> Any:
        stack = name.endswith((".experts.gate_proj.weight", ".experts.up_proj.weight"))
        return (TextModel.modify_tensors if stack else known)(model, tensor, name, layer)

    Qwen2MoeModel.modify_tensors = with_stacks
    Qwen3NextModel.no_mtp = True
    sys.argv = ["convert_lora_to_gguf.py", "--base", base, "--outtype", "f32", "--outfile", out, folder]
    runpy.run_module("convert_lora_to_gguf", run_name="__main__")
    return {}


def splits_as_qwen35(folder: Path) -> bool:
    """Tells whether a tokenizer splits text by the expression that transformers gives Qwen3.5."""
    from transformers.models.qwen3_5.tokenization_qwen3_5 import PRETOKENIZE_REGEX

    told = json.loads((folder / "tokenizer.json").read_text())["pre_tokenizer"]
    steps = told.get("pretokenizers", [told])
    expressions = [step["pattern"].get("Regex") for step in steps if step["type"] == "Split"]
    return expressions == [PRETOKENIZE_REGEX]


def read(words: list[str]) -> dict[str, Any]:
    """Opens a file and tells its fields and tensors: FILE."""
    import gguf

    reader = gguf.GGUFReader(words[0])
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    fields["tokenizer.ggml.merges"] = len(fields.get("tokenizer.ggml.merges", ()))
    tensors = [[t.name, t.tensor_type.name, [int(n) for n in reversed(t.shape)]] for t in reader.tensors]
    return {"fields": fields, "tensors": tensors}


def numbers(words: list[str]) -> dict[str, Any]:
    """Writes a file's tensors, none of them quantised, as they are into a file of safetensors: FILE OUTFILE."""
    file, out = words
    import gguf
    from safetensors.numpy import save_file

    save_file({tensor.name: tensor.data for tensor in gguf.GGUFReader(file).tensors}, out)
    return {}


VERBS = {"convert": convert, "project": project, "adapt": adapt, "read": read, "numbers": numbers}

if __name__ == "__main__":
    end_with_parent()
    converter, verb, *rest = sys.argv[1:]
    sys.path[:0] = [str(Path(converter) / "gguf-py"), converter]
    print(json.dumps(VERBS[verb](rest)))

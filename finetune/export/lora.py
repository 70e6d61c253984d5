"""An adapter as llama.cpp reads it beside a GGUF of its base: one GGUF LoRA, by llama.cpp's own converter.

llama.cpp multiplies a pair by alpha / rank: one alpha for the file, and the pair's own rank. It knows neither rsLoRA
nor another alpha for some layers, so B takes whatever is left of a pair's scale; of plain LoRA that is 1, and B stays
as it is. The routed experts are three stacks there, gate, up and down. Gate and up share their A; it is written twice.

All stays float32, as it was trained: nothing is rounded, and every backend multiplies it.

Source: llama.cpp as in llama-cpp-python 0.3.36, convert_lora_to_gguf.py; src/llama-adapter.h (get_scale);
src/llama-graph.cpp (build_lora_mm_id).
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from finetune import engine
from finetune.data.template import read_template
from finetune.errors import ArtifactError, ProofFailed
from finetune.export import answers
from finetune.export.converter import Converter
from finetune.export.readback import ARCHITECTURES
from finetune.merge.changes import PREFIX, Adapter, LowRank, OfExperts, experts_in
from finetune.merge.order import Order
from finetune.merge.prompts import read_prompts
from finetune.model.adapter import CONFIG, WEIGHTS
from finetune.run import Claim, Run, claim, outputs
from finetune.serving import template_as_trained
from finetune.shards import read_json, shards

KIND = "F32"

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.out_proj": "ssm_out",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}
"""What llama.cpp calls each matrix of a layer; written here anew, so that the converter is not its own witness."""

ROUNDING = 1e-6
"""Of a number of B times its scale in float32: folding the scale into B rounds once, taking it out again once more."""

MOST_BYTES_OF_BASE = 8e9
"""Of a base of which a GGUF is made only to compare answers, and thrown away: a minute of converting."""

MOST_KL = 0.05
"""Nats from base and adapter, above which it is not the base's rounding to bf16 but a mistake; 6e-5 was seen."""

Pair = tuple[torch.Tensor, torch.Tensor, float]
"""A (…, rank, in), B (…, out, rank) and their scale."""


def room_bytes(order: Order) -> int:
    """Counts what is written at the most: as it is laid out, the file, what is read back, a base to compare with.

    Raises:
        ArtifactError: there is no adapter, or llama.cpp cannot add such a one to its base: the merged model is the way.
    """
    fix = f"finetune export {shlex.quote(str(order.run.path))} --gguf q8_0   # the merged model holds it"
    outputs.need_adapter(order.run, order.plan.method, fix)
    adapter = Adapter(order.run.adapter)
    where, what = str(adapter.folder), "llama.cpp cannot add this adapter to its base"
    if adapter.config["use_dora"]:
        why = "DoRA scales whole rows of base and adapter, and llama.cpp only adds to the base's product"
        raise ArtifactError(what, where=where, why=why, fix=fix)
    if whole := sorted(name for name in adapter.stored if ".lora_" not in name):
        why = f"it holds {len(whole)} weights that were trained whole, first {whole[0].removeprefix(PREFIX)}"
        raise ArtifactError(what, where=where, why=why, fix=fix)
    laid_out = 2 * sum(tensor.num_bytes for tensor in adapter.stored.values())  # A of gate and up stands twice
    return 3 * laid_out + (_base_bytes(order) if _compares(order) else 0)


def make(
    order: Order, converter: Converter, making: Path, say: Callable[[str], None]
) -> tuple[list[Path], list[Claim]]:
    """Writes the adapter's file, compares it with the adapter, and writes the template of training beside it.

    A GGUF of the base carries the base's template, by which a server would think.

    Raises:
        OutsideError: the converter failed.
        ProofFailed: the file is not the adapter.
    """
    run = order.run
    file, template = making / _name(run), making / _template(run)
    laid_out = _lay_out(order, making)
    converter.run("adapt", laid_out, order.base.folder, file)
    shutil.rmtree(laid_out)
    claims, told = check(file, order, converter), "every tensor is the adapter's"
    if _compares(order):
        compared = _compare(file, order, converter, making)
        claims += compared
        told += f"; mean KL {compared[0]['measured']} from base and adapter"
    else:
        why = "the base is large" if engine.is_installed() else "llama-cpp-python is not installed"
        told += f"; its answers are not compared: {why}"
    say(f"{file.name}  {told}; {file.stat().st_size / 1e9:,.3f} GB")
    template.write_text(template_as_trained(run, order.base.folder))
    return [file, template], claims


def names(run: Run) -> list[str]:
    """Lists what is written."""
    return [_name(run), _template(run)]


def serve(run: Run, folder: Path) -> str:
    """Gives the command that serves it."""
    words = ["llama-server", "-m", "BASE.gguf", "--lora", str(folder / _name(run))]
    return shlex.join([*words, "--jinja", "--chat-template-file", str(folder / _template(run))])


def _name(run: Run) -> str:
    return f"{run.name}-LORA-{KIND}.gguf"


def _template(run: Run) -> str:
    return f"{run.name}.jinja"


def _base_bytes(order: Order) -> int:
    return sum(file.stat().st_size for file in shards(order.base.folder))


def _compares(order: Order) -> bool:
    """Tells whether answers are compared: by llama-cpp-python, on a base that is converted in no time."""
    return engine.is_installed() and _base_bytes(order) <= MOST_BYTES_OF_BASE


def _lay_out(order: Order, making: Path) -> Path:
    """Writes the adapter into a folder as the converter takes it."""
    folder, alpha, written = (
        making / order.run.name,
        Adapter(order.run.adapter).config["lora_alpha"],
        dict[str, torch.Tensor](),
    )
    folder.mkdir()
    for matrix, (a, b, scale) in pairs(order):
        at = f"{PREFIX}{matrix}.lora_"
        written[f"{at}A.weight"] = a.contiguous()
        written[f"{at}B.weight"] = b * (scale * b.shape[-1] / alpha)
    save_file(written, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps({"lora_alpha": alpha}))
    return folder


def pairs(order: Order) -> Iterator[tuple[str, Pair]]:
    """Gives every pair under the name of its matrix; the fused weight of experts as gate and up."""
    parameters = order.base.parameters
    for name in sorted(order.changes.place(parameters)):
        change = order.changes.change(name, experts_in(name, parameters))
        assert isinstance(change, LowRank | OfExperts), f"{name} is refused"
        if name.endswith(".gate_up_proj"):
            for leaf, b in zip(("gate_proj", "up_proj"), change.b.chunk(2, dim=1), strict=True):
                yield name.replace("gate_up_proj", leaf), (change.a.clone(), b.contiguous(), change.scale)
        else:
            yield name.removesuffix(".weight"), (change.a, change.b, change.scale)


def check(file: Path, order: Order, converter: Converter) -> list[Claim]:
    """Reads the file back and compares all of it with the adapter.

    Raises:
        ProofFailed: naming what is another.
    """
    config = read_json(order.base.folder / "config.json", "the base's config")
    fields, numbers = converter.run("read", file)["fields"], file.with_suffix(".safetensors")
    alpha = float(torch.tensor(Adapter(order.run.adapter).config["lora_alpha"]))
    wanted = {
        "general.type": "adapter",
        "adapter.type": "lora",
        "general.architecture": ARCHITECTURES[str(config["model_type"]).removesuffix("_text")],
        "adapter.lora.alpha": alpha,
    }
    for name, value in wanted.items():
        if fields.get(name) != value:
            raise ProofFailed(f"{name} of the GGUF is {fields.get(name)}, not {value}", where=str(file))
    converter.run("numbers", file, numbers)
    found, expected = load_file(numbers), dict(_expected(order, config.get("text_config", config)))
    numbers.unlink()
    if found.keys() != (names := {f"{name}.lora_{each}" for name in expected for each in "ab"}):
        why = f"{min(found.keys() ^ names)} is only in one of them"
        raise ProofFailed("the GGUF holds other tensors than the adapter", where=str(file), why=why)
    for name, (a, b, scale) in expected.items():
        mine, theirs = found[f"{name}.lora_b"] * (alpha / b.shape[-1]), b * scale
        same = torch.equal(found[f"{name}.lora_a"], a) and mine.shape == theirs.shape
        if not same or not torch.allclose(mine, theirs, rtol=ROUNDING, atol=0.0):
            raise ProofFailed("a matrix of the GGUF is not the adapter's", where=f"{file}  {name}")
    return [
        claim("kind, architecture and alpha read back", len(wanted), len(wanted)),
        claim("tensors that are the adapter's, A bit for bit and B at the scale of training", len(found), len(names)),
    ]


def _compare(file: Path, order: Order, converter: Converter, making: Path) -> list[Claim]:
    """Compares what llama.cpp answers by a base in bf16, with the adapter and without, with both as trained.

    Raises:
        ProofFailed: base and adapter answer otherwise than they should.
    """
    template, base, found = making / "template", making / "base.gguf", making / "logits.npy"
    template.write_text(read_template(order.base.folder).source)
    converter.run("convert", order.base.folder, template, order.run.name, "bf16", base)
    prompts = read_prompts(order.recipe, order.base.folder)

    def away(beside: Path | None) -> float:
        answers.logits(base, prompts.ids, found, beside)
        apart = answers.apart_from_folder(order.base.folder, order.plan, prompts.ids, found, order.changes)
        return float(f"{apart.mean_kl:.3g}")

    tuned, untuned = away(file), away(None)
    base.unlink()
    if not tuned <= MOST_KL:
        why = f"mean KL is {tuned}, more than {MOST_KL:g}; without the adapter it is {untuned}"
        raise ProofFailed("llama.cpp answers otherwise than base and adapter", where=file.name, why=why)
    return [
        claim(f"mean KL from base and adapter over {prompts.told}, by llama.cpp with the base in bf16", tuned, MOST_KL),
        claim("the same without the adapter", untuned, None),
    ]


def _expected(order: Order, text: Mapping[str, Any]) -> Iterator[tuple[str, Pair]]:
    """Gives every pair under llama.cpp's name, its value heads in llama.cpp's order.

    Several value heads share a key head. They lie together in the published weights; in a GGUF the first ones of all
    key heads come first, then the second ones.
    """
    keys, values = text["linear_num_key_heads"], text["linear_num_value_heads"]
    heads = torch.arange(values).view(keys, -1).T.reshape(-1)
    rows = (heads[:, None] * text["linear_value_head_dim"] + torch.arange(text["linear_value_head_dim"])).reshape(-1)
    for matrix, (a, b, scale) in pairs(order):
        _, _, layer, place = matrix.split(".", 3)
        match place:
            case "linear_attn.in_proj_qkv":
                b = torch.cat([b[: -len(rows)], b[-len(rows) :][rows]])
            case "linear_attn.in_proj_z":
                b = b[rows]
            case "linear_attn.in_proj_a" | "linear_attn.in_proj_b":
                b = b[heads]
            case "linear_attn.out_proj":
                a = a[:, rows]
        yield f"blk.{layer}.{NAMES[place]}.weight", (a, b, scale)

"""How adapters of routed experts are written down: as plain PEFT reads them, or one expert at a time, as vLLM does.

PEFT targets the two fused weights as parameters and nests their wrappers, gate and up inside, down outside. Its A has
the experts one after another, (experts * rank, in); its B has for each inner dimension all experts, (out, rank *
experts). Source: PEFT 0.21, tuners/lora/layer.py, ParamWrapper.get_delta_factors; tuners_utils.py, _inject_parameters.

vLLM reads gate, up and down of each expert as matrices of their own. Gate and up share their A, which is written twice.
All experts of a projection must have one rank, which may be another than that of other layers: vLLM fills up with zeros
to its own --max-lora-rank, so nothing is padded here. Source, read and not run there: vLLM 0.33.0 (commit 4ba787ec9),
fused_moe/routed_experts.py, build_expert_params_mapping; lora/utils.py, process_packed_modules_mapping;
lora/lora_weights.py, pack_moe; lora/layers/fused_moe.py, set_lora.

Its multimodal class mounts the text model as `language_model.model` and finds it by the published name
`model.language_model`; its text class drops that prefix again. So the prefix is right for both.
Source: models/qwen3_vl.py and qwen3_5.py, hf_to_vllm_mapper; lora/utils.py, parse_fine_tuned_lora_name.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from finetune import atomic
from finetune.errors import ArtifactError, ProofFailed
from finetune.experts.routed import DOWN, GATE_UP

Pair = tuple[torch.Tensor, torch.Tensor]
"""lora_A (experts, rank, in) and lora_B (experts, out, rank)."""

_NESTED = {GATE_UP: "base_layer.", DOWN: ""}
_LEAVES = ("gate_proj", "up_proj", "down_proj")

_TEXT, _PUBLISHED = "base_model.model.model.", "base_model.model.model.language_model."
"""Where an adapter's names begin: of the class that is trained, and of the published one."""

_OURS = re.compile(rf"{re.escape(_TEXT)}layers\.\d+\.([a-z]\w*\.)+lora_[AB]\.weight")
_OF_EXPERTS = re.compile(r"(.+\.mlp\.experts)\.(base_layer\.)?lora_[AB]\.weight")
_OF_ONE_EXPERT = re.compile(r"(.+\.mlp\.experts)\.\d+\.\w+\.lora_[AB]\.weight")

_EACH_EXPERT = r"mlp\.experts\.\d+\.(gate|up|down)_proj"
"""Key of rank_pattern and alpha_pattern, which vLLM matches as PEFT does.

Source: vLLM 0.33.0, lora/peft_helper.py, _match_pattern.
"""

_READ = (
    "peft_type",
    "use_dora",
    "modules_to_save",
    "target_modules",
    "target_parameters",
    "rank_pattern",
    "alpha_pattern",
)
"""What is asked of an adapter's config."""

_NOT_OURS, _FIX = "the adapter is not one of ours", "give the folder `adapter` of a run"


def to_peft(block: str, adapters: Mapping[str, Pair]) -> dict[str, torch.Tensor]:
    """Writes a layer's adapters as PEFT does.

    Args:
        block: name of the experts' module, as PEFT writes it: base_model.model.model.layers.0.mlp.experts.
        adapters: of each fused weight.
    """
    written = {}
    for name, (a, b) in adapters.items():
        at = f"{block}.{_NESTED[name]}"
        written[f"{at}lora_A.weight"] = a.reshape(-1, a.shape[2]).contiguous()
        written[f"{at}lora_B.weight"] = b.permute(1, 2, 0).reshape(b.shape[1], -1).contiguous()
    return written


def from_peft(block: str, written: Mapping[str, torch.Tensor], num_experts: int) -> dict[str, Pair]:
    """Reads what `to_peft` wrote.

    Raises:
        KeyError: a tensor is missing.
    """
    adapters = {}
    for name, nested in _NESTED.items():
        a, b = (written[f"{block}.{nested}lora_{each}.weight"] for each in "AB")
        adapters[name] = (
            a.reshape(num_experts, -1, a.shape[1]).contiguous(),
            b.reshape(b.shape[0], -1, num_experts).permute(2, 0, 1).contiguous(),
        )
    return adapters


def to_each_expert(block: str, adapters: Mapping[str, Pair]) -> dict[str, torch.Tensor]:
    """Writes a layer's adapters expert by expert: gate_proj, up_proj and down_proj of each."""
    written = {}
    for name, (a, b) in adapters.items():
        for expert in range(len(a)):
            halves = zip(_LEAVES[:2], b[expert].chunk(2), strict=True)
            for leaf, outward in halves if name == GATE_UP else [(_LEAVES[2], b[expert])]:
                at = f"{block}.{expert}.{leaf}"
                written[f"{at}.lora_A.weight"] = a[expert].clone()
                written[f"{at}.lora_B.weight"] = outward.clone()
    return written


def from_each_expert(block: str, written: Mapping[str, torch.Tensor], num_experts: int) -> dict[str, Pair]:
    """Reads what `to_each_expert` wrote.

    Raises:
        KeyError: a tensor is missing.
        ValueError: gate and up have each an A of their own: such adapters do not fit a fused weight of that rank.
    """

    def stacked(leaf: str, each: str) -> torch.Tensor:
        return torch.stack([written[f"{block}.{expert}.{leaf}.lora_{each}.weight"] for expert in range(num_experts)])

    gate, up = stacked("gate_proj", "A"), stacked("up_proj", "A")
    if not torch.equal(gate, up):
        raise ValueError(f"gate_proj and up_proj of {block} have an A each")
    outward = torch.cat([stacked("gate_proj", "B"), stacked("up_proj", "B")], dim=1)
    return {GATE_UP: (gate, outward), DOWN: (stacked("down_proj", "A"), stacked("down_proj", "B"))}


def to_vllm(tensors: Mapping[str, torch.Tensor], num_experts: int) -> dict[str, torch.Tensor]:
    """Renames and lays out a whole adapter of ours for vLLM.

    Args:
        tensors: as plain PEFT reads them.
        num_experts: of each layer; 0 where experts have no adapters.
    """
    written = {_PUBLISHED + name.removeprefix(_TEXT): t for name, t in tensors.items() if not _OF_EXPERTS.match(name)}
    for block in _blocks(tensors, _OF_EXPERTS):
        served = _PUBLISHED + block.removeprefix(_TEXT)
        written |= to_each_expert(served, from_peft(block, tensors, num_experts))
    return written


def is_for_vllm(names: Iterable[str]) -> bool:
    """Tells whether an adapter's tensors have the names that vLLM reads."""
    return any(name.startswith(_PUBLISHED) for name in names)


def from_vllm(written: Mapping[str, torch.Tensor], num_experts: int) -> dict[str, torch.Tensor]:
    """Reads what `to_vllm` gave.

    Raises:
        KeyError: a tensor is missing.
        ValueError: gate and up of an expert have an A each.
    """
    tensors = {
        _TEXT + name.removeprefix(_PUBLISHED): t for name, t in written.items() if not _OF_ONE_EXPERT.match(name)
    }
    for served in _blocks(written, _OF_ONE_EXPERT):
        block = _TEXT + served.removeprefix(_PUBLISHED)
        tensors |= to_peft(block, from_each_expert(served, written, num_experts))
    return tensors


def write_for_vllm(adapter: Path, folder: Path) -> Path:
    """Writes the folder that vLLM serves, from one that plain PEFT reads; reads it back before it gets its name.

    The published bases are multimodal, and for their class vLLM must be told that experts come one at a time:
    `vllm serve BASE --enable-lora --enable-mixed-moe-lora-format --lora-modules NAME=FOLDER`.

    Args:
        adapter: with the two files that we wrote.
        folder: that is made, whole or not at all.

    Raises:
        ArtifactError: `adapter` is not an adapter of ours or is one that vLLM refuses, or there is something at
            `folder`, or nothing can be written there.
        DoesNotFit: the disk is full.
        ProofFailed: what was written is not what was read.
    """
    config, tensors = _read(adapter)
    num_experts = _num_experts(adapter, config, tensors)
    another = "give a folder that is not there yet"
    if os.path.lexists(folder):
        raise ArtifactError("there is something in this place", where=str(folder), fix=another)
    staging = folder.with_name(f".{folder.name}.{os.getpid()}-{os.urandom(4).hex()}")
    with atomic.refusal_told(folder, another), atomic.full_disk_told(staging):
        try:
            staging.mkdir(parents=True)
            save_file(to_vllm(tensors, num_experts), staging / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
            told = json.dumps(_served_config(config, num_experts), indent=2, sort_keys=True)
            (staging / CONFIG_NAME).write_text(told + "\n")
            back = from_vllm(load_file(staging / SAFETENSORS_WEIGHTS_NAME), num_experts)
            if back.keys() != tensors.keys() or any(not torch.equal(back[name], tensors[name]) for name in tensors):
                raise ProofFailed("the folder for vLLM does not hold this adapter", where=str(adapter))
            for file in staging.iterdir():
                shutil.copymode(adapter / CONFIG_NAME, file)  # safetensors lets only the owner read what it writes
            atomic.publish(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)  # nothing is left to remove once it was renamed
    return folder


def _blocks(names: Mapping[str, torch.Tensor], pattern: re.Pattern[str]) -> list[str]:
    """Lists the modules of experts that have tensors among these."""
    return sorted({match[1] for match in map(pattern.fullmatch, names) if match})


def _read(adapter: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Reads the two files of an adapter.

    Raises:
        ArtifactError: one is missing or damaged, the names are not ours, or vLLM refuses such an adapter.
    """
    where = str(adapter)
    try:
        config = json.loads((adapter / CONFIG_NAME).read_text())
        tensors = load_file(adapter / SAFETENSORS_WEIGHTS_NAME)
    except (OSError, ValueError, SafetensorError) as error:
        why = str(error).splitlines()[0]
        raise ArtifactError("the adapter cannot be read", where=where, why=why, fix=_FIX) from error
    if not isinstance(config, dict) or any(key not in config for key in _READ) or config["peft_type"] != "LORA":
        raise ArtifactError(_NOT_OURS, where=where, why=f"{CONFIG_NAME} is not of a LoRA that we wrote", fix=_FIX)
    merge = f"finetune merge {shlex.quote(str(adapter.parent))}   # vLLM serves the merged model"
    if config["use_dora"]:
        why = "its loader says: vLLM does not yet support DoRA"
        raise ArtifactError("vLLM does not serve DoRA", where=where, why=why, fix=merge)
    if config["modules_to_save"]:
        why = "its loader takes low-rank adapters, and trained routers are whole"
        raise ArtifactError("vLLM does not serve trained routers", where=where, why=why, fix=merge)
    foreign = [name for name in tensors if not _OURS.fullmatch(name)]
    if foreign or not tensors:
        why = f"{foreign[0]} is not a name that we give" if foreign else f"{SAFETENSORS_WEIGHTS_NAME} holds nothing"
        raise ArtifactError(_NOT_OURS, where=where, why=why, fix=_FIX)
    return config, tensors


def _num_experts(adapter: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> int:
    """Counts the experts of a layer, from the rows of A and the rank that the config tells; 0 where none is adapted.

    Raises:
        ArtifactError: config and tensors contradict one another.
    """
    targets, blocks = config["target_parameters"] or [], _blocks(tensors, _OF_EXPERTS)
    if not targets and not blocks:
        return 0
    told = {(config["rank_pattern"].get(target), config["alpha_pattern"].get(target)) for target in targets}
    rank, alpha = told.pop() if len(told) == 1 else (None, None)
    rows = set()
    for block in blocks:
        for nested in _NESTED.values():
            a, b = (tensors.get(f"{block}.{nested}lora_{each}.weight") for each in "AB")
            rows.add(None if a is None or b is None or len(a) != b.shape[1] else len(a))
    num_rows = rows.pop() if len(rows) == 1 else None
    if not rank or not alpha or not num_rows or num_rows % rank:
        why = f"experts of {len(blocks)} layers have adapters, and {CONFIG_NAME} does not fit them"
        raise ArtifactError(_NOT_OURS, where=str(adapter), why=why, fix=_FIX)
    return int(num_rows // rank)


def _served_config(config: Mapping[str, Any], num_experts: int) -> dict[str, Any]:
    """Gives the config that goes with tensors for vLLM.

    vLLM demands r, lora_alpha and target_modules, and does not know target_parameters.
    Source: vLLM 0.33.0, lora/peft_helper.py, PEFTHelper.
    """
    if not num_experts:
        return dict(config)
    target = config["target_parameters"][0]  # rank and alpha are those of both weights
    return {
        **config,
        "target_modules": sorted({*config["target_modules"], *_LEAVES}),
        "target_parameters": None,
        "rank_pattern": {_EACH_EXPERT: config["rank_pattern"][target]},
        "alpha_pattern": {_EACH_EXPERT: config["alpha_pattern"][target]},
    }

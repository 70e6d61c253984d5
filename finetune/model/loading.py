"""Loads a base as its text-only class, in 4 bits where the plan says so.

The text-only class leaves vision and multi-token prediction on disk. No vocabulary matrix is ever cast up:
peft's prepare_model_for_kbit_training, which would, is not called.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from finetune.errors import ArtifactError
from finetune.plan import Plan
from finetune.shape import REFETCH


def load_base(folder: Path, plan: Plan) -> Any:
    """Loads the text model of a base.

    Raises:
        ArtifactError: weights are missing from the folder, or some in it have no place in the model.
    """
    dtype = getattr(torch, plan.dtype)
    with refused(folder, "the base cannot be loaded"):
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            device_map={"": 0 if plan.device == "cuda" else "cpu"},
            quantization_config=_nf4(plan, dtype) if plan.quantisation else None,
            attn_implementation="sdpa",
            local_files_only=True,
            output_loading_info=True,
        )
    if report["missing_keys"] or report["mismatched_keys"]:
        absent = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        raise ArtifactError(
            "the base lacks weights that its config asks for",
            where=str(folder),
            why=f"{len(absent)} of them, first {absent[0]}",
            fix="hf download it again",
        )
    model.config.use_cache = False
    model.name_or_path = plan.base  # PEFT writes it into the adapter's config, where a path of this machine is no use
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes 0.50 repacks 4-bit weights for evaluation on such CPUs, and asserts on odd sizes
            module.support_avx512bf16_for_cpu = False
    return model


@contextmanager
def refused(folder: Path, what: str) -> Iterator[None]:
    """Tells what transformers says of a damaged base as an error of ours; running out of memory passes through.

    Raises:
        ArtifactError: it could not be read.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (OSError, RuntimeError, ValueError, TypeError, SafetensorError, StrictDataclassError) as error:
        why = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        raise ArtifactError(what, where=str(folder), why=why, fix=REFETCH) from error


def bytes_by_dtype(model: Any) -> dict[str, int]:
    """Adds up the bytes that the parameters hold, by dtype; 4-bit weights count as the uint8 they are stored in."""
    held: Counter[str] = Counter()
    for parameter in model.parameters():
        held[str(parameter.dtype).removeprefix("torch.")] += parameter.numel() * parameter.element_size()
    return dict(sorted(held.items()))


def frozen_sha256(model: Any) -> str:
    """Identifies the weights that are not trained, every bit of them, as they lie in memory after quantisation.

    Each tensor is hashed on a thread of its own: one core hashes about a gigabyte a second, and the 27B has many.
    """
    frozen = sorted((n, t) for n, t in model.state_dict(keep_vars=True).items() if not t.requires_grad)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return hashlib.sha256("\n".join(threads.map(_sha256, frozen)).encode()).hexdigest()


def _sha256(named: tuple[str, Any]) -> str:
    name, tensor = named
    data = tensor.detach().flatten().view(torch.uint8).cpu().numpy()
    return f"{name} {tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(data).hexdigest()}"


def kernels(device: str) -> dict[str, str]:
    """Says which code runs the Gated DeltaNet: the fast kernels, or transformers' torch reference.

    Source: transformers 5.23, modeling_qwen3_5.py and integrations/hub_kernels.py; both packages are needed.
    """
    wanted = {"gated_delta_rule": "fla", "causal_conv1d": "causal_conv1d"}
    fast = device == "cuda"
    return {
        name: package if fast and importlib.util.find_spec(package) is not None else "torch reference (slow)"
        for name, package in wanted.items()
    }


def _nf4(plan: Plan, dtype: torch.dtype) -> Any:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(plan.unquantised),
    )

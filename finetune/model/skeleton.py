"""The text-only model of a base without its weights: every layer in its place, nothing in memory yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig
from transformers.conversion_mapping import PrefixChange
from transformers.quantizers import AutoHfQuantizer

from finetune.errors import ArtifactError
from finetune.experts import Exchange
from finetune.model.embeddings import HostEmbedding
from finetune.model.experts import replace_experts
from finetune.model.head import QuantisedHead
from finetune.plan import Plan
from finetune.shards import refetch


def make_skeleton(folder: Path, plan: Plan) -> Any:
    """Builds the text-only class on the meta device, its linear layers ready for 4 bits where the plan says so.

    transformers' own quantiser replaces the layers, and leaves on the model what its readers ask for:
    `is_loaded_in_4bit` (peft wraps 4-bit layers as such; trl knows QLoRA by it), `quantization_method` (the Trainer
    does not move such a model) and `hf_quantizer` (the Trainer asks it whether the model may be trained at all).

    Raises:
        ArtifactError: transformers cannot read the config.
    """
    with refused(folder, "config.json"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    dtype = getattr(torch, plan.dtype)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    if plan.quantisation:
        quantiser = AutoHfQuantizer.from_config(_nf4(plan, dtype), pre_quantized=False)
        quantiser.validate_environment(device_map={"": plan.device})
        quantiser.preprocess_model(model, dtype=dtype, device_map=None)
        model.hf_quantizer = quantiser
        quantiser.postprocess_model(model)
    return model


@contextmanager
def refused(folder: Path, file: str) -> Iterator[None]:
    """Tells what transformers says of a damaged file of a base as an error of ours; it checks little itself.

    Args:
        folder: of the base.
        file: that is read inside, and nothing else is done.

    Raises:
        ArtifactError: it could not be read.
    """
    try:
        yield
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        OSError,
        TypeError,
        ValueError,
        StrictDataclassError,
    ) as error:
        what, why = f"the base's {file} cannot be used", f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ArtifactError(what, where=str(folder / file), why=why, fix=refetch(folder, file)) from error


def device_of(plan: Plan) -> torch.device:
    """Gives the device that the plan means."""
    return torch.device("cuda", 0) if plan.device == "cuda" else torch.device("cpu")


def pull(model: Any, plan: Plan, exchange: Exchange | None = None) -> None:
    """Puts the vocabulary matrices where the plan's levers want them and takes in our experts, all without weights yet.

    A plan keeps both as they are where they are tied: one weight cannot lie in two places. Experts stay transformers'
    where every weight is trained: ours are frozen.
    """
    tokens, width = model.get_input_embeddings().weight.shape
    dtype, tied = getattr(torch, plan.dtype), model.config.tie_word_embeddings
    if plan.method != "full":
        nf4 = plan.quantisation is not None
        replace_experts(model, nf4=nf4, dtype=dtype, device=device_of(plan), exchange=exchange)
    if plan.choices.embeddings == "host":
        assert not tied, "the plan moves no embedding that is the head too"
        model.set_input_embeddings(HostEmbedding(torch.empty(tokens, width, dtype=dtype)))
    if plan.choices.head != "full":
        assert not tied, "the plan quantises no head that is the embedding too"
        model.lm_head = QuantisedHead.empty(tokens, width, kind=plan.choices.head, dtype=dtype, device=device_of(plan))


def complete(model: Any, folder: Path, plan: Plan, *, published: bool) -> None:
    """Makes a model whole whose weights are in place: what is computed and not stored, what is tied, how it is asked.

    Args:
        model: without a parameter on the meta device.
        folder: of the base.
        plan: of the run.
        published: whether its tensors had their published names; `save_pretrained` then writes these.
    """
    for path in {name.rpartition(".")[0] for name, _ in model.named_non_persistent_buffers()}:
        rotary = model.get_submodule(path)  # its frequencies follow from the config, and stay in float32
        model.set_submodule(path, type(rotary)(rotary.config).to(device_of(plan)))
    model.tie_weights()
    empty = [name for name, t in [*model.named_parameters(), *model.named_buffers()] if t.device.type == "meta"]
    assert not empty, f"nothing was loaded into {empty}"
    if (folder / "generation_config.json").is_file():
        with refused(folder, "generation_config.json"):
            model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    # as from_pretrained notes it for save_pretrained, which else writes one tensor an expert under other names
    model._weight_conversions = [PrefixChange(prefix_to_remove="language_model", model_prefix="model")] * published
    model.config.use_cache = False
    model.name_or_path = plan.base  # PEFT writes it into the adapter's config, where a path of this machine is no use
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes 0.50 repacks 4-bit weights for evaluation on such CPUs, and asserts on odd sizes
            module.support_avx512bf16_for_cpu = False
    model.eval()


def _nf4(plan: Plan, dtype: torch.dtype) -> Any:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(plan.unquantised),
    )

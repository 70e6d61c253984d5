"""The demo base is what it says: Qwen3.6's architecture and folder, as transformers and safetensors see them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    Qwen3_5Config,
    Qwen3_5MoeConfig,
)

from finetune.demo_base import make_demo_base, make_pico_base, mtp_shapes
from finetune.demo_base import pretrain as pretraining
from finetune.demo_base.tokenizer import ADDED_TOKENS, SAMPLE, serving_template, train_tokenizer
from finetune.errors import ArtifactError

LINEAR_LAYERS, FULL_LAYERS = (0, 1, 2), (3,)

LINEAR_ATTENTION = (
    "linear_attn.A_log",
    "linear_attn.conv1d.weight",
    "linear_attn.dt_bias",
    "linear_attn.in_proj_a.weight",
    "linear_attn.in_proj_b.weight",
    "linear_attn.in_proj_qkv.weight",
    "linear_attn.in_proj_z.weight",
    "linear_attn.norm.weight",
    "linear_attn.out_proj.weight",
)
FULL_ATTENTION = tuple(
    f"self_attn.{name}.weight" for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")
)
LAYER_NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")
DENSE = ("mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight")
EXPERTS = (
    "mlp.experts.gate_up_proj",
    "mlp.experts.down_proj",
    "mlp.gate.weight",
    "mlp.shared_expert.gate_proj.weight",
    "mlp.shared_expert.up_proj.weight",
    "mlp.shared_expert.down_proj.weight",
    "mlp.shared_expert_gate.weight",
)


def published_names(feed_forward: tuple[str, ...]) -> set[str]:
    """Spells out the names of a four-layer Qwen3.6 without its image tower."""
    layers = dict.fromkeys(LINEAR_LAYERS, LINEAR_ATTENTION) | dict.fromkeys(FULL_LAYERS, FULL_ATTENTION)
    names = {"lm_head.weight", "model.language_model.embed_tokens.weight", "model.language_model.norm.weight"}
    for number, attention in layers.items():
        names |= {f"model.language_model.layers.{number}.{name}" for name in (*attention, *LAYER_NORMS, *feed_forward)}
    names |= {f"mtp.{name}.weight" for name in ("fc", "pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")}
    return names | {f"mtp.layers.0.{name}" for name in (*FULL_ATTENTION, *LAYER_NORMS, *feed_forward)}


def read_tensors(base: Path) -> dict[str, torch.Tensor]:
    """Reads every tensor of every shard, without the index."""
    tensors: dict[str, torch.Tensor] = {}
    for shard in sorted(base.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors


@pytest.mark.parametrize(("fixture", "feed_forward"), [("pico_base", DENSE), ("pico_moe_base", EXPERTS)])
def test_the_shards_hold_exactly_the_published_names(
    fixture: str, feed_forward: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    names = read_tensors(request.getfixturevalue(fixture)).keys()
    vision = {name for name in names if name.startswith("model.visual.")}
    assert names - vision == published_names(feed_forward)
    assert {name.split(".")[2] for name in vision} == {"blocks", "merger", "patch_embed", "pos_embed"}


@pytest.mark.parametrize("fixture", ["pico_base", "pico_tied_base", "pico_moe_base"])
def test_the_index_agrees_with_three_or_more_bf16_shards(fixture: str, request: pytest.FixtureRequest) -> None:
    base = request.getfixturevalue(fixture)
    index = json.loads((base / "model.safetensors.index.json").read_text())
    shards = sorted(path.name for path in base.glob("*.safetensors"))
    assert len(shards) >= 3
    assert shards == [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    held = {}
    for shard in shards:
        with safe_open(base / shard, framework="pt") as file:
            held |= dict.fromkeys(file.keys(), shard)
    assert index["weight_map"] == held
    tensors = read_tensors(base)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())


def test_a_tied_base_stores_no_head(pico_tied_base: Path, pico_base: Path) -> None:
    assert read_tensors(pico_base).keys() - read_tensors(pico_tied_base).keys() == {"lm_head.weight"}
    model = AutoModelForCausalLM.from_pretrained(pico_tied_base)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_norms_are_zero_centred_save_the_one_inside_deltanet(pico_base: Path) -> None:
    for name, tensor in read_tensors(pico_base).items():
        if name.startswith("model.visual.") or "norm" not in name:
            continue
        expected = torch.ones_like(tensor) if "linear_attn.norm" in name else torch.zeros_like(tensor)
        assert torch.equal(tensor, expected), name


def test_experts_are_fused_on_disk(pico_moe_base: Path) -> None:
    tensors = read_tensors(pico_moe_base)
    for layer in ("model.language_model.layers.0", "model.language_model.layers.3", "mtp.layers.0"):
        assert tensors[f"{layer}.mlp.experts.gate_up_proj"].shape == (8, 2 * 64, 64)
        assert tensors[f"{layer}.mlp.experts.down_proj"].shape == (8, 64, 64)


@pytest.mark.parametrize("fixture", ["pico_base", "pico_tied_base", "pico_moe_base"])
def test_both_classes_load_every_weight_and_agree(fixture: str, request: pytest.FixtureRequest) -> None:
    base = request.getfixturevalue(fixture)
    ids = torch.arange(40).unsqueeze(0) * 7  # (1, token)
    logits = []
    for auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText):
        model, loading = auto_class.from_pretrained(base, dtype=torch.float32, output_loading_info=True)
        assert not any(loading.values()), loading
        with torch.no_grad():
            logits.append(model(input_ids=ids).logits)
    assert torch.equal(*logits)
    assert logits[0].std() > 0.1


def test_every_text_weight_gets_a_gradient(pico_moe_base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(pico_moe_base, dtype=torch.float32)
    ids = torch.randint(600, (4, 64), generator=torch.Generator().manual_seed(0))  # (example, token)
    model(input_ids=ids, labels=ids).loss.backward()
    dead = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert dead == []


def test_quantisable_projections_have_widths_that_4_bit_cpu_kernels_accept(pico_moe_base: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(pico_moe_base)
    too_odd = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and (module.out_features % 32 or module.in_features % 64 or module.in_features < 64)
    }
    assert too_odd == {"in_proj_a", "in_proj_b", "shared_expert_gate"}


def test_the_config_names_the_published_class_and_keeps_published_extras(pico_base: Path, pico_moe_base: Path) -> None:
    for base, family in ((pico_base, "Qwen3_5"), (pico_moe_base, "Qwen3_5Moe")):
        config = json.loads((base / "config.json").read_text())
        assert config["architectures"] == [f"{family}ForConditionalGeneration"]
        text = config["text_config"]
        assert text["layer_types"] == ["linear_attention"] * 3 + ["full_attention"]
        assert (text["mtp_num_hidden_layers"], text["attn_output_gate"]) == (1, True)
        rotary = text["rope_parameters"]
        assert sum(rotary["mrope_section"]) * 2 == text["head_dim"] * rotary["partial_rotary_factor"]


def real_config(moe: bool) -> Any:
    """Describes the published 27B or 35B-A3B, as far as its MTP block goes."""
    if moe:
        return Qwen3_5MoeConfig()  # the class's defaults have the 35B-A3B's widths
    text = {"hidden_size": 5120, "intermediate_size": 17408, "num_attention_heads": 24}
    return Qwen3_5Config(text_config=text)


@pytest.mark.parametrize(("moe", "num_parameters"), [(False, 424_699_392), (True, 844_640_768)])
def test_the_mtp_block_of_the_published_sizes_has_the_published_parameters(moe: bool, num_parameters: int) -> None:
    shapes = mtp_shapes(real_config(moe))
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == num_parameters


def test_autotokenizer_gives_qwens_class_and_the_written_ids(pico_base: Path) -> None:
    from tokenizers import Tokenizer

    written = Tokenizer.from_file(str(pico_base / "tokenizer.json"))
    read = AutoTokenizer.from_pretrained(pico_base)
    assert type(read).__name__ == "Qwen3_5Tokenizer"
    for text in (SAMPLE, pretraining.PROSE.read_text(encoding="utf-8")[:5000], serving_template()):
        assert read(text)["input_ids"] == written.encode(text).ids
        assert read.decode(read(text)["input_ids"]) == text
    assert (read.eos_token, read.pad_token, read.bos_token) == ("<|im_end|>", "<|endoftext|>", None)


def test_the_33_added_tokens_end_the_vocabulary_in_qwens_order(pico_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(pico_base)
    first = len(tokenizer) - 33
    assert tokenizer.convert_tokens_to_ids([text for text, _ in ADDED_TOKENS]) == list(range(first, first + 33))
    for text, special in ADDED_TOKENS:
        (token_id,) = tokenizer(text)["input_ids"]
        assert tokenizer.decode([token_id]) == text
        assert tokenizer.decode([token_id], skip_special_tokens=True) == ("" if special else text)
    config = json.loads((pico_base / "config.json").read_text())
    assert config["text_config"]["vocab_size"] > len(tokenizer)
    assert config["image_token_id"] == tokenizer.convert_tokens_to_ids("<|image_pad|>")
    generation = json.loads((pico_base / "generation_config.json").read_text())
    assert generation["eos_token_id"] == tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])


def test_digits_are_cut_one_by_one() -> None:
    assert train_tokenizer(["2026 2026 2026"] * 9, 400).encode("2026").tokens == ["2", "0", "2", "6"]


def test_the_chat_template_is_the_one_for_serving_and_renders_tools(pico_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(pico_base)
    assert tokenizer.chat_template == serving_template()
    assert "{% generation %}" not in serving_template()
    tool = {"type": "function", "function": {"name": "pressure", "parameters": {"type": "object"}}}
    call = {"type": "function", "function": {"name": "pressure", "arguments": {"line": 3}}}
    messages = [
        {"role": "user", "content": "What is the pressure?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "42 bar"},
    ]
    text = tokenizer.apply_chat_template(
        messages, tools=[tool], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert '{"type": "function", "function": {"name": "pressure"' in text
    assert "<tool_call>\n<function=pressure>\n<parameter=line>\n3\n</parameter>\n</function>" in text
    assert text.endswith("42 bar\n</tool_response><|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_same_base_again_is_used_as_it_is(pico_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in pico_base.iterdir()}
    assert make_pico_base(pico_base) == pico_base
    assert {path.name: path.stat().st_mtime_ns for path in pico_base.iterdir()} == before
    assert "used as it is" in capsys.readouterr().err


def test_a_seed_decides_every_byte(pico_base: Path, tmp_path: Path) -> None:
    same = read_tensors(make_pico_base(tmp_path / "same"))
    other = read_tensors(make_pico_base(tmp_path / "other", seed=1))
    original = read_tensors(pico_base)
    assert all(torch.equal(same[name], original[name]) for name in original)
    assert not torch.equal(other["mtp.fc.weight"], original["mtp.fc.weight"])
    assert not torch.equal(other["lm_head.weight"], original["lm_head.weight"])
    assert (tmp_path / "same" / "tokenizer.json").read_bytes() == (pico_base / "tokenizer.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "same"]  # no staging left


def test_making_a_base_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    make_pico_base(tmp_path / "base")
    assert torch.equal(torch.rand(2), expected)


def test_somebody_elses_folder_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mum.txt").write_text("Dear")
    with pytest.raises(ArtifactError) as refusal:
        make_pico_base(tmp_path / "letters")
    (problem,) = refusal.value.problems
    assert problem.where == str(tmp_path / "letters")
    assert "not ours to replace" in problem.why
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["mum.txt"]
    make_pico_base(Path(problem.fix.rpartition(": ")[2]))  # the cure cures


def test_a_base_of_other_settings_is_refused_and_kept(pico_base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(pico_base, tmp_path / "base"))
    with pytest.raises(ArtifactError, match="something else") as refusal:
        make_pico_base(copy, moe=True)
    assert "other settings" in refusal.value.problems[0].why
    assert read_tensors(copy).keys() == read_tensors(pico_base).keys()


def test_a_few_steps_of_pretraining_lower_the_heldout_loss(tmp_path: Path) -> None:
    base = make_demo_base(tmp_path / "demo", num_steps=8)
    passport = json.loads((base / "demo_base.json").read_text())
    # An untrained model is near ln(2304 rows) = 7.7 nats; eight steps were measured to end at 5.3.
    assert passport["heldout_loss_after"] < passport["heldout_loss_before"] - 1
    config = json.loads((base / "config.json").read_text())["text_config"]
    widths = ("hidden_size", "intermediate_size", "head_dim", "vocab_size")
    assert [config[width] % 256 for width in widths] == [0, 0, 0, 0]
    assert passport["num_parameters"] == sum(tensor.numel() for tensor in read_tensors(base).values())


def test_windows_begin_where_documents_do_and_are_full() -> None:
    documents = [[10, 11, 12], [20, 21], [30, 31, 32, 33, 34, 35]]
    source = pretraining.windows(documents, 4, seed=0)
    some = [next(source) for _ in range(30)]
    assert {len(window) for window in some} == {4}
    assert {window[0] for window in some} <= {10, 20, 30}
    assert some == [window for window, _ in zip(pretraining.windows(documents, 4, 0), range(30), strict=False)]


def test_no_document_is_both_trained_on_and_held_out(pico_base: Path) -> None:
    train, heldout = pretraining.encode_corpus(AutoTokenizer.from_pretrained(pico_base))
    num_documents = len(pretraining.read_prose()) + len(pretraining.read_dialogues())
    assert len(train) + len(heldout) == num_documents
    assert not {tuple(ids) for ids in train} & {tuple(ids) for ids in heldout}

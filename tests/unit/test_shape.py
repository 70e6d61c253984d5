"""Shapes against the published totals, and folders against damage."""

import json
import math
import os
import struct
from pathlib import Path

import pytest

from finetune.architecture import read_architecture
from finetune.errors import ArtifactError, Problem
from finetune.shape import FAMILY_MODULES, fingerprint, read_shape
from finetune.shards import refetch

PUBLISHED = {
    "Qwen/Qwen3.6-27B": (27_781_427_952, 26_895_998_464, 0),
    "Qwen/Qwen3.6-35B-A3B": (35_951_822_704, 34_660_610_688, 32_212_254_720),
    "Qwen/Qwen3.5-9B": (9_653_104_368, 8_953_803_264, 0),
    "Qwen/Qwen3.5-4B": (4_659_865_088, 4_205_751_296, 0),
    "Qwen/Qwen3.5-2B": (2_274_069_824, 1_881_825_088, 0),
    "Qwen/Qwen3.5-0.8B": (873_438_784, 752_393_024, 0),
}
"""base: (all, text only, routed experts). All: half the bytes of the published index; text: no vision, no MTP."""


@pytest.mark.parametrize("base", PUBLISHED)
def test_a_shipped_base_has_the_published_number_of_parameters(base: str) -> None:
    shape = read_shape(base, None)
    assert (shape.num_parameters, shape.num_text_parameters, shape.num_routed_parameters) == PUBLISHED[base]


def test_linears_of_the_27b_are_those_of_every_layer() -> None:
    linears = read_shape("Qwen/Qwen3.6-27B", None).linears(tuple(FAMILY_MODULES))
    assert len(linears) == 48 * 3 + 16 * 4 + 64 * 3
    assert sum(sum(linear.shape) for linear in linears) == 6_799_360  # a rank unit, facts of the published shapes
    first = {linear.name: linear.shape for linear in linears}
    assert first["model.layers.0.linear_attn.in_proj_qkv"] == (10240, 5120)
    assert first["model.layers.63.self_attn.q_proj"] == (12288, 5120)


def test_an_unknown_base_names_the_known_ones() -> None:
    with pytest.raises(ArtifactError, match=r"the shapes of me/model are not known") as told:
        read_shape("me/model", None)
    assert "Qwen/Qwen3.6-27B" in told.value.problems[0].why
    assert told.value.problems[0].fix.startswith(
        "--set base=Qwen/Qwen3.6-27B "
    )  # which can be trained, as Llama cannot
    with pytest.raises(ArtifactError) as told:
        read_shape("qwen/qwen3.5-9b", None)
    assert told.value.problems[0].fix.startswith("--set base=Qwen/Qwen3.5-9B ")


TINY = {
    "vocab_size": 8,
    "hidden_size": 4,
    "intermediate_size": 6,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "full_attention_interval": 2,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 2,
    "linear_value_head_dim": 2,
}
"""A text_config of one layer of each kind."""

UP = "model.language_model.layers.0.mlp.up_proj.weight"
HEAD = "lm_head.weight"
INDEX = "model.safetensors.index.json"
Shapes = dict[str, tuple[int, ...]]


def _safetensors(file: Path, shapes: Shapes) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(end))


def _configure(base: Path, **changed: object) -> None:
    (base / "config.json").write_text(json.dumps({"model_type": "qwen3_5", "text_config": TINY | changed}))


def _published(base: Path) -> Shapes:
    """The parameters of a folder's config under their published names."""
    wanted = read_architecture(base).parameters()
    return {name.replace("model.", "model.language_model.", 1): shape for name, shape in wanted.items()}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    _configure(folder)
    _safetensors(folder / "model.safetensors", _published(folder))
    return folder


@pytest.fixture
def sharded(base: Path) -> Path:
    """The same base in two shards."""
    shapes = _published(base)
    (base / "model.safetensors").unlink()
    _safetensors(base / "a.safetensors", {name: shape for name, shape in shapes.items() if name != HEAD})
    _safetensors(base / "b.safetensors", {HEAD: shapes[HEAD]})
    _index(base, {name: "b.safetensors" if name == HEAD else "a.safetensors" for name in shapes})
    return base


def _index(base: Path, told: dict[str, str]) -> None:
    (base / INDEX).write_text(json.dumps({"weight_map": told}))


def _refusal(base: Path) -> Problem:
    with pytest.raises(ArtifactError) as told:
        read_shape("./base", base)
    assert told.value.problems[0].fix
    return told.value.problems[0]


def test_a_folder_is_read_from_its_headers(base: Path) -> None:
    shape = read_shape("./base", base)
    assert dict(shape.parameters) == _published(base)
    names = [f"model.layers.{layer}.mlp.{leaf}" for layer in (0, 1) for leaf in ("gate_proj", "up_proj", "down_proj")]
    assert [linear.name for linear in shape.linears(("mlp",))] == names


def test_the_fingerprint_sees_a_changed_weight_of_a_small_base(base: Path) -> None:
    before = fingerprint(base)
    file = base / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    assert fingerprint(base) != before


CONFIGS: dict[str, tuple[object, str]] = {
    "head_dim": (0, "it is a whole number from 1 to 2,147,483,648"),
    "num_key_value_heads": (True, "it is a whole number from 1 to 2,147,483,648"),
    "vocab_size": ("8", "it is a whole number from 1 to 2,147,483,648"),
    "num_hidden_layers": (10**9, "it is a whole number from 1 to 1,000"),
    "linear_num_key_heads": (3, "it divides linear_num_value_heads, which is 2"),
    "hidden_act": ("nope", "it is silu"),
    "dtype": ("float128", "it is bfloat16 or float16 or float32 or float64"),
    "rms_norm_eps": (float("nan"), "it is a small number above 0"),
    "router_aux_loss_coef": ("x", "it is a number from 0 on"),
    "attention_bias": (1, "it is true or false"),
    "layer_types": (["full_attention"] * 3, "it names the kind of each of num_hidden_layers = 2 layers; here are 3"),
    "rope_parameters": ({"rope_theta": 0}, "it is a number above 0"),
}


@pytest.mark.parametrize("key", CONFIGS)
def test_a_value_that_no_model_can_have_is_refused_by_its_key(base: Path, key: str) -> None:
    value, why = CONFIGS[key]
    _configure(base, **{key: value})
    problem = _refusal(base)
    assert problem.where.startswith(f"{base / 'config.json'}  text_config.{key}")
    assert problem.why == why


def test_where_only_one_value_will_do_it_is_the_fix(base: Path) -> None:
    _configure(base, hidden_act="nope")
    assert _refusal(base).fix == "hidden_act: silu"


@pytest.mark.parametrize(("key", "value"), [("hidden_size", 5), ("intermediate_size", 7), ("linear_value_head_dim", 3)])
def test_a_config_of_other_widths_than_the_weights_is_refused(base: Path, key: str, value: int) -> None:
    _configure(base, **{key: value})
    assert _refusal(base).what == "the base lacks weights that its config asks for"


def test_a_family_that_is_not_known_is_left_to_the_plan_to_refuse(base: Path) -> None:
    (base / "config.json").write_text('{"model_type": "llama"}')
    assert read_shape("./base", base).model_type == "llama"


@pytest.mark.parametrize(
    ("told", "by"), [({"quant_method": "fp8"}, "fp8"), ({"quant_method": 5}, "an unknown method"), (None, "")]
)
def test_who_quantised_a_base_is_read_from_its_config(base: Path, told: object, by: str) -> None:
    _configure(base, quantization_config=told)
    assert read_shape("./base", base).quantised_by == by


def _header(**changed: object) -> bytes:
    first = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}
    raw = json.dumps({"a": first, "b": first | {"data_offsets": [2, 4]} | changed}).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(4)


NOT_FILLED = "the bytes of b are not those of its shape"
DAMAGED = {
    "overlapping": (_header(data_offsets=[0, 2]), "b begins at byte 0, and what lies before it ends at 2"),
    "a gap": (_header(data_offsets=[3, 5]), "b begins at byte 3, and what lies before it ends at 2"),
    "another shape": (_header(shape=[3]), NOT_FILLED),
    "negative": (_header(shape=[-1, -2]), NOT_FILLED),
    "no shape": (_header(shape=None), NOT_FILLED),
    "a float": (_header(shape=[2.0]), NOT_FILLED),
    "no dtype": (_header(dtype=5), NOT_FILLED),
    "backwards": (_header(dtype="F4", data_offsets=[4, 2]), NOT_FILLED),
    "immense": (_header(dtype="F8_E4M3", shape=[10**30]), NOT_FILLED),
    "cut short": (_header()[:-1], f"it has {len(_header()) - 1} bytes and should have {len(_header())}"),
    "no header": (struct.pack("<Q", 2**60) + b"{}", f"it has 10 bytes and should have {2**60 + 8:,}"),
    "empty": (b"", ""),
    "five bytes": (b"12345", ""),
    "null": (struct.pack("<Q", 4) + b"null", ""),
    "nested": (struct.pack("<Q", 10**5) + b"[" * 10**5, ""),
    "not UTF-8": (struct.pack("<Q", 4) + b'{"\xff"', ""),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_shard_is_refused_with_what_is_wrong_in_it(base: Path, damage: str) -> None:
    content, why = DAMAGED[damage]
    (base / "model.safetensors").write_bytes(content)
    assert _refusal(base).why == why


def test_what_is_no_plain_file_is_not_opened(base: Path) -> None:
    file = base / "model.safetensors"
    file.unlink()
    os.mkfifo(file)
    assert _refusal(base).why == "it is no plain file"
    file.unlink()
    file.symlink_to("/dev/zero")
    assert _refusal(base).why == "it is no plain file"


def test_a_linked_shard_is_read_as_in_the_cache_of_the_hub(base: Path, tmp_path: Path) -> None:
    (base / "model.safetensors").rename(tmp_path / "blob")
    (base / "model.safetensors").symlink_to(tmp_path / "blob")
    assert dict(read_shape("./base", base).parameters) == _published(base)


def test_an_index_that_is_not_that_of_its_shards_is_refused_by_the_first_weight(sharded: Path) -> None:
    told = json.loads((sharded / INDEX).read_text())["weight_map"]
    assert dict(read_shape("./base", sharded).parameters) == _published(sharded)
    _index(sharded, told | {UP: "b.safetensors"})
    assert _refusal(sharded).why == f"{UP} should lie in b.safetensors and lies in a.safetensors"
    _index(sharded, told | {"x": "a.safetensors"})
    assert _refusal(sharded).why == "x should lie in a.safetensors and lies in none"
    _index(sharded, {name: file for name, file in told.items() if name != UP})
    assert _refusal(sharded).why == f"{UP} should lie in no shard and lies in a.safetensors"
    _safetensors(sharded / "b.safetensors", {HEAD: (8, 4), UP: (6, 4)})
    assert _refusal(sharded).what == "a weight of the base is stored twice"
    (sharded / "b.safetensors").unlink()
    with pytest.raises(ArtifactError, match="a shard of the base is missing"):
        fingerprint(sharded)
    assert _refusal(sharded).what == "a shard of the base is missing"


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": 5}', "x", "\udcff"])
def test_a_damaged_index_is_refused(base: Path, index: str) -> None:
    (base / INDEX).write_bytes(index.encode("utf-8", "surrogateescape"))
    assert _refusal(base).what == "the base's index cannot be read"


@pytest.mark.parametrize("name", ["..", "../outside.safetensors", "config.json", 5, ["a"]])
def test_an_index_that_names_no_shard_is_refused(base: Path, name: object) -> None:
    (base / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    assert _refusal(base).what == "the base's index is not to be trusted"


@pytest.mark.parametrize("config", ["[]", "{", "null", "[" * 10**5, "\udcff", "\ufeff{}"])
def test_a_damaged_config_is_refused(base: Path, config: str) -> None:
    (base / "config.json").write_bytes(config.encode("utf-8", "surrogateescape"))
    assert _refusal(base).what == "the base's config cannot be read"


@pytest.mark.parametrize("config", ["{}", '{"model_type": ["qwen3_5"]}', '{"model_type": "a\\nb"}'])
def test_a_config_without_a_family_is_refused(base: Path, config: str) -> None:
    (base / "config.json").write_text(config)
    assert _refusal(base).where == f"{base / 'config.json'}  model_type"


def test_the_way_back_is_a_command_where_the_place_tells_of_one(base: Path, tmp_path: Path) -> None:
    commit = tmp_path / "models--me--my-model" / "snapshots" / "abc"
    assert refetch(commit, "config.json") == "hf download me/my-model config.json --revision abc --force-download"
    assert refetch(Path("a b")).startswith("hf download OWNER/NAME --local-dir 'a b' --force-download")
    (base / "demo_base.json").touch()
    assert refetch(base, "x").startswith(f"mv {base} {base}.damaged && finetune demo-base {base}")

"""Shapes against the published totals, and folders against damage."""

import json
import struct
from pathlib import Path

import pytest

from finetune.errors import ArtifactError
from finetune.shape import FAMILY_MODULES, fingerprint, read_header, read_shape

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


def _safetensors(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2
        for n in shape:
            size *= n
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(end))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_5"}')
    _safetensors(tmp_path / "model.safetensors", {"model.language_model.layers.0.mlp.up_proj.weight": (4, 2)})
    return tmp_path


def test_a_folder_is_read_from_its_headers(base: Path) -> None:
    shape = read_shape("./base", base)
    assert dict(shape.parameters) == {"model.language_model.layers.0.mlp.up_proj.weight": (4, 2)}
    assert [linear.name for linear in shape.linears(("mlp",))] == ["model.layers.0.mlp.up_proj"]


def test_a_shard_that_is_cut_short_is_refused(base: Path) -> None:
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="a shard of the base is cut short"):
        read_shape("./base", base)


@pytest.mark.parametrize("content", [b"", b"\x05", b"\xff" * 64, struct.pack("<Q", 4) + b"null"])
def test_what_is_no_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match="not a safetensors file"):
        read_header(file)


def test_an_index_that_points_outside_the_folder_is_refused(base: Path) -> None:
    (base / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../outside.safetensors"}}')
    with pytest.raises(ArtifactError, match="not to be trusted"):
        read_shape("./base", base)


def test_the_fingerprint_sees_a_changed_weight_of_a_small_base(base: Path) -> None:
    before = fingerprint(base)
    file = base / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    assert fingerprint(base) != before


def _with_embedding(base: Path, **config: int) -> Path:
    (base / "config.json").write_text(json.dumps({"model_type": "qwen3_5", "text_config": config}))
    _safetensors(base / "model.safetensors", {"model.language_model.embed_tokens.weight": (8, 4)})
    return base


def test_a_config_of_other_widths_than_the_weights_is_refused(base: Path) -> None:
    read_shape("./base", _with_embedding(base, vocab_size=8, hidden_size=4))
    with pytest.raises(ArtifactError, match="not that of its weights") as told:
        read_shape("./base", _with_embedding(base, vocab_size=50, hidden_size=4))
    assert "(50, 4)" in told.value.problems[0].why


def test_a_header_with_a_false_shape_is_refused(base: Path) -> None:
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b"[4, 2]", b"[4, 9]"))
    with pytest.raises(ArtifactError, match="a shard of the base is damaged"):
        read_shape("./base", base)


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": 5}', "x", "\udcff"])
def test_a_damaged_index_is_refused(base: Path, index: str) -> None:
    (base / "model.safetensors.index.json").write_bytes(index.encode("utf-8", "surrogateescape"))
    with pytest.raises(ArtifactError, match="the base's index cannot be read"):
        read_shape("./base", base)


@pytest.mark.parametrize("name", ["..", "config.json", 5])
def test_an_index_that_names_no_shard_is_refused(base: Path, name: object) -> None:
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ArtifactError, match="not to be trusted"):
        read_shape("./base", base)


@pytest.mark.parametrize("config", ["[]", "{", "{}", "null"])
def test_a_damaged_config_is_refused(base: Path, config: str) -> None:
    (base / "config.json").write_text(config)
    with pytest.raises(ArtifactError, match="the base's config cannot be read"):
        read_shape("./base", base)

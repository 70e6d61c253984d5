"""The shapes of a base's parameters, without torch and without reading a weight.

They come from the headers of a folder's safetensors files or, for the bases we ship recipes for, from a
small JSON made by scripts/make_shapes.py from the published config on torch's meta device.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import ArtifactError

SHIPPED = Path(__file__).parent / "shapes"

FAMILY_MODULES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "linear_attention": ("linear_attn", ("in_proj_qkv", "in_proj_z", "out_proj")),
    "attention": ("self_attn", ("q_proj", "k_proj", "v_proj", "o_proj")),
    "mlp": ("mlp", ("gate_proj", "up_proj", "down_proj")),
}
"""Family -> (block, linear layers). A Gated DeltaNet's in_proj_a and in_proj_b are not among them: they are
two rows a head and feed the decay through exp and softplus."""

DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Of the dtypes that safetensors names."""

REFETCH = "copy or download the base again: hf download OWNER/NAME"

_LAYER = re.compile(r"model\.(?:language_model\.)?layers\.(\d+)\.(.+)\.weight")


@dataclass(frozen=True)
class Linear:
    """One linear layer of the text model."""

    name: str
    """As the text-only class names its module: model.layers.0.mlp.up_proj."""
    family: str
    shape: tuple[int, int]
    """(out, in)"""


@dataclass(frozen=True)
class ModelShape:
    """Parameter names, as published, with their shapes."""

    source: str
    parameters: Mapping[str, tuple[int, ...]]
    model_type: str
    experts_per_token: int = 0
    """Routed experts that each token goes to; the one width that no parameter's shape tells."""
    quantised_by: str = ""
    """Who quantised the folder's weights before us; empty for plain ones."""

    @property
    def num_parameters(self) -> int:
        """All of them, with vision and MTP."""
        return sum(math.prod(shape) for shape in self.parameters.values())

    @property
    def num_text_parameters(self) -> int:
        """What the text-only class loads: no vision, no MTP."""
        return sum(math.prod(shape) for name, shape in self.parameters.items() if is_text(name))

    @property
    def num_routed_parameters(self) -> int:
        """Weights of routed experts, stored fused in three dimensions."""
        return sum(math.prod(s) for name, s in self.parameters.items() if is_text(name) and ".mlp.experts." in name)

    def linears(self, families: tuple[str, ...]) -> list[Linear]:
        """Lists the linear layers of the given families, in the order of the layers."""
        found = []
        for name, shape in self.parameters.items():
            match = _LAYER.fullmatch(name)
            if match is None or len(shape) != 2:
                continue
            layer, path = match.groups()
            block, _, leaf = path.partition(".")
            leaf = leaf.rsplit(".", 1)[-1]
            for family in families:
                if block == FAMILY_MODULES[family][0] and leaf in FAMILY_MODULES[family][1]:
                    found.append((int(layer), Linear(f"model.layers.{layer}.{path}", family, (shape[0], shape[1]))))
        return [linear for _, linear in sorted(found, key=lambda pair: pair[0])]


def is_text(name: str) -> bool:
    """Tells whether a published parameter belongs to the text model."""
    return not name.startswith(("mtp.", "model.visual."))


def is_shipped(base: str) -> bool:
    """Tells whether a Hub base can be planned without a download."""
    return base.startswith("Qwen/") and _shipped_file(base).is_file()


def _shipped_file(base: str) -> Path:
    return SHIPPED / f"{base.rsplit('/', 1)[-1]}.json"


def read_shape(base: str, folder: Path | None) -> ModelShape:
    """Reads a base's shapes from its folder, or from the shipped ones.

    Raises:
        ArtifactError: a shard is damaged or missing, or the base is neither on disk nor shipped.
    """
    if folder is not None:
        return _from_folder(folder)
    if not is_shipped(base):
        known = ", ".join(sorted(f"Qwen/{f.stem}" for f in SHIPPED.glob("*.json")))
        raise ArtifactError(
            f"the shapes of {base} are not known",
            where="base",
            why=f"it is not on disk, and the bases planned without a download are {known}",
            fix=f"hf download {base}",
        )
    told = json.loads(_shipped_file(base).read_text())
    parameters: dict[str, tuple[int, ...]] = {}
    for entry in told["parameters"]:
        for layer in entry.get("layers", [""]):
            parameters[entry["name"].replace("*", str(layer))] = tuple(entry["shape"])
    return ModelShape(base, parameters, told["model_type"], told.get("experts_per_token", 0))


def fingerprint(folder: Path) -> str:
    """Identifies a base on disk without reading all of it: config, headers, sizes and 16 samples of every shard."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in shards(folder):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} {json.dumps(read_header(file), sort_keys=True)}".encode())
        with file.open("rb") as stream:
            for part in range(16):
                stream.seek(size * part // 16)
                digest.update(stream.read(4096))
    return digest.hexdigest()


def _from_folder(folder: Path) -> ModelShape:
    try:
        config = json.loads((folder / "config.json").read_text())
        model_type = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        where, why = str(folder / "config.json"), f"{type(error).__name__}: {error}"
        raise ArtifactError("the base's config cannot be read", where=where, why=why, fix=REFETCH) from None
    parameters: dict[str, tuple[int, ...]] = {}
    for file in shards(folder):
        for name, entry in read_header(file).items():
            parameters[name] = tuple(entry["shape"])
    text = config.get("text_config", config)
    _check_widths(folder, text, parameters)
    quantised_by = config.get("quantization_config", {}).get("quant_method", "")
    return ModelShape(str(folder), parameters, model_type, text.get("num_experts_per_tok", 0), quantised_by)


def _check_widths(folder: Path, config: Any, parameters: Mapping[str, tuple[int, ...]]) -> None:
    """Compares the config's widths with the embedding, so that a base that cannot be loaded is refused here."""
    embedding = parameters.get("model.language_model.embed_tokens.weight")
    if embedding is None:
        return
    told = (config.get("vocab_size"), config.get("hidden_size")) if isinstance(config, dict) else None
    if told != embedding:
        raise ArtifactError(
            "the base's config is not that of its weights",
            where=str(folder / "config.json"),
            why=f"(vocab_size, hidden_size) is {told}, and the embedding is {embedding}",
            fix=REFETCH,
        )


def shards(folder: Path) -> list[Path]:
    """Lists the files that hold a base's weights, in the order of their names.

    Raises:
        ArtifactError: the index is damaged, or names what is no shard of this folder.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        empty = not names
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        names, empty, why = [], True, f"{type(error).__name__}: {error}"
    else:
        why = "it names no shard"
    if empty:
        raise ArtifactError("the base's index cannot be read", where=str(index), why=why, fix=REFETCH)
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            why = f"it points to {name!r}, which is no shard in this folder"
            raise ArtifactError("the base's index is not to be trusted", where=str(index), why=why, fix=REFETCH)
    return [folder / name for name in names]


def read_header(file: Path) -> dict[str, Any]:
    """Reads a safetensors header and checks that the file is as long as it says.

    Source: https://huggingface.co/docs/safetensors, section Format.

    Raises:
        ArtifactError: the file is missing, cut short, or no safetensors.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header: dict[str, Any] = json.loads(stream.read(min(length, 2**27)))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        wrong = [name for name, entry in header.items() if not _shape_fills(entry)]
    except FileNotFoundError:
        raise ArtifactError("a shard of the base is missing", where=str(file), fix=REFETCH) from None
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise ArtifactError("this is not a safetensors file", where=str(file), fix=REFETCH) from None
    if wrong:
        why = f"the bytes of {wrong[0]} are not those of its shape"
        raise ArtifactError("a shard of the base is damaged", where=str(file), why=why, fix=REFETCH)
    if size != 8 + length + end:
        why = f"it has {size:,} bytes and should have {8 + length + end:,}"
        raise ArtifactError("a shard of the base is cut short", where=str(file), why=why, fix=REFETCH)
    return header


def _shape_fills(entry: Mapping[str, Any]) -> bool:
    """Tells whether a tensor's bytes are those of its shape; of a dtype not listed it cannot tell, and says yes."""
    begin, end = entry["data_offsets"]
    size = DTYPE_BYTES.get(entry["dtype"])
    return size is None or math.prod(entry["shape"]) * size == end - begin

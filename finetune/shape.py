"""The shapes of a base's parameters, without torch and without reading a weight.

They come from the headers of a folder's safetensors files or, for the bases we ship recipes for, from a
small JSON made by scripts/make_shapes.py from the published config on torch's meta device.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune.architecture import NUMBERS, read_architecture, read_model_type
from finetune.errors import ArtifactError
from finetune.layout import match
from finetune.shards import check_index, list_tensors, read_header, shards

SHIPPED = Path(__file__).parent / "shapes"

FAMILY_MODULES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "linear_attention": ("linear_attn", ("in_proj_qkv", "in_proj_z", "out_proj")),
    "attention": ("self_attn", ("q_proj", "k_proj", "v_proj", "o_proj")),
    "mlp": ("mlp", ("gate_proj", "up_proj", "down_proj")),
}
"""Family -> (block, linear layers). A Gated DeltaNet's in_proj_a and in_proj_b are not among them: they are
two rows a head and feed the decay through exp and softplus."""

EXPERT_WEIGHTS = ("gate_up_proj", "down_proj")
"""The two fused weights of a layer's routed experts, (expert, out, in): the family `experts`."""

_LAYER = re.compile(r"model\.(?:language_model\.)?layers\.(\d+)\.(.+?)(?:\.weight)?")


@dataclass(frozen=True)
class Linear:
    """One linear layer of the text model, or the same one of all routed experts."""

    name: str
    """As the text-only class names its module: model.layers.0.mlp.up_proj."""
    family: str
    shape: tuple[int, ...]
    """(out, in); of one expert, where experts have it each."""
    num_experts: int = 0
    """That have one; 0 for a layer of its own."""


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

    @property
    def routers(self) -> list[tuple[int, ...]]:
        """Shapes of the routers of the text model, (experts, hidden) each; none of a dense one."""
        return [shape for name, shape in self.parameters.items() if is_text(name) and name.endswith(".mlp.gate.weight")]

    def linears(self, families: tuple[str, ...]) -> list[Linear]:
        """Lists the linear layers of the given families, in the order of the layers."""
        found = []
        for name, shape in self.parameters.items():
            match = _LAYER.fullmatch(name)
            if match is None or not is_text(name):
                continue
            layer, path = match.groups()
            family = _family(path)
            if family in families:
                experts = shape[0] if family == "experts" else 0
                found.append((int(layer), Linear(f"model.layers.{layer}.{path}", family, shape[-2:], experts)))
        return [linear for _, linear in sorted(found, key=lambda pair: pair[0])]


def _family(path: str) -> str:
    """Gives the family of a layer's part; none of norms, convolutions, decays and routers."""
    block, leaf = path.partition(".")[0], path.rpartition(".")[2]
    if path.startswith("mlp.experts."):
        return "experts" if leaf in EXPERT_WEIGHTS else ""
    return next((family for family, (of, leaves) in FAMILY_MODULES.items() if block == of and leaf in leaves), "")


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
        ArtifactError: the base is damaged or incomplete, or neither on disk nor shipped.
    """
    if folder is not None:
        return _from_folder(folder)
    if not is_shipped(base):
        known = sorted(f"Qwen/{f.stem}" for f in SHIPPED.glob("*.json"))
        meant = next((each for each in known if each.lower() == base.lower()), "Qwen/Qwen3.6-27B")
        raise ArtifactError(
            f"the shapes of {base} are not known",
            where="base",
            why=f"it is not on disk, and the bases planned without a download are {', '.join(known)}",
            fix=f"--set base={meant}   # or, if it was made from one of these: hf download {base}",
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
        header, size = read_header(file), file.stat().st_size  # in this order: a missing file is told
        digest.update(f"{file.name} {size} {json.dumps(header, sort_keys=True)}".encode())
        with file.open("rb") as stream:
            for part in range(16):
                stream.seek(size * part // 16)
                digest.update(stream.read(4096))
    return digest.hexdigest()


def _from_folder(folder: Path) -> ModelShape:
    """Reads a folder's shapes and, of a family that is known, compares them with its config.

    Raises:
        ArtifactError: config, index and shards are damaged, or do not belong together.
    """
    model_type = read_model_type(folder)
    tensors = list_tensors(shards(folder))
    check_index(folder, tensors)
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    if model_type not in NUMBERS:
        return ModelShape(str(folder), shapes, model_type)
    told = read_architecture(folder)
    if not told.quantised_by:
        match(folder, [tensor for tensor in tensors if is_text(tensor.name)], told.parameters())
    return ModelShape(str(folder), shapes, model_type, told.numbers.get("num_experts_per_tok", 0), told.quantised_by)

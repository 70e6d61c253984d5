"""The base's vision tower as the GGUF that llama.cpp calls a projector (mmproj), by llama.cpp's own converter.

No training here touches vision, so it is the base's, and goes with every GGUF of the base or of the merged model.
It lies in its own file because llama.cpp, LM Studio and Ollama read it from one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from finetune.errors import ArtifactError, ProofFailed
from finetune.export.converter import Converter
from finetune.merge.order import Order
from finetune.model.streaming import read_whole
from finetune.run import Claim, Run, claim
from finetune.shards import Stored, read_json

KIND = "F16"
"""Of matrices; the rest is F32. What others publish is F16 too, which all backends multiply."""

VISION = "model.visual."

PREPARED_BY = "preprocessor_config.json"

NAMES = (
    (r"blocks\.(\d+)\.attn\.qkv", r"v.blk.\1.attn_qkv"),
    (r"blocks\.(\d+)\.attn\.proj", r"v.blk.\1.attn_out"),
    (r"blocks\.(\d+)\.mlp\.linear_fc1", r"v.blk.\1.ffn_up"),
    (r"blocks\.(\d+)\.mlp\.linear_fc2", r"v.blk.\1.ffn_down"),
    (r"blocks\.(\d+)\.norm([12])", r"v.blk.\1.ln\2"),
    (r"merger\.norm", "v.post_ln"),
    (r"merger\.linear_fc1", "mm.0"),
    (r"merger\.linear_fc2", "mm.2"),
    (r"patch_embed\.proj", "v.patch_embd"),
    (r"pos_embed", "v.position_embd"),
)
"""What llama.cpp calls each module; written here anew, so that the converter is not its own witness."""


def room_bytes(order: Order) -> int:
    """Counts what is written at the most, the copy that is read back among it.

    Raises:
        ArtifactError: the base has no vision, or does not say how pictures are prepared for it.
    """
    vision, base = _vision(order), order.base.folder
    if not vision:
        what = "the base has no vision, so there is no projector to make"
        raise ArtifactError(what, where=str(base), why=f"none of its tensors begins with {VISION}")
    if not (base / PREPARED_BY).is_file():
        raise ArtifactError(
            "the base does not say how pictures are prepared for its vision",
            where=str(base),
            why=f"it has no {PREPARED_BY}",
            fix=f"hf download OWNER/NAME {PREPARED_BY} --local-dir {shlex.quote(str(base))}   # of that very base",
        )
    return 4 * sum(tensor.num_bytes for tensor in vision)


def make(
    order: Order, converter: Converter, making: Path, say: Callable[[str], None]
) -> tuple[list[Path], list[Claim]]:
    """Writes the projector and compares every weight of it with the base's.

    Raises:
        OutsideError: the converter failed.
        ProofFailed: naming what is another.
    """
    file = making / projector_name(order.run)
    converter.run("project", order.base.folder, order.run.name, KIND.lower(), file)
    claims = [*_check_fields(file, order, converter), _same_weights(file, order, converter)]
    say(f"{file.name}  every weight is the base's; {file.stat().st_size / 1e9:,.3f} GB")
    return [file], claims


def names(run: Run) -> list[str]:
    """Lists what is written."""
    return [projector_name(run)]


def serve(run: Run, folder: Path) -> str:
    """Gives the command that serves it."""
    return shlex.join(["llama-server", "-m", "MODEL.gguf", "--mmproj", str(folder / projector_name(run)), "--jinja"])


def projector_name(run: Run) -> str:
    """Gives the name of a run's projector."""
    return f"mmproj-{run.name}-{KIND}.gguf"


def _vision(order: Order) -> list[Stored]:
    return [tensor for tensor in order.base.tensors if tensor.name.startswith(VISION)]


def _check_fields(file: Path, order: Order, converter: Converter) -> list[Claim]:
    """Reads what the file says of itself.

    Raises:
        ProofFailed: it says something else.
    """
    fields: dict[str, Any] = converter.run("read", file)["fields"]
    config = read_json(order.base.folder / "config.json", "the base's config")
    prepared = read_json(order.base.folder / PREPARED_BY, "how pictures are prepared")
    wanted = {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "clip.has_vision_encoder": True,
        "clip.projector_type": "qwen3vl_merger",
        "clip.vision.block_count": config["vision_config"]["depth"],
        "clip.vision.patch_size": config["vision_config"]["patch_size"],
        "clip.vision.projection_dim": config["vision_config"]["out_hidden_size"],
    }
    for name, value in wanted.items():
        if fields.get(name) != value:
            raise ProofFailed(f"{name} of the projector is {fields.get(name)}, not {value}", where=str(file))
    for name in ("image_mean", "image_std"):
        found, told = torch.tensor(fields[f"clip.vision.{name}"]), torch.tensor(prepared[name])
        if not torch.equal(found.float(), told.float()):
            raise ProofFailed(f"{name} of the projector is {found.tolist()}, not {told.tolist()}", where=str(file))
    return [claim("architecture, kind, sizes and preparation of pictures read back", len(wanted) + 2, len(wanted) + 2)]


def _same_weights(file: Path, order: Order, converter: Converter) -> Claim:
    """Compares every weight with the base's, rounded as its kind in the file is.

    Raises:
        ProofFailed: naming the first weight that differs.
    """
    numbers = file.with_suffix(".safetensors")
    converter.run("numbers", file, numbers)
    found, wanted = load_file(numbers), dict(_expected(order))
    numbers.unlink()
    if found.keys() != wanted.keys():
        why = f"{min(found.keys() ^ wanted.keys())} is only in one of them"
        raise ProofFailed("the projector holds other tensors than the base's vision", where=str(file), why=why)
    for name, weight in wanted.items():
        if not torch.equal(found[name], weight.to(found[name].dtype)):
            raise ProofFailed("a weight of the projector is not the base's", where=f"{file}  {name}")
    return claim("tensors that are the base's, matrices rounded to F16", len(found), len(wanted))


def _expected(order: Order) -> Iterator[tuple[str, torch.Tensor]]:
    """Gives the base's vision under llama.cpp's names; the convolution over two frames is one for each there."""
    for tensor in _vision(order):
        module, _, leaf = tensor.name.removeprefix(VISION).rpartition(".")
        known = [re.sub(ours, theirs, module) for ours, theirs in NAMES if re.fullmatch(ours, module)]
        name, weight = f"{known[0] if known else module}.{leaf}", read_whole(tensor)
        if weight.ndim == 5:  # (out, colour, frame, height, width)
            for frame, suffix in enumerate(("", ".1")):
                yield name + suffix, weight[:, :, frame]
        else:
            yield name, weight

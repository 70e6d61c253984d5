"""`finetune merge --adapter-only`: several adapters as one, in the two files that plain PEFT reads, and read back.

Only a weighted sum can be written so: it is exact, its rank the sum of the ranks. TIES and DARE make full ranks.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from finetune import __version__
from finetune.errors import ProofFailed, RecipeError
from finetune.experts import DOWN, GATE_UP
from finetune.experts.layouts import to_peft
from finetune.merge.changes import PREFIX, Adapter, LowRank, OfExperts, Whole, experts_in, of_experts
from finetune.merge.combining import Combined
from finetune.merge.finishing import check_name, finished, publish
from finetune.merge.journal import Journal
from finetune.merge.mix import Mix
from finetune.merge.order import again, take
from finetune.merge.parts import described
from finetune.merge.weights import Weights
from finetune.model.adapter import CONFIG, ROUTER, WEIGHTS
from finetune.model.experts import TARGETS
from finetune.plan import read_plan
from finetune.run import Claim, Entry, Run, atomic, claim, locked, manifest, outputs

PROBES = 16
"""Vectors that both are multiplied with."""

MOST_ERROR = 1e-5
"""Of the products, by their norm: float32's rounding over a few hundred terms is some 1e-7."""

STAGE = "combine"

PACKAGES = ("torch", "peft", "safetensors")


def combine(run: Run, mix: Mix, out: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Writes a run's adapter and others as one; gives its manifest entry. All of it is held in memory meanwhile.

    Args:
        run: that finished.
        mix: what becomes one with its adapter.
        out: the folder to make; without one it lies in the run.
        say: takes a line for the user.

    Raises:
        ArtifactError: run, adapter or base is not what it was, or there is something in the place of the folder.
        DoesNotFit: the disk is full.
        ProofFailed: what was written is not the weighted sum; it keeps its `.partial` name.
        RecipeError: what is asked for is no adapter, or the run's own.
        RunLocked: another process works in the run.
    """
    _check(run, mix)
    began, out = time.monotonic(), Path(os.path.normpath(out or mix.folder(run, "adapter")))
    check_name(out)
    with locked(run):
        journal, asked = Journal(out), described(run, mix)
        journal.tidy()
        if (entry := finished(run, STAGE, asked, journal, say)) is not None:
            return entry
        order = take(run, "bf16", mix)
        assert isinstance(order.changes, Combined)
        fix = f"give another one: {again(run, 'bf16', out.with_name(f'{out.name}-2'), mix, adapter_only=True)}"
        then = again(run, "bf16", out, mix, adapter_only=True)
        with atomic.refusal_told(out, fix), atomic.full_disk_told(journal.model, then=then):
            journal.open({**order.identity, "onto": STAGE})
            _write(order.changes, order.base, journal.model)
            claims = _prove(order.changes, order.base, journal.model)
            for name in (CONFIG, WEIGHTS):
                journal.finished(name, atomic.sha256(journal.model / name))
            journal.proven(
                Entry(
                    stage=STAGE,
                    inputs={name: told for name, told in order.inputs.items() if name != "onto"},
                    outputs={run.named(out / name): digest for name, digest in sorted(journal.files.items())},
                    claims=claims,
                    versions={
                        "finetune": __version__,
                        "python": platform.python_version(),
                        **{package: version(package) for package in PACKAGES},
                    },
                    seconds=round(time.monotonic() - began, 1),
                    finished=manifest.now(),
                )
            )
            return publish(run, journal)


def _check(run: Run, mix: Mix) -> None:
    """Makes sure that an adapter is asked for that is not there yet.

    Raises:
        ArtifactError: the run has none.
        RecipeError: it is not.
    """
    outputs.need_adapter(run, read_plan(run.plan).method, outputs.command("merge", run))
    if mix.alone:
        why = f"{run.adapter} is the adapter of this run alone"
        fix = f"{again(run, 'bf16', run.merged)} ANOTHER-RUN --adapter-only"
        raise RecipeError("there is nothing to combine", where="--adapter-only", why=why, fix=fix)
    if mix.method != "linear":
        why = "its result has full rank; PEFT's own way thins A and B each alone, which is another thing"
        fix = f"{again(run, 'bf16', mix.folder(run, 'merged'), mix)}   # or --method linear"
        raise RecipeError(f"{mix.method} makes no adapter", where=f"--method {mix.method}", why=why, fix=fix)


def _write(adapter: Combined, base: Weights, folder: Path) -> None:
    """Writes the two files."""
    tensors: dict[str, torch.Tensor] = {}
    experts: dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]] = {}
    ranks: dict[str, int] = {}
    for name in sorted(adapter.place(base.parameters)):
        module = name.removesuffix(".weight")
        match adapter.change(name, experts_in(name, base.parameters)):
            case LowRank(a, b):
                tensors |= {f"{PREFIX}{module}.lora_A.weight": a, f"{PREFIX}{module}.lora_B.weight": b}
                ranks[module] = len(a)
            case OfExperts(a, b):
                block, _, leaf = name.rpartition(".")
                experts.setdefault(block, {})[leaf] = a, b
                ranks[module] = a.shape[1]
            case Whole() as whole:
                tensors[PREFIX + name] = whole.apply(0, base.whole(name))
    for block, pairs in experts.items():
        tensors |= to_peft(PREFIX + block, {leaf: pairs[leaf] for leaf in (GATE_UP, DOWN)})
    save_file({n: tensors[n].contiguous() for n in sorted(tensors)}, folder / WEIGHTS, metadata={"format": "pt"})
    own, _ = adapter.adapters[0]
    routers = any(name.endswith(f".{ROUTER}.weight") for name in tensors)
    told = {**own.config, **_config(ranks, base), "modules_to_save": [ROUTER] if routers else None}
    (folder / CONFIG).write_text(json.dumps(told, indent=2, sort_keys=True) + "\n")


def _config(ranks: dict[str, int], base: Weights) -> dict[str, Any]:
    """Gives what a config must say of adapters whose alpha is their rank.

    Args:
        ranks: module, or fused weight of experts -> rank.
        base: of them.
    """
    modules = {name: rank for name, rank in ranks.items() if not of_experts(name)}
    stacks = {name: rank for name, rank in ranks.items() if of_experts(name)}
    rank = Counter((modules or stacks).values()).most_common(1)[0][0] if ranks else 1
    told = {name: each for name, each in _patterns(modules).items() if each != rank} | _patterns(stacks)
    return {
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": told,
        "alpha_pattern": told,
        "target_modules": _targets(modules, base),
        "target_parameters": TARGETS if stacks else None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "exclude_modules": None,
        "use_rslora": False,
        "lora_dropout": 0.0,
        "inference_mode": True,
    }


def _patterns(ranks: dict[str, int]) -> dict[str, int]:
    """Says the ranks by the ends of names where all with that end have one rank: mlp.down_proj, no expert's."""
    patterns: dict[str, int] = {}
    ends: dict[str, dict[str, int]] = {}
    for name, rank in ranks.items():
        end = ".".join(name.split(".")[-3 if of_experts(name) else -2 :])
        ends.setdefault(end, {})[name] = rank
    for end, named in ends.items():
        first, *others = set(named.values())
        patterns |= named if others else {end: first}
    return patterns


def _targets(modules: Collection[str], base: Weights) -> list[str]:
    """Lists the last parts of names, as training does, or whole names where others with that part have no adapter."""
    leaves = {module.rpartition(".")[2] for module in modules}
    linear = {name.removesuffix(".weight") for name in base.parameters if name.endswith(".weight")}
    meant = {name for name in linear if name.rpartition(".")[2] in leaves}
    return sorted(leaves if meant == set(modules) else modules)


def _prove(adapter: Combined, base: Weights, folder: Path) -> list[Claim]:
    """Multiplies what was written, and each adapter that went in, with the same vectors.

    Raises:
        ProofFailed: the one is not the weighted sum of the others.
    """
    back, most = Adapter(folder), 0.0
    changed = adapter.place(base.parameters)
    if back.place(base.parameters) != changed:
        raise ProofFailed("the combined adapter changes other weights than its parts", where=str(folder))
    for name in sorted(changed):
        num_experts = experts_in(name, base.parameters)
        made = back.change(name, num_experts)
        vectors = torch.randn(base.parameters[name][-1], PROBES, generator=torch.Generator().manual_seed(0))
        if isinstance(made, Whole):
            old = base.whole(name)
            parts = [w * (part.apply(0, old) - old) @ vectors for _, part, w in adapter.parts(name)]
            found = (made.weight - old) @ vectors
        else:
            found = _beside(made, vectors)
            parts = [w * _beside(part, vectors) for _, part, w in adapter.parts(name, num_experts)]
        wanted = torch.stack(parts).sum(dim=0)
        scale = torch.stack(parts).abs().sum(dim=0).norm()  # not of the sum, which may cancel
        error = ((found - wanted).norm() / scale).item() if scale else found.norm().item()
        if not error <= MOST_ERROR:
            why = f"it is {error:.3g} of its size away; {MOST_ERROR:g} is allowed"
            raise ProofFailed(f"{name} is not the weighted sum of the adapters", where=str(folder), why=why)
        most = max(most, error)
    return [
        claim("weights with an adapter", len(changed), len(changed)),
        claim(
            "distance of the worst weight's product from the weighted sum of the parts', of its size", most, MOST_ERROR
        ),
    ]


def _beside(change: Any, vectors: torch.Tensor) -> torch.Tensor:
    """Multiplies scale BA with vectors: (out, probes), or (experts, out, probes)."""
    found: torch.Tensor = change.b @ (change.a @ vectors) * change.scale
    return found

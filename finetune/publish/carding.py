"""The card of a repository and the licence that it may bear: the one place where publishing asks for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from finetune.data.sources import sources_of
from finetune.recipe import Recipe, load
from finetune.run import Run, manifest

Kind = Literal["adapter", "merged", "gguf"]

RELATIONS = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}
LIBRARIES = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}


@dataclass(frozen=True)
class Verdict:
    """What the licences of base and data allow together."""

    license: str | None
    """As the Hub names it; None where it is not known."""
    publishable: Literal["yes", "only forced", "no"]
    """To everybody."""
    why: str


def license_of(recipe: Recipe) -> Verdict:
    """Judges by what the recipe says of its sources; no legal advice."""
    told = {source.license or "unknown" for source in sources_of(recipe)}
    license = "apache-2.0" if recipe.base.startswith("Qwen/") else None
    if bound := sorted(name for name in told if "-nc" in name.lower() or name == "unknown"):
        return Verdict(license, "only forced", f"a source of data.train has the licence {bound[0]}")
    return Verdict(license, "yes", "")


def card_of(run: Run, artifact: Kind, repo: str, chain: Sequence[str]) -> str:
    """Writes README.md: front matter that the Hub reads, and what was proven.

    Args:
        run: whose model it is.
        artifact: which form of it.
        repo: where it goes.
        chain: of what it was made, as ids of the Hub, the nearest first.
    """
    recipe, told = load(run.recipe), manifest.read(run.manifest)
    lines = ["---", "pipeline_tag: text-generation", f"library_name: {LIBRARIES[artifact]}"]
    if license := license_of(recipe).license:
        lines.append(f"license: {license}")
    if chain:
        lines += [f"base_model: {json.dumps(chain[0])}", f"base_model_relation: {RELATIONS[artifact]}"]
    lines += ["tags:", "- finetune", "---", "", f"# {repo.partition('/')[2]}", ""]
    for stage in told["stages"]:
        if stage["stage"] in ("train", "merge", "export"):
            lines += [f"- {stage['stage']}: {each['claim']}: {each['measured']}" for each in stage["claims"]]
    return "\n".join(lines) + "\n"

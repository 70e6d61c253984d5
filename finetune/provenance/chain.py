"""The chain of a run, from its rows to its GGUF files: that each stage took what the one before it made, by hashes.

It is read from the manifest alone; whether the files on the disk are those that it names, `finetune verify` compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finetune.run import outputs

FROM_BEGINNING = {
    "data": "the rendered rows",
    "template": "the template",
    "tokenizer": "the tokenizer",
    "base": "the base",
}
"""What a training takes that the head of a manifest tells -> in words."""


@dataclass(frozen=True)
class Link:
    """Two things of a run that should belong together."""

    told: str
    """That they do, as a claim."""
    count: int
    """Hashes that are the same."""
    missing: str = ""
    """What does not fit, or is not told; empty if the link holds."""

    @property
    def holds(self) -> bool:
        """Whether the hashes are there, and the same."""
        return not self.missing


def links(told: dict[str, Any], rendered: str | None = None) -> list[Link]:
    """Walks a run's chain and says of each link whether it holds.

    Args:
        told: the manifest of a run that training began.
        rendered: hash of the rows as they are on the disk, rendered anew; None where nobody did.
    """
    return list(_links(told, rendered))


def _links(told: dict[str, Any], rendered: str | None) -> Iterator[Link]:
    begun = told["contract"]
    if rendered is not None:
        yield _one("the rows on the disk are those that the run began with", rendered, begun["data"])
    trained = outputs.last(told, "train")
    if trained is None:
        return
    for key, name in FROM_BEGINNING.items():
        yield _one(f"train took {name} that the run began with", trained["inputs"].get(key), begun[key])
    learnt = next(
        (part for part in outputs.LEARNT if any(n.startswith(f"{part}/") for n in trained["outputs"])), "adapter"
    )
    for stage in ("evaluate", "merge", "ledger", "vllm"):
        entry = outputs.last(told, stage, adapters=None)  # which a merge of several names
        if entry:
            yield _named(f"{stage} took the {learnt} that training made", entry, trained["outputs"], learnt)
        if entry and stage == "merge":
            yield _one("merge took the base that the run began with", entry["inputs"].get("base"), begun["base"])
    if exported := outputs.last(told, "export"):
        before = told["stages"][: told["stages"].index(exported)]
        merged = outputs.last({**told, "stages": before}, "merge", adapters=None)
        made = merged["outputs"] if merged else {}
        yield _named("export took the weights that merging made", exported, made, "merged")


def _one(told: str, found: Any, wanted: str) -> Link:
    if found is None:
        return Link(told, 0, "the manifest does not tell its hash")
    return Link(told, 1) if found == wanted else Link(told, 0, f"{str(found)[:16]}, not {wanted[:16]}")


def _named(told: str, entry: dict[str, Any], made: dict[str, Any], part: str) -> Link:
    """Compares the files of a part that a stage took with those that another made."""
    took = {name: digest for name, digest in entry["inputs"].items() if name.startswith(f"{part}/")}
    if not took:
        return Link(told, 0, f"the manifest tells no hash of what {entry['stage']} took")
    if away := [name for name, digest in took.items() if made.get(name) != digest]:
        return Link(told, 0, f"{away[0]} is another")
    return Link(told, len(took))

"""What was published of a run, as a repository or its folder: its files against the manifest that went up with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from finetune.model.adapter import CONFIG
from finetune.provenance import links
from finetune.run import Claim, atomic, claim, manifest, outputs

WEIGHTS = (".safetensors", ".gguf")

ANEW = (CONFIG, "README.md", "bom.json", "manifest.json", "recipe.yaml", "evaluation.json", "ledger.json")
"""Files that publishing writes anew, without what only the machine of the run knows; their bytes are no stage's."""


def is_published(folder: Path) -> bool:
    """Tells the folder of a repository from a run, which has a plan, and from what no run made."""
    return (folder / "manifest.json").is_file() and not (folder / "plan.json").exists()


def check_published(folder: Path) -> Iterator[Claim]:
    """Compares files with the hashes of the stages that made them, and walks the chain from rows to weights.

    Args:
        folder: of an adapter, a merged model or GGUF files, as `finetune publish` lays it out.

    Raises:
        ArtifactError: the manifest is damaged.
    """
    told = manifest.read_chain(folder / "manifest.json")
    made: dict[str, set[str]] = {}
    for stage in told["stages"]:
        for name, digest in stage["outputs"].items():
            made.setdefault(Path(name).name, set()).add(digest)
    same, wrong = 0, []
    for file in sorted(file for file in folder.rglob("*") if file.is_file() and file.name not in ANEW):
        known = made.get(file.name)
        if known is None and file.suffix in WEIGHTS:
            wrong.append(f"{file.name} is of no stage")
        elif known is not None and atomic.sha256(file) not in known:
            wrong.append(f"{file.name} is another")
        else:
            same += known is not None
    yield claim("files as the stages of the run made them", "; ".join(wrong) or same, holds=not wrong and same > 0)
    for link in links(told):
        yield claim(link.told, link.missing or link.count, holds=link.holds)
    failed = [f"{stage['stage']}: {each['claim']}" for stage in told["stages"] for each in stage["claims"]
              if not each["holds"]]  # fmt: skip
    yield claim("claims of the run that did not hold", "; ".join(failed) or 0, holds=not failed)
    if (folder / "model.sig").is_file():
        yield claim("a signature is there, and was not compared", "--key pub.pem does")
    if outputs.last(told, "evaluate") is None:
        yield claim("whether the tuning helped was not evaluated", "")

"""The model card: README.md of an adapter, of a merged model or of GGUF files, a view of what the run's files prove."""

from __future__ import annotations

from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from finetune.card import making, results
from finetune.card.front import front_matter
from finetune.card.headline import headline, unmeasured, worse
from finetune.card.running import how_to_run
from finetune.card.text import code, plain, quoted, table
from finetune.errors import ProofFailed
from finetune.licences import Verdict
from finetune.provenance import Artifact, Facts, compute_of, energy_of, links
from finetune.run import outputs

FORMS: dict[Artifact, str] = {
    "adapter": "These files are the adapter, which is used beside its base.",
    "merged": "These files are the whole model, the adapter merged into its base.",
    "gguf": "These files are the whole merged model as GGUF, for llama.cpp, LM Studio and Ollama.",
}

WHOLE = "These files are the whole model: the base's own, with the trained weights in their places."
"""Of the merged model where there is no adapter."""


def make_card(facts: Facts, artifact: Artifact, repo: str | None = None, made_of: str | None = None) -> str:
    """Writes a card.

    Args:
        facts: of the run.
        artifact: whose card it is.
        repo: where it goes, as owner/name.
        made_of: the repository of the merged model, of which GGUF files were made.

    Raises:
        ArtifactError: there is no such artifact, for method `full` trains no adapter.
        ProofFailed: what was written reads back as something else.
        RecipeError: the wished licence is a misspelt identifier.
    """
    if artifact == "adapter":
        outputs.need_adapter(facts.run, facts.plan.method, "--artifact merged")
    verdict, energy = facts.verdict(), energy_of(facts)
    front = front_matter(facts, artifact, repo, made_of, verdict, energy)
    sections = {
        "Results": results.results(facts),
        "What each form keeps of the tuning": results.kept(facts) if facts.ledger else "",
        "How to run it": how_to_run(facts, artifact, repo),
        "Intended use": _wished(facts.recipe.card.intended_use, "Nobody wrote down what it is for."),
        "Limits": _limits(facts),
        "Data": making.data(facts),
        "Training": making.training(facts, compute_of(facts), energy),
        "Recipe": making.recipe(facts),
        "Licence": _licence(facts, verdict),
        "Provenance": _provenance(facts, artifact),
    }
    body = "\n\n".join(f"## {head}\n\n{text}" for head, text in sections.items() if text)
    title = plain((repo or facts.run.name).rpartition("/")[2])
    return _proven(front, f"# {title}\n\n{_opening(facts, artifact, made_of)}\n\n{body}\n")


def _proven(front: ModelCardData, body: str) -> str:
    """Puts head and body together, and reads them back as the Hub's client does.

    Raises:
        ProofFailed: they read back as something else.
    """
    content = f"---\n{front.to_yaml().rstrip()}\n---\n\n{body}"
    read: Any = ModelCard(content)
    told: Any = front
    if read.data.to_dict() != told.to_dict() or read.text.strip() != body.strip():
        raise ProofFailed(
            "the card reads back as another one", where="README.md", why="its head did not end where it should"
        )
    return content


def _opening(facts: Facts, artifact: Artifact, made_of: str | None) -> str:
    base = (
        f"[{plain(facts.base_id)}](https://huggingface.co/{facts.base_id})" if facts.base_id else plain(facts.base_name)
    )
    at = f" at {code(facts.revision[:12])}" if facts.revision else ""
    at = at or (" (its commit was not recorded)" if facts.base_id else "")
    counts = facts.told["data"]
    full = facts.plan.method == "full"
    how = "every weight of its text model trained" if full else f"tuned by {facts.recipe.method}"
    made = f"{base}{at}, {how} on {counts['examples']:,} examples."
    form = WHOLE if full and artifact == "merged" else FORMS[artifact]
    lines = [f"{made} {form}", "", f"**{headline(facts, artifact)}.**"]
    if lost := worse(facts, artifact):
        lines += ["", f"**{lost}**"]
    if facts.base_id is None and not made_of:
        lines += ["", "The base is a folder without an id on the Hub, so no `base_model` is named."]
    return "\n".join(lines)


def _wished(text: str | None, without: str) -> str:
    return quoted(text) if text else without


def _limits(facts: Facts) -> str:
    told = [quoted(facts.recipe.card.limits), ""] if facts.recipe.card.limits else []
    return "\n".join([*told, *(f"- {each}" for each in unmeasured(facts))])


def _licence(facts: Facts, verdict: Verdict) -> str:
    lines = [f"{_whose(facts, verdict)} This is no legal advice."]
    if verdict.why:
        lines += ["", "What stands against publishing it:", "", *(f"- {plain(each)}" for each in verdict.why)]
    if verdict.notices:
        lines += ["", "What goes along with the model:", "", *(f"- {plain(each)}" for each in verdict.notices)]
    return "\n".join(lines)


def _whose(facts: Facts, verdict: Verdict) -> str:
    """Names the licence, and says whether base and data ask for it or somebody wishes it."""
    name = f"**{plain(verdict.license_name or verdict.license)}**"
    untold = verdict.left == "unknown"
    if facts.recipe.card.license is None:
        return (
            f"{name}: base and data do not say." if untold else f"{name}, the strictest of what base and data ask for."
        )
    wish = f"{name}, which is the wish of whoever made this model (`card.license`)"
    return f"{wish}; base and data leave {'it open' if untold else plain(verdict.left)}."


def _provenance(facts: Facts, artifact: Artifact) -> str:
    """Lists files with their hashes, the links of the chain, and the versions of what trained it."""
    files = [[code(name), code(digest)] for name, digest in facts.files(artifact).items()]
    chain = [
        [plain(link.told), "holds" if link.holds else f"**{plain(link.missing)}**"]
        for link in links(facts.told, facts.data.rendered)
    ]
    took = {name: version for name, version in facts.trained["versions"].items() if name not in _idle(facts)}
    versions = ", ".join(f"{name} {version}" for name, version in took.items())
    begun = facts.told["contract"]
    hashes = ", ".join(f"{name} {code(begun[name][:16])}" for name in ("base", "template", "tokenizer", "plan"))
    lines = [
        f"Run {code(facts.told['run'])}, trained {plain(str(facts.trained['finished']))}. Made with {plain(versions)}.",
        "",
        f"Fingerprints (sha256): {hashes}.",
        "",
        table(["link of the chain", ""], chain),
    ]
    if files:
        lines += ["", table(["file", "sha256"], files)]
    return "\n".join(lines)


def _idle(facts: Facts) -> tuple[str, ...]:
    """Names packages that were there and took no part: without an adapter, the one that makes them."""
    return ("peft",) if facts.plan.method == "full" else ()

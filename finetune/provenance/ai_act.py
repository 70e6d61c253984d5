"""A draft for those who must think of the EU AI Act: what a training learnt of, and its compute beside the guidelines.

These are figures and a form half filled in, for a lawyer to read. Nothing here is legal advice.
"""

from __future__ import annotations

from collections.abc import Iterator

from finetune.provenance.compute import Compute, compute_of
from finetune.provenance.facts import Facts
from finetune.provenance.origins import Origin

DRAFT = "> **DRAFT, made by a program from a run's files. Not legal advice; nobody has read it yet.**"

GENERAL_PURPOSE_FLOPS = 1e23
"""Training compute above which a model that writes text counts as general-purpose, as an indication."""

SYSTEMIC_FLOPS = 1e25
"""Above which it is presumed to bear systemic risk. Source: Regulation (EU) 2024/1689, article 51(2)."""

MODIFIER_SHARE = 1 / 3
"""Of the original model's training compute that a modification takes before its maker counts as a provider.

Where the original's is not known, of the threshold that the original is above. Source: European Commission, Guidelines
on the scope of the obligations for providers of general-purpose AI models, 18 July 2025, as summaries of them tell.
"""

SOURCE = (
    "European Commission, *Guidelines on the scope of the obligations for providers of general-purpose AI models*, "
    "18 July 2025; Regulation (EU) 2024/1689, article 51(2)"
)


def training_summary(facts: Facts) -> str:
    """Drafts a summary of what a model was tuned on, and how much compute that took.

    Args:
        facts: of the run.
    """
    parts = [
        DRAFT,
        f"# Training content of {facts.run.name}",
        "It follows the headings of the Commission's template for public summaries of training content (24 July 2025), "
        "as far as a fine-tuning has something to say. It covers the fine-tuning only, not the base.",
        "## 1. General information",
        "\n".join(_general(facts)),
        "## 2. Data",
        "\n\n".join(_source(source) for source in facts.data.sources if not source.held_out),
        *([f"Files are not listed: {_clean(facts.data.missing)}."] if facts.data.missing else []),
        "To be written by hand: how the data were obtained, over which period, in which languages; whether any were "
        "scraped from the web, and from which domains; whether any are personal data or were made by another model.",
        "## 3. How the data were treated",
        "\n".join(_treatment(facts)),
        "## 4. Compute",
        compute_told(compute_of(facts)),
        DRAFT,
    ]
    return "\n\n".join(parts) + "\n"


def compute_told(compute: Compute | None) -> str:
    """Lays a training's operations beside the thresholds of the guidelines.

    Args:
        compute: of the training; None where it is not known.
    """
    if compute is None:
        return "Not estimated: the number of tokens or the shapes of the base are not known."
    thresholds = {
        "a third of 1e23, where the original's compute is not known": MODIFIER_SHARE * GENERAL_PURPOSE_FLOPS,
        "a third of 1e25, where the original is one of systemic risk": MODIFIER_SHARE * SYSTEMIC_FLOPS,
    }
    rows = [
        f"| {told} | {limit:.2e} | {compute.flops / limit:.1e} | {'**above**' if compute.flops > limit else 'below'} |"
        for told, limit in thresholds.items()
    ]
    return "\n".join(
        [
            f"- by 6 x active parameters x tokens: 6 x {compute.active_parameters:,} x {compute.tokens:,} = "
            f"{compute.six_flops:.3e} FLOP",
            f"- by the matrix products that were run, recomputed ones too: {compute.executed_flops:.3e} FLOP",
            f"- the larger of both, {compute.flops:.3e}, beside what makes the maker of a modification a provider:",
            "",
            "| threshold | FLOP | share of it | |",
            "|---|---|---|---|",
            *rows,
            "",
            "Both are estimates. Held-out rows that were scored, padding, and trials before this run are not counted; "
            "where the original's compute is known, a third of that takes the threshold's place.",
            "",
            f"Source of the thresholds: {SOURCE}.",
        ]
    )


def _general(facts: Facts) -> Iterator[str]:
    at = f" at {facts.revision}" if facts.revision else ""
    yield f"- Model: {facts.run.name}; version of {facts.trained['finished'][:10]}"
    yield f"- Modified from: {_clean(facts.base_name)}{at}"
    yield "- Provider, contact, date of placing on the market: to be written by hand"
    yield "- Modality: text"
    counts = facts.told["data"]
    yield f"- Size: {counts['rows']:,} rows, {counts['tokens']:,} tokens ({counts['learnt_tokens']:,} learnt)"


def _source(source: Origin) -> str:
    kind = "Publicly available data set of the Hugging Face Hub" if source.hub else "Data set held by the maker"
    lines = [
        f"### {_clean(source.name)}",
        "",
        f"- Kind: {kind}",
        f"- Licence: {_clean(source.license or 'not stated')}",
    ]
    lines += [f"- Version: {source.revision}"] if source.revision else []
    lines += [f"- {_clean(file.name)}: {file.rows:,} rows, sha256 {file.sha256}" for file in source.files]
    return "\n".join(lines)


def _treatment(facts: Facts) -> Iterator[str]:
    counts = facts.told["data"]
    yield f"- {counts['held_out_rows']:,} rows were held out of training, and only scored"
    if counts["dropped"]:
        yield f"- {counts['dropped']:,} examples longer than {facts.recipe.data.max_length:,} tokens were left out"
    yield from (f"- {_clean(note)}" for note in facts.told["notes"])
    yield "- Measures against personal data, illegal content and opted-out works: to be written by hand"


def _clean(text: str) -> str:
    """Lays words of others on one line in which no Markdown or HTML begins."""
    return "".join(f"\\{each}" if each in "\\`*_[]<>#|" else each for each in " ".join(text.split()))

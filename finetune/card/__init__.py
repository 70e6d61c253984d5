"""Floor 6: the model card, made of what a run's files prove and of the recipe's own words."""

from __future__ import annotations

from finetune.card.benchmarks import benchmark_results
from finetune.card.page import make_card
from finetune.licences import Verdict
from finetune.provenance import Artifact, read_facts
from finetune.run import Run

__all__ = ["Artifact", "benchmark_results", "card_of", "license_of", "make_card"]


def card_of(run: Run, artifact: Artifact, repo: str | None = None, made_of: str | None = None) -> str:
    """Writes the card of one artifact of a run that finished.

    Args:
        run: whose model it is.
        artifact: which form of it.
        repo: where it goes, as owner/name.
        made_of: of GGUF files, the repository of the merged model.

    Raises:
        ArtifactError: the run did not finish, or one of its files is damaged.
        ProofFailed: what was written reads back as something else.
        RecipeError: the recipe is damaged, or wishes for a misspelt licence.
    """
    return make_card(read_facts(run), artifact, repo, made_of)


def license_of(run: Run) -> Verdict:
    """Combines the licences of a run's base and data with the recipe's wish.

    Raises:
        ArtifactError: the run did not finish, or one of its files is damaged.
        RecipeError: the recipe is damaged, or wishes for a misspelt licence.
    """
    return read_facts(run).verdict()

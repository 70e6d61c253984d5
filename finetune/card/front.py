"""The head of a card, in YAML, as the Hub reads it. What is not known is left out."""

from __future__ import annotations

from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from finetune.card.results import Measured, own_results
from finetune.card.text import one_line
from finetune.licences import Verdict
from finetune.provenance import Artifact, Energy, Facts

LIBRARIES: dict[Artifact, str] = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}

SCORES = {"loss": "loss", "exact": "exact_match", "choice": "accuracy", "json": "accuracy", "tool_call": "accuracy"}
"""Kind of score -> the metric's identifier; of others the kind itself."""


def front_matter(
    facts: Facts, artifact: Artifact, repo: str | None, made_of: str | None, verdict: Verdict, energy: Energy | None
) -> ModelCardData:
    """Gathers what the head says.

    Args:
        facts: of the run.
        artifact: whose card it is.
        repo: where it goes, as owner/name.
        made_of: the repository of the merged model, of which GGUF files were made.
        verdict: on the licence.
        energy: of the training.
    """
    base, relation = _relation(facts, artifact, made_of)
    results = [_result(facts, each) for each in own_results(facts, artifact)]
    link = verdict.license_link or ("LICENSE" if facts.base and (facts.base / "LICENSE").is_file() else None)
    return ModelCardData(
        base_model=base,
        base_model_relation=relation,
        library_name=LIBRARIES[artifact],
        pipeline_tag="text-generation",
        license=verdict.license,
        license_name=verdict.license_name,
        license_link=link if verdict.license == "other" else None,
        datasets=[source.name for source in facts.data.sources if source.hub] or None,
        tags=_tags(facts),
        co2_eq_emissions=_emissions(facts, energy) if energy else None,
        **({"model_name": _name(facts, repo), "eval_results": results} if results else {}),  # type: ignore[arg-type]
    )


def _name(facts: Facts, repo: str | None) -> str:
    return (repo or facts.run.name).rpartition("/")[2]


def _relation(facts: Facts, artifact: Artifact, made_of: str | None) -> tuple[str | None, str | None]:
    """Says of what the artifact was made, and how: an adapter in its own base is a tuned model, no merge of several."""
    if artifact == "gguf" and made_of:
        return made_of, "quantized"
    if facts.base_id is None:
        return None, None
    return facts.base_id, "adapter" if artifact == "adapter" else "finetune"


def _tags(facts: Facts) -> list[str]:
    method = facts.recipe.method
    return ["sft", *({"full": [], "lora": ["lora"], "qlora": ["lora", "qlora"]}[method])]


def _result(facts: Facts, measured: Measured) -> EvalResult:
    within = "" if measured.low is None else f", 95 % [{measured.low:.4f}, {measured.high:.4f}]"
    items = "" if measured.items is None else f", {measured.items} rows"
    return EvalResult(
        task_type="text-generation",
        dataset_type=measured.dataset,
        dataset_name=one_line(f"{measured.task}, {measured.rows}"),
        dataset_config=one_line(measured.task),  # else the client lays two tasks under one name
        metric_type=SCORES.get(measured.kind, measured.kind),
        metric_name=one_line(f"{measured.kind}{items}{within}"),
        metric_value=round(float(measured.value), 6),
    )


def _emissions(facts: Facts, energy: Energy) -> dict[str, Any]:
    return {
        "emissions": round(energy.grams, 1),
        "source": "estimated: hours x board power x the world's average of 2024",
        "training_type": "fine-tuning",
        "hardware_used": one_line(f"{energy.gpus} x {facts.plan.gpu}"),
    }

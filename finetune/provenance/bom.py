"""A bill of materials of a model: CycloneDX 1.6, the ML-BOM that supply-chain tools read.

Source: https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from finetune import __version__
from finetune.licences import known
from finetune.provenance.asked import Asked
from finetune.provenance.compute import Compute, compute_of
from finetune.provenance.facts import Artifact, Facts
from finetune.provenance.origins import Origin

SPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
"""In which serial numbers are named: that of URLs. Source: RFC 9562, section 6.6."""


def bill_of_materials(facts: Facts, artifact: Artifact, repo: str | None = None) -> dict[str, Any]:
    """Writes the bill of one artifact; the same run gives the same bill.

    Args:
        facts: of the run.
        artifact: whose bill it is.
        repo: where it goes, as owner/name.

    Raises:
        RecipeError: the wished licence is a misspelt identifier.
    """
    files = facts.files(artifact)
    named = f"{repo or facts.run.name}/{artifact}/{'/'.join(files.values())}/{_made(facts)[-1]['finished']}"
    data = [_data(number, source) for number, source in enumerate(facts.data.sources)]
    data += [_asked(number, asked) for number, asked in enumerate(facts.asked)]
    libraries = [_library(name, version) for name, version in _versions(facts).items()]
    model, parts = _model(facts, artifact, repo), [_base(facts), *data, *libraries]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(SPACE, named)}",
        "version": 1,
        "metadata": {
            "timestamp": _made(facts)[-1]["finished"],
            "tools": {"components": [{"type": "application", "name": "finetune", "version": __version__}]},
            "component": model,
        },
        "components": parts,
        "dependencies": [{"ref": "model", "dependsOn": [each["bom-ref"] for each in parts]}],
    }


def _model(facts: Facts, artifact: Artifact, repo: str | None) -> dict[str, Any]:
    verdict, compute = facts.verdict(), compute_of(facts)
    files = [
        {"type": "file", "bom-ref": f"file/{name}", "name": name, "hashes": _hashes(digest)}
        for name, digest in facts.files(artifact).items()
    ]
    owner, _, name = (repo or facts.run.name).rpartition("/")
    return {
        "type": "machine-learning-model",
        "bom-ref": "model",
        **({"group": owner} if owner else {}),
        "name": name,
        "version": facts.trained["finished"],
        "licenses": _licences(verdict.license_name or verdict.license),
        "components": files,
        "pedigree": {"ancestors": [{**_base(facts), "bom-ref": "ancestor"}]},
        "modelCard": _card(facts),
        "properties": list(_properties(facts, artifact, compute)),
    }


def _card(facts: Facts) -> dict[str, Any]:
    """Tells what CycloneDX asks of a model: how it was made, of what data, what was measured, what it is for."""
    wished = facts.recipe.card
    considerations = {
        **({"useCases": [wished.intended_use]} if wished.intended_use else {}),
        **({"technicalLimitations": [wished.limits]} if wished.limits else {}),
    }
    metrics = list(_metrics(facts))
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "text-generation",
            "architectureFamily": "qwen3_5",
            "modelArchitecture": facts.base_name,
            "datasets": [
                *({"ref": f"data/{number}"} for number in range(len(facts.data.sources))),
                *({"ref": f"evaluation/{number}"} for number in range(len(facts.asked))),
            ],
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "text"}],
        },
        **({"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}),
        **({"considerations": considerations} if considerations else {}),
    }


def _metrics(facts: Facts) -> Iterator[dict[str, Any]]:
    for task in (facts.evaluation or {"tasks": []})["tasks"]:
        for side, score in task["scores"].items():
            told = {"type": task["kind"], "value": str(score["value"]), "slice": f"{task['name']}, {side}"}
            within = {"lowerBound": str(score["low"]), "upperBound": str(score["high"])}
            yield told | ({} if score["low"] is None else {"confidenceInterval": within})


def _base(facts: Facts) -> dict[str, Any]:
    told: dict[str, Any] = {"type": "machine-learning-model", "bom-ref": "base"}
    if facts.base_id:
        owner, _, name = facts.base_id.rpartition("/")
        told |= {"group": owner, "name": name, "version": facts.revision or "main"}
        at = f"@{facts.revision}" if facts.revision else ""
        told["purl"] = f"pkg:huggingface/{facts.base_id}{at}"
    else:
        told["name"] = facts.base_name
    told["licenses"] = _licences(facts.base_licence().license)
    fingerprint = {"name": "finetune:fingerprint", "value": facts.told["contract"]["base"]}
    return {**{key: value for key, value in told.items() if value}, "properties": [fingerprint]}


def _data(number: int, source: Origin) -> dict[str, Any]:
    contents = [
        {"type": "file", "bom-ref": f"data/{number}/{i}", "name": file.name, "hashes": _hashes(file.sha256)}
        for i, file in enumerate(source.files)
    ]
    told = {
        "type": "data",
        "bom-ref": f"data/{number}",
        "name": source.name,
        "version": source.revision,
        "licenses": _licences(source.license),
        "data": [{"type": "dataset", "name": source.name}],
        "components": contents,
        "properties": [
            {"name": "finetune:rows", "value": str(sum(file.rows for file in source.files))},
            {"name": "finetune:held-out", "value": str(source.held_out).lower()},
        ],
    }
    return {key: value for key, value in told.items() if value}


def _asked(number: int, asked: Asked) -> dict[str, Any]:
    """Tells of data that were asked and never learnt."""
    told = {
        "type": "data",
        "bom-ref": f"evaluation/{number}",
        "name": asked.name,
        "hashes": _hashes(asked.sha256) if asked.sha256 else [],
        "data": [{"type": "dataset", "name": asked.name}],
        "properties": [
            {"name": "finetune:evaluation", "value": "true"},
            {"name": "finetune:items", "value": str(asked.items)},
            *({"name": "finetune:task", "value": task} for task in asked.tasks),
            *([{"name": "finetune:harness", "value": asked.harness}] if asked.harness else []),
        ],
    }
    return {key: value for key, value in told.items() if value}


def _library(name: str, version: str) -> dict[str, Any]:
    told = {"bom-ref": f"library/{name}", "name": name, "version": version}
    if name in ("python", "llama.cpp"):
        return {"type": "application", **told}
    return {
        "type": "library",
        **told,
        "purl": f"pkg:pypi/{'finetune-proven' if name == 'finetune' else name}@{version}",
    }


def _versions(facts: Facts) -> dict[str, str]:
    """Gathers the packages of all stages; of two versions the later."""
    found: dict[str, str] = {}
    for stage in _made(facts):
        found |= {name: version for name, version in stage["versions"].items() if version != "absent"}
    return dict(sorted(found.items()))


def _properties(facts: Facts, artifact: Artifact, compute: Compute | None) -> Iterator[dict[str, str]]:
    begun = facts.told["contract"]
    told: dict[str, Any] = {"artifact": artifact, "method": facts.plan.method, "run": facts.told["run"]}
    told |= {f"sha256:{key}": begun[key] for key in ("recipe", "plan", "data", "template", "tokenizer")}
    told |= {"serving:thinking": str(facts.told["serving"]["thinking"]).lower()}
    if compute:
        told |= {"training:tokens": compute.tokens, "training:flops-estimate": f"{compute.flops:.3e}"}
    yield from ({"name": f"finetune:{key}", "value": str(value)} for key, value in told.items())


def _licences(word: str | None) -> list[dict[str, Any]]:
    """Names a licence by SPDX's identifier where it has one."""
    if not word:
        return []
    licence = known(word)
    return [{"license": {"id": licence.spdx} if licence and licence.spdx else {"name": word}}]


def _hashes(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest}]


def _made(facts: Facts) -> list[dict[str, Any]]:
    """Lists the stages that made something; to publish it again changes no bill."""
    return [stage for stage in facts.told["stages"] if stage["stage"] != "publish"]

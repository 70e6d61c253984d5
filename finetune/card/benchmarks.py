"""Results of public benchmarks in the Hub's own form, `.eval_results/NAME.yaml`, beside the card.

Source: huggingface_hub 2.4, `EvalResultEntry`; hub-docs 242f4a1, "Evaluation results". The Hub shows an entry where its
data set is registered as a benchmark with such a task, and is silent about the others.
"""

from __future__ import annotations

import re

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from finetune.card.results import side_of
from finetune.provenance import Artifact, Facts, numbered

FOLDER = ".eval_results"


def benchmark_results(facts: Facts, artifact: Artifact) -> dict[str, str]:
    """Writes a file for each public data set on which this very artifact was asked every item.

    Args:
        facts: of the run.
        artifact: which form of it.

    Returns:
        Name in the repository -> its YAML.
    """
    evaluation, side = facts.evaluation, side_of(facts, artifact)
    if evaluation is None or side is None:
        return {}
    entries: dict[str, EvalResultEntry] = {}
    for task in evaluation["tasks"]:
        if not (hub := task.get("hub")) or side not in task["scores"]:
            continue
        score, asked = task["scores"][side], evaluation["sides"][side]
        notes = [
            f"{task['unit']} of {task['items']} items, 95 % [{score['low']:.4f}, {score['high']:.4f}]",
            f"{', '.join(map(str, task['few_shot']))} examples before the question",
            "thinking" if asked["thinking"] else "no thinking",
            "greedy",
            task["harness"],
        ]
        name = re.sub(r"[^A-Za-z0-9._-]", "-", task["name"])
        entries[numbered(f"{FOLDER}/{name}.yaml", entries)] = EvalResultEntry(
            dataset_id=hub["dataset"],
            task_id=hub["config"],
            value=round(score["value"], 6),
            date=evaluation["made"],
            notes="; ".join(notes),
        )
    return {
        name: yaml.safe_dump(eval_result_entries_to_yaml([each]), sort_keys=False) for name, each in entries.items()
    }

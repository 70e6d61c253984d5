"""The head of the page: in a sentence whether the tuning helped, whether it hurt, and what is not known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from finetune.report.evaluation import BASE, TUNED, Evaluation, Gate, Task
from finetune.report.reading import Evidence
from finetune.report.telling import change, cost, many, percent

Kind = Literal["better", "mixed", "worse", "none", "unknown"]


@dataclass(frozen=True)
class Headline:
    """What a reader should know who reads no further."""

    kind: Kind
    sentence: str
    beneath: str = ""
    """How far that goes."""


def headline(evidence: Evidence) -> Headline:
    """Says what came of the tuning; answers that two tasks count are counted once."""
    if evidence.evaluation is None:
        return _of_training(evidence)
    evaluation = evidence.evaluation
    counted = [task for task in evaluation.tasks if task.name not in evidence.repeated]
    gate, found = evaluation.gate, _found(evaluation, counted)
    if gate.failed:
        rules = f"{len(gate.broken)} of {many(len(gate.rules), 'rule')}"
        beneath = _together(f"{_unasked(gate)}." if gate.not_asked else "", _tasks(counted))
        return Headline("worse", f"Not to be shipped as it is: {rules} failed.", beneath)
    if gate.not_asked:
        sentence = f"Not judged in full: {_unasked(gate)}. {found.sentence}"
        return Headline("mixed" if found.kind == "better" else found.kind, sentence, found.beneath)
    return found


def _found(evaluation: Evaluation, counted: list[Task]) -> Headline:
    """Says it without the gate."""
    sentence = _tasks(counted)
    if not sentence:
        why = "The evaluation does not compare the tuned model with its base."
        return Headline("unknown", why, _together(*_no_figures(counted)))
    beneath = _together(*_no_skill(evaluation), *_no_figures(counted), _reach(counted), *_forms(counted))
    return Headline(_kind({task.main.verdict for task in counted if task.main}), sentence, beneath)


def _together(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def _kind(verdicts: set[str]) -> Kind:
    if "better" in verdicts:
        return "mixed" if "worse" in verdicts else "better"
    return "worse" if "worse" in verdicts else "none"


def _unasked(gate: Gate) -> str:
    were = "was" if len(gate.not_asked) == 1 else "were"
    return f"{many(len(gate.not_asked), 'rule')} of the recipe's gate {were} not asked: {'; '.join(gate.not_asked)}"


def _tasks(tasks: list[Task]) -> str:
    """Counts verdicts: first of what was tuned for, then of what should have stayed; nothing for nothing."""
    told = []
    for name in ("domain", "regression"):
        of = [(task, task.main.verdict) for task in tasks if task.set == name and task.main is not None]
        idle = [task.name for task, _ in of if name == "regression" and task.base_has_nothing]
        of = [(task, verdict) for task, verdict in of if task.name not in idle]
        better, worse = ([task.name for task, verdict in of if verdict == which] for which in ("better", "worse"))
        all_of = many(len(of), f"{name} task")
        if of and worse:
            also = f"better on {len(better)}, " if better else ""
            told.append(f"{also}worse on {len(worse)} of {all_of} ({', '.join(worse)})")
        elif of and better:
            told.append(f"better on {len(better)} of {all_of}" if name == "domain" else f"no harm seen on {all_of}")
        elif of:
            told.append(f"no evidence of {'a change' if name == 'domain' else 'harm'} on {all_of}")
        if idle:
            told.append(f"{', '.join(idle)} cannot show harm, as the base answers none of it right")
    sentence = "; ".join(told)
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""


def _no_skill(evaluation: Evaluation) -> list[str]:
    """Says what takes the shine off a better score: that one answer to everything would do as well."""
    found = []
    for task in evaluation.tasks:
        most = task.majority
        if most and TUNED in task.scores and task.scores[TUNED].low <= most.share:
            always = f"always saying {most.label!r} ({percent(most.share)})"
            found.append(f"{task.name}: {TUNED} is not shown to beat {always}.")
    return found


def _no_figures(tasks: list[Task]) -> list[str]:
    return [f"{task.name} tells nothing: no item of it had a figure." for task in tasks if not task.scores]


def _reach(tasks: list[Task]) -> str:
    """Says what nothing was found against, and how small a harm would have been seen."""
    named = [task for task in tasks if task.set == "regression"]
    watched = [(task.main, task) for task in named if task.main is not None and not task.base_has_nothing]
    if not watched:
        why = (
            "no regression set that was asked can show it"
            if named
            else "no regression set was named under evaluate.tasks"
        )
        return f"Nothing watched for harm: {why}."
    unharmed = [(pair.sees, task) for pair, task in watched if pair.verdict != "worse"]
    if not unharmed:
        return ""
    seen = [(sees, task) for sees, task in unharmed if sees is not None]
    if not seen:
        return "The regression sets are too small to show any harm."
    sees, task = max(seen, key=lambda pair: pair[0] if pair[1].is_share else 0.0)
    return f"A harm of less than {change(sees, task, sign=False)} on {task.name} may have gone unseen."


def _forms(tasks: list[Task]) -> list[str]:
    """Says of each other form of the tuned model what it costs, and where it harms though the tuned model does not."""
    forms = dict.fromkeys(pair.other for task in tasks for pair in task.pairs if pair.one == TUNED)
    told = []
    for form in forms:
        name = form.removeprefix("gguf/")
        worse = [
            (pair, task) for task in tasks for pair in task.pairs if pair.other == form and pair.verdict == "worse"
        ]
        costs = [f"on {task.name} {cost(pair, task)}" for pair, task in worse if pair.one == TUNED]
        harms = [
            task.name
            for pair, task in worse
            if pair.one == BASE and (task.main is None or task.main.verdict != "worse")
        ]
        if costs:
            told.append(f"What quantising cost {name}: {'; '.join(costs)}.")
        if harms:
            told.append(f"{name} is worse than the base on {', '.join(harms)}, and the tuned model is not.")
    return told


def _of_training(evidence: Evidence) -> Headline:
    held = [record["held_out_loss"] for record in evidence.records if "held_out_loss" in record]
    if evidence.last("train") is None:
        return Headline("unknown", "The training is not finished.")
    if len(held) < 2:
        return Headline("unknown", "Nothing was held out and nothing evaluated: what the tuning did is not known.")
    way = "fell" if held[-1] < held[0] else "did not fall"
    figures = f"from {held[0]:.3f} to {held[-1]:.3f} nats a token"
    beneath = "It was not evaluated: how sure that is, and whether anything else got worse, is not known."
    return Headline("unknown", f"Held-out loss {way}, {figures}.", beneath)

"""What was measured of a model, from the evaluation and the ledger of its run; without them, from its training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from finetune.card.text import code, figure, plain, table
from finetune.provenance import Artifact, Facts

BASE_LOSS = "held-out loss of the base, nats a token"
TUNED_LOSS = "held-out loss after training, nats a token"
"""How training names its two figures. Source: finetune/train/proof.py."""

HELD_OUT = "held-out rows"

LEAST_ROWS = 5
"""Of which the ledger's figures are taken for a measurement."""


@dataclass(frozen=True)
class Measured:
    """One figure of the very files that a card is about."""

    task: str
    kind: str
    """Of the score: loss, exact, …, or the harness's metric."""
    value: float
    low: float | None
    high: float | None
    """Of the 95 % interval; None where none was computed."""
    items: int | None
    dataset: str = "held-out"
    """Id at the Hub, where the rows are from there."""
    rows: str = "of the run's own rows"


def own_results(facts: Facts, artifact: Artifact) -> list[Measured]:
    """Lists what was measured of an artifact itself; of GGUF files the one that was evaluated, if it was one."""
    found = list(_of_evaluation(facts, artifact))
    if not any(each.kind == "loss" for each in found):
        found += _of_ledger(facts, artifact)
    if not found and artifact == "adapter" and (losses := _training_losses(facts)):
        found = [Measured(HELD_OUT, "loss", losses[1], None, None, facts.told["data"]["held_out_examples"])]
    return found


def _of_evaluation(facts: Facts, artifact: Artifact) -> Iterator[Measured]:
    side = side_of(facts, artifact)
    for task in _tasks(facts) if side else []:
        if score := task["scores"].get(side):
            harness = task.get("harness", "")
            metric = task["unit"].partition(",")[0] if harness else task["kind"]
            measured = Measured(task["name"], metric, score["value"], score["low"], score["high"], task["items"])
            dataset = (task.get("hub") or {"dataset": "lm-evaluation-harness"})["dataset"]
            yield replace(measured, dataset=dataset, rows=f"of {harness}") if harness else measured


def side_of(facts: Facts, artifact: Artifact) -> str | None:
    """Names the side of the evaluation that is an artifact; None if there is none, or several files of it."""
    sides = [side for side in facts.evaluation["sides"] if _is_of(side, artifact)] if facts.evaluation else []
    return sides[0] if len(sides) == 1 else None


def _is_of(side: str, artifact: Artifact) -> bool:
    return side == {"adapter": "tuned", "merged": "merged"}.get(artifact) or side.startswith(f"{artifact}/")


def _of_ledger(facts: Facts, artifact: Artifact) -> Iterator[Measured]:
    """Takes the ledger's line of an artifact, unless it was drawn from so few rows that an interval says nothing."""
    if facts.ledger is None or (items := facts.ledger["examples"]["scored"]) < LEAST_ROWS:
        return
    own = [step for step in facts.ledger["steps"] if step["name"] == artifact and "loss" in step]
    if len(own) == 1:
        loss = own[0]["loss"]
        yield Measured(HELD_OUT, "loss", loss["value"], loss["low"], loss["high"], items)


def results(facts: Facts) -> str:
    """Writes the section: each task with the base beside what was tuned, the differences paired and with intervals."""
    if facts.evaluation:
        return _evaluated(facts.evaluation)
    if facts.ledger:
        return "No evaluation was run; the losses of the next section have intervals."
    losses = _training_losses(facts)
    if losses is None:
        return "**Nothing was held out, so nothing is known of what the tuning did.**"
    counts = facts.told["data"]
    rows = [["base", figure(losses[0])], ["tuned", figure(losses[1])]]
    told = f"Loss of {counts['held_out_rows']:,} rows that were not learnt, in nats a token; less is better. "
    return told + f"No interval was computed.\n\n{table(['', 'loss'], rows)}"


def _evaluated(evaluation: dict[str, Any]) -> str:
    sides = list(evaluation["sides"])
    rows = []
    for task in evaluation["tasks"]:
        scores = [_score(task["scores"].get(side)) for side in sides]
        rows.append([_task(task), f"{task['items']:,}", *scores, "<br>".join(map(_pair, task["pairs"]))])
    lines = [
        "Every side was asked the same rows in the same way. Intervals are 95 %; differences are paired, row by row.",
        "",
        table(["task", "rows", *map(plain, sides), "difference"], rows),
    ]
    if gate := evaluation["gate"]["rules"]:
        failed = evaluation["gate"]["failed"]
        held = f"{len(gate) - len(failed)} of {len(gate)} rules of the run's gate hold"
        lines += ["", held + (f". **Failed:** {'; '.join(map(plain, failed))}" if failed else ".")]
    lines += ["", *(f"- {plain(note)}" for note in evaluation["notes"])] if evaluation["notes"] else []
    return "\n".join(lines)


def _task(task: dict[str, Any]) -> str:
    better = {"lower": "less is better", "higher": "more is better"}.get(task["better"], "")
    kept = ", guards against forgetting" if task["set"] == "regression" else ""
    return f"{plain(task['name'])} ({plain(task['unit'])}; {better}{kept})"


def _score(score: dict[str, Any] | None) -> str:
    if score is None:
        return "not measured"
    within = _within(score)
    return figure(float(score["value"])) + (f" [{figure(within[0])}, {figure(within[1])}]" if within else "")


def _within(score: dict[str, Any]) -> tuple[float, float] | None:
    """Gives an interval, where one was computed."""
    low, high = score["low"], score["high"]
    return None if low is None or high is None else (float(low), float(high))


def _pair(pair: dict[str, Any]) -> str:
    away, within = pair["difference"], _within(pair["difference"])
    figures = f"{float(away['value']):+.4f}" + (f" [{within[0]:+.4f}, {within[1]:+.4f}]" if within else "")
    p = "" if pair["p"] is None else f", p {pair['p']:.2g}"
    sees = "" if pair["sees"] is None else f"; sees changes over {figure(float(pair['sees']))}"
    return f"{plain(pair['other'])}: {figures}{p}, **{plain(pair['verdict'])}**{sees}"


def kept(facts: Facts) -> str:
    """Writes the ledger: what each form of the model keeps of the tuning."""
    ledger = facts.ledger
    assert ledger is not None
    rows: list[list[str]] = []
    for step in ledger["steps"]:
        if "loss" not in step:
            line = [plain(step["name"]), plain(step["weights"]), "not measured", ""]
            rows += [line] if line not in rows else []
            continue
        share = step["kept"]
        told = f"{share['value']:.1%} [{share['low']:.1%}, {share['high']:.1%}]" if share else "not told"
        told = "" if step["name"] in ("base", "adapter") else told
        rows.append([plain(step["name"]), plain(step["weights"]), _score(step["loss"]), told])
    of = f"{ledger['examples']['scored']} held-out examples, {ledger['examples']['learnt']:,} learnt tokens"
    lines = [
        f"Loss on {of}, {plain(ledger['unit'])}; {plain(ledger['intervals'])}.",
        "",
        table(["form", "weights", "loss", "keeps of the tuning"], rows),
    ]
    if advice := ledger["advice"]:
        lines += ["", *(f"- {plain(each)}" for each in advice)]
    return "\n".join(lines)


def _tasks(facts: Facts) -> list[dict[str, Any]]:
    return facts.evaluation["tasks"] if facts.evaluation else []


def headline(facts: Facts) -> str:
    """Says in one sentence what the tuning did, by the first task that compares it with the base."""
    for task, pair in _with_base(facts):
        one, other = (figure(float(task["scores"][side]["value"])) for side in ("base", "tuned"))
        verdict = "no evidence of a difference"
        if pair["verdict"] != "no evidence":
            verdict = f"{plain(pair['verdict'])} than before"
        name = plain(task["name"])
        return f"{name[:1].upper()}{name[1:]}: {one} before, {other} after, on {task['items']:,} rows: {verdict}"
    losses = _training_losses(facts)
    if losses is None:
        return "What the tuning did was not measured"
    return f"Held-out loss: {figure(losses[0])} nats a token before, {figure(losses[1])} after"


def worse(facts: Facts) -> list[str]:
    """Lists the tasks on which the tuned model is worse than its base."""
    return [plain(task["name"]) for task, pair in _with_base(facts) if pair["verdict"] == "worse"]


def _with_base(facts: Facts) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yields each task with the pair of base and tuned."""
    for task in _tasks(facts):
        yield from ((task, pair) for pair in task["pairs"] if (pair["one"], pair["other"]) == ("base", "tuned"))


def _training_losses(facts: Facts) -> tuple[float, float] | None:
    found = {each["claim"]: each["measured"] for each in facts.trained["claims"]}
    return (found[BASE_LOSS], found[TUNED_LOSS]) if {BASE_LOSS, TUNED_LOSS} <= found.keys() else None


def unmeasured(facts: Facts) -> list[str]:
    """Lists what a reader might take for measured and was not."""
    found = []
    tasks = _tasks(facts)
    if not any(task["set"] == "regression" for task in tasks):
        found.append("Whether it forgot what the base could do was not measured.")
    if not any(task["kind"] != "loss" for task in tasks):
        found.append("No answer was scored: a loss says how likely the right words are, not whether they are given.")
    found.append("Safety, bias and behaviour outside of the data above were not tested.")
    return found


def shown_hash(digest: str) -> str:
    """Writes the head of a hash, which is enough to tell two apart."""
    return code(digest[:16])

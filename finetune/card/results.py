"""What was measured of a model, from the evaluation and the ledger of its run; without them, from its training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from finetune.card.text import code, figure, plain, shares, table
from finetune.provenance import HELD_OUT, Artifact, Facts
from finetune.recipe import failed_rules
from finetune.run import outputs

BASE_LOSS = "held-out loss of the base, nats a token"
TUNED_LOSS = "held-out loss after training, nats a token"
"""How training names its two figures. Source: finetune/train/proof.py."""

HELD_OUT_ROWS = "held-out rows"

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
    if not found and artifact == "adapter" and (losses := training_losses(facts)):
        found = [Measured(HELD_OUT_ROWS, "loss", losses[1], None, None, facts.told["data"]["held_out_examples"])]
    return found


def _of_evaluation(facts: Facts, artifact: Artifact) -> Iterator[Measured]:
    side = side_of(facts, artifact)
    for task in tasks(facts) if side else []:
        if score := task["scores"].get(side):
            harness = task.get("harness", "")
            metric = task["unit"].partition(",")[0] if harness else task["kind"]
            measured = Measured(task["name"], metric, score["value"], score["low"], score["high"], task["items"])
            dataset = (task.get("hub") or {"dataset": "lm-evaluation-harness"})["dataset"]
            file = task.get("file", HELD_OUT)
            if harness:
                yield replace(measured, dataset=dataset, rows=f"of {harness}")
            else:
                yield measured if file == HELD_OUT else replace(measured, dataset=file, rows=f"of the file {file}")


def side_of(facts: Facts, artifact: Artifact) -> str | None:
    """Names the side of the evaluation that is an artifact; None if there is none, or several files of it."""
    sides = sides_of(facts, artifact)
    return sides[0] if len(sides) == 1 else None


def sides_of(facts: Facts, artifact: Artifact) -> list[str]:
    """Names the sides of the evaluation that are an artifact: of GGUF files those that are there, by their hashes."""
    sides = facts.evaluation["sides"] if facts.evaluation else {}
    if artifact == "gguf":
        files = set(facts.files("gguf").values())
        return [name for name, side in sides.items() if side.get("sha256") in files]
    return [name for name in sides if name == {"adapter": "tuned", "merged": "merged"}[artifact]]


def _of_ledger(facts: Facts, artifact: Artifact) -> Iterator[Measured]:
    """Takes the ledger's line of an artifact, unless it was drawn from so few rows that an interval says nothing."""
    if facts.ledger is None or (items := facts.ledger["examples"]["scored"]) < LEAST_ROWS:
        return
    own = [step for step in facts.ledger["steps"] if step["name"] == artifact and "loss" in step]
    if len(own) == 1:
        loss = own[0]["loss"]
        yield Measured(HELD_OUT_ROWS, "loss", loss["value"], loss["low"], loss["high"], items)


def results(facts: Facts) -> str:
    """Writes the section: each task with the base beside what was tuned, the differences paired and with intervals."""
    if facts.evaluation:
        return _evaluated(facts.evaluation)
    if facts.ledger:
        return "No evaluation was run; the losses of the next section have intervals."
    losses = training_losses(facts)
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
    corrected = any("p_holm" in pair for task in evaluation["tasks"] for pair in task["pairs"])
    lines = [
        "Every side was asked the same rows in the same way. Intervals are 95 %; differences are paired, row by row."
        + (" p is Holm's: corrected for how many tasks compare the same two." if corrected else ""),
        "",
        table(["task", "rows", *map(plain, sides), "difference"], rows),
        *(["", f"Measured on: {weights}."] if (weights := _weights(evaluation)) else []),
        *_gate(evaluation["gate"]),
    ]
    lines += ["", *(f"- {plain(note)}" for note in evaluation["notes"])] if evaluation["notes"] else []
    return "\n".join(lines)


def _weights(evaluation: dict[str, Any]) -> str:
    """Says on which weights each side was measured, sides of the same together."""
    sides: dict[str, list[str]] = {}
    for name, side in evaluation["sides"].items():
        if engine := side.get("engine"):
            sides.setdefault(engine, []).append(name)
    return "; ".join(f"{plain(' and '.join(names))} by {plain(engine)}" for engine, names in sides.items())


def _gate(gate: dict[str, Any]) -> list[str]:
    """Counts the rules of the run's gate that hold, and names those that failed and those that nobody asked."""
    rules, failed, not_asked = gate["rules"], gate["failed"], gate.get("not_asked", [])
    told = []
    if rules:
        broken = len(failed_rules(rules, failed))
        told.append(f"{len(rules) - broken} of {len(rules)} rules of the run's gate hold.")
    told += [f"**Failed:** {'; '.join(map(plain, failed))}."] if failed else []
    told += [f"**Not asked by this evaluation:** {'; '.join(map(plain, not_asked))}."] if not_asked else []
    return ["", " ".join(told)] if told else []


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
    p = pair.get("p_holm", pair["p"])
    tested = "" if p is None else f", p {p:.2g}"
    sees = "" if pair["sees"] is None else f"; sees changes over {figure(float(pair['sees']))}"
    return f"{plain(pair['other'])} against {plain(pair['one'])}: {figures}{tested}, **{plain(pair['verdict'])}**{sees}"


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
        told = shares(share["value"], share["low"], share["high"]) if share else "not told"
        told = "" if step["name"] in ("base", *outputs.LEARNT) else told
        rows.append([plain(step["name"]), plain(step["weights"]), _score(step["loss"]), told])
    of = f"{ledger['examples']['scored']} held-out examples, {ledger['examples']['learnt']:,} learnt tokens"
    lines = [
        f"Loss on {of}, {plain(ledger['unit'])}; {plain(ledger['intervals'])}.",
        "",
        table(["form", "weights", "loss", "keeps of the tuning"], rows),
    ]
    if weights := _weights(facts.evaluation) if facts.evaluation else "":
        told = "Each was measured on the weights that its line names, so the base's loss may differ from that of the"
        lines += ["", f"{told} results, which was measured on: {weights}."]
    if advice := ledger["advice"]:
        lines += ["", *(f"- {plain(each)}" for each in advice)]
    return "\n".join(lines)


def tasks(facts: Facts) -> list[dict[str, Any]]:
    """Lists what was asked, as it stands in the evaluation; nothing if there was none."""
    return facts.evaluation["tasks"] if facts.evaluation else []


def compared_with_base(facts: Facts, side: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yields each task with its pair of the base and this side."""
    for task in tasks(facts):
        yield from ((task, pair) for pair in task["pairs"] if (pair["one"], pair["other"]) == ("base", side))


def training_losses(facts: Facts) -> tuple[float, float] | None:
    """Gives the held-out loss that training measured before and after, if something was held out."""
    found = {each["claim"]: each["measured"] for each in facts.trained["claims"]}
    return (found[BASE_LOSS], found[TUNED_LOSS]) if {BASE_LOSS, TUNED_LOSS} <= found.keys() else None


def shown_hash(digest: str) -> str:
    """Writes the head of a hash, which is enough to tell two apart."""
    return code(digest[:16])

"""The parts of the page that say how the run came to be: its data, its plan, its ledger, its routers, its proofs."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import Any

from finetune.data.sources import sources_of
from finetune.report import drawing
from finetune.report.reading import Evidence
from finetune.report.telling import duration, is_hash, named, percent, signed, size, when
from finetune.report.told import Form
from finetune.run import outputs

MOST_NAMED = 7
"""Parts of a plan that are named; the smaller ones are told together."""


def data(evidence: Evidence) -> dict[str, Any] | None:
    """Tells what was read and what became of it; None for a run that does not tell."""
    told = evidence.manifest.get("data")
    if told is None:
        return None
    tokens, learnt = told.get("tokens"), told.get("learnt_tokens")
    tiles = [
        (f"{told['rows']:,}", "rows learnt from"),
        (f"{told['held_out_rows']:,}", "rows held out"),
        *([(f"{tokens:,}", "tokens an epoch")] if tokens else []),
        *([(f"{learnt / tokens:.0%}", "of them learnt")] if tokens and learnt else []),
        *(
            [(f"{tokens / told['examples']:,.0f}", "tokens an example, on average")]
            if tokens and told["examples"]
            else []
        ),
        *(
            [(f"{told['longest']:,}", f"in the longest, of {evidence.recipe.data.max_length:,}")]
            if told["longest"]
            else []
        ),
    ]
    examples = [
        ("learnt from", told["examples"], 0),
        ("held out", told["held_out_examples"], 3),
        ("too long, left out", told["dropped"], 5),
    ]
    bars = [_bar("examples", examples)]
    if tokens and learnt is not None:
        bars.append(_bar("tokens", [("learnt", learnt, 0), ("context", tokens - learnt, 7)]))
    notes = [
        *([f"{told['truncated']:,} examples were cut at a turn"] if told["truncated"] else []),
        *([f"the reasoning of {told['with_reasoning']:,} rows is learnt"] if told["with_reasoning"] else []),
    ]
    return {"tiles": tiles, "bars": bars, "notes": notes, "sources": _sources(evidence)}


def _bar(what: str, parts: list[tuple[str, int, int]]) -> dict[str, Any]:
    """Lays a bar of named parts, each with the number of its colour; those that are none are left out."""
    there = [part for part in parts if part[1]]
    laid = drawing.stacked([(name, value) for name, value, _ in there])
    return {"what": what, "parts": laid, "colours": [colour for _, _, colour in there]}


def _sources(evidence: Evidence) -> list[str]:
    told = []
    for source in sources_of(evidence.recipe):
        name = source.hub if source.hub else source.path.name if source.path else ""
        more = [f"revision {source.revision}"] if source.revision else []
        more += [f"licence {source.license}"] if source.license else []
        told.append(", ".join([name, *more]))
    return told


def planned(evidence: Evidence) -> dict[str, Any]:
    """Puts what the plan promised beside what training measured."""
    plan, train = evidence.plan, evidence.last("train")
    rows: list[tuple[str, str, str, float | None]] = []
    for claim in train["claims"] if train else []:
        name, measured, promised = claim["claim"], claim["measured"], claim["tolerance"]
        if not name.startswith("memory: ") or not isinstance(measured, int | float):
            continue
        if promised is None and plan.device == "cpu":
            promised = plan.host_bytes
        what = name.removeprefix("memory: ").partition(" (planned")[0].removesuffix(", bytes")
        told = size(promised) if isinstance(promised, int | float) else ""
        rows.append((what, told, size(measured), measured / promised if told and promised else None))
    seconds = [record["step_seconds"] for record in evidence.records if record.get("step_seconds")]
    if seconds:
        middle = statistics.median(seconds)
        rows.append(
            ("a step, the median", duration(plan.step_seconds), duration(middle), _ratio(middle, plan.step_seconds))
        )
    rates = [record["tokens_per_second"] for record in evidence.records if record.get("tokens_per_second")]
    if rates:
        middle = statistics.median(rates)
        told = f"{plan.tokens_per_second:,.0f}"
        rows.append(("tokens a second, the median", told, f"{middle:,.0f}", _ratio(middle, plan.tokens_per_second)))
    if train:
        ratio = _ratio(train["seconds"], plan.run_seconds)
        rows.append(("the whole training", duration(plan.run_seconds), duration(train["seconds"]), ratio))
    return {"rows": [_bullet(*row) for row in rows], "parts": _parts(plan.parts), "peak": size(plan.peak_bytes)}


def _ratio(measured: float, promised: float) -> float | None:
    return measured / promised if promised else None


def _bullet(what: str, promised: str, measured: str, ratio: float | None) -> dict[str, Any]:
    """A measure as long as its share of the promise, up to twice."""
    told = "" if ratio is None else f"× {ratio:.2f}" if ratio < 10 else f"× {ratio:,.0f}"
    return {
        "what": what,
        "promised": promised,
        "measured": measured,
        "ratio": told,
        "width": None if ratio is None else round(80 * min(ratio, 2.0), 1),
        "beyond": ratio is not None and ratio > 2,
    }


def _parts(parts: dict[str, int]) -> list[dict[str, Any]]:
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    named: list[tuple[str, float]] = [(name, value) for name, value in ordered[:MOST_NAMED] if value]
    if rest := sum(value for _, value in ordered[MOST_NAMED:]):
        named.append((f"{len(ordered) - MOST_NAMED} smaller ones", rest))
    return [{**part, "size": size(part["value"])} for part in drawing.stacked(named)]


def ledger(evidence: Evidence) -> dict[str, Any] | None:
    """Tells what each form of the model keeps of the tuning; None where no ledger was made."""
    told = evidence.ledger
    if told is None:
        return None
    ends = [end for form in told.steps if form.loss for end in (form.loss.low, form.loss.high)]
    scale, ticks = drawing.axis(min(ends), max(ends), drawing.MARGIN, drawing.FOREST_WIDTH - drawing.MARGIN, 3)
    return {
        "rows": [_of_ledger(form, scale) for form in told.steps],
        "ticks": ticks,
        "advice": told.advice,
        "examples": told.examples,
        "unit": told.unit,
    }


def _of_ledger(form: Form, scale: drawing.Scale) -> dict[str, Any]:
    is_gguf = form.name == "gguf"
    row: dict[str, Any] = {"name": f"GGUF {form.weights}" if is_gguf else form.name}
    row |= {"beneath": form.engine if is_gguf else form.weights}
    row |= {"size": size(form.bytes) if form.bytes else "", "missing": form.not_measured or ""}
    if form.loss and form.from_trained:
        row["loss"] = f"{form.loss.value:.4f}"
        row["mark"] = {end: scale.at(value) for end, value in asdict(form.loss).items()}
        row["away"] = signed(f"{form.from_trained.value:.4f}") if form.name not in outputs.LEARNT else ""
        if (kept := form.kept) and form.name not in ("base", *outputs.LEARNT):
            row["kept"] = percent(kept.value)
            row["kept_span"] = f"{percent(kept.low)} to {percent(kept.high)}"
            row["kept_width"] = round(80 * min(max(kept.value, 0.0), 1.0), 1)
    return row


def routers(evidence: Evidence) -> dict[str, Any] | None:
    """Tells how a mixture's routers share tokens out, before and after; None for a dense base."""
    told = evidence.routers
    if told is None:
        return None
    layers, summary = told.layers, told.summary
    width, height = drawing.CURVE_WIDTH, 150.0
    top = max(side.skew for layer in layers for side in (layer.before, layer.after))
    up, y_ticks = drawing.axis(1.0, top, height - 22, 10, 3)
    pitch = (width - 60) / len(layers)
    places = [
        {
            "x": round(46 + pitch * (number + 0.5), 1),
            "before": up.at(layer.before.skew),
            "after": up.at(layer.after.skew),
            "told": f"layer {number}: {layer.before.skew:.2f} to {layer.after.skew:.2f}, {layer.rerouted:.1%} rerouted",
            "label": str(number) if number % max(1, len(layers) // 10) == 0 else "",
        }
        for number, layer in enumerate(layers)
    ]
    before, after = summary.before, summary.after
    tiles = [
        (f"{summary.rerouted:.1%}", "of choices go to other experts"),
        (f"{before.skew:.2f} → {after.skew:.2f}", "busiest expert over the mean"),
        (f"{before.idle:,} → {after.idle:,}", f"idle experts, of {summary.experts:,}"),
    ]
    return {
        "places": places,
        "y_ticks": y_ticks,
        "width": width,
        "height": height,
        "tiles": tiles,
        "rows": told.rows,
    }


def chain(evidence: Evidence) -> list[dict[str, Any]]:
    """Lists the stages with what each proved, and which of its inputs are outputs of an earlier one."""
    made: dict[str, tuple[str, str]] = {}
    found = []
    for stage in evidence.manifest["stages"]:
        claims = [{**claim, "told": _told(claim)} for claim in stage["claims"]]
        failed = [claim for claim in claims if not claim["holds"]]
        files = [_file("in", name, value, made.get(name)) for name, value in stage["inputs"].items()]
        files += [_file("out", name, value, None) for name, value in stage["outputs"].items()]
        links = {file["beside"]: None for file in files if file["beside"]}
        found.append(
            {
                **stage,
                "claims": claims,
                "when": when(stage["finished"]),
                "took": duration(stage["seconds"]),
                "files": files,
                "links": list(links),
                "failed": failed,
                "held": len(claims) - len(failed),
            }
        )
        made |= {name: (value, stage["stage"]) for name, value in stage["outputs"].items()}
    return found


def _file(way: str, name: str, value: Any, made: tuple[str, str] | None) -> dict[str, str]:
    """Tells an input or output; of what is a hash all of it stands in the page, though the first letters show."""
    whole = value if is_hash(value) else ""
    return {"way": way, "name": name, "told": named(value), "whole": whole, "beside": _beside(made, value)}


def _beside(made: tuple[str, str] | None, value: Any) -> str:
    """Says whether what went in is what an earlier stage made."""
    if made is None:
        return ""
    digest, stage = made
    return f"from {stage}" if digest == value else f"not what {stage} made"


def _told(claim: dict[str, Any]) -> str:
    measured, expected = (_number(claim[key]) for key in ("measured", "tolerance"))
    return f"{measured} of {expected}" if claim["tolerance"] is not None else measured


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"

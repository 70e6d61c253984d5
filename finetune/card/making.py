"""What the tuned model was made of and with: data, recipe, hardware, time and energy, as the card tells them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import yaml

from finetune.card.results import shown_hash
from finetune.card.text import code, fenced, figure, plain, table
from finetune.provenance import GRAMS_A_KWH, Asked, Compute, Energy, Facts, Origin, seconds_of

LONGEST_LIST = 40
"""Files that are listed of a source."""


def data(facts: Facts) -> str:
    """Writes the section about rows: each source with its files, their hashes and its licence."""
    counts = facts.told["data"]
    lines = [
        f"{counts['rows']:,} rows became {counts['examples']:,} examples of {counts['tokens']:,} tokens, of which "
        f"{counts['learnt_tokens']:,} are learnt; {counts['held_out_rows']:,} rows were held out and only scored."
    ]
    lines += [f"- {plain(note)}" for note in facts.told["notes"]]
    rows = [row for source in facts.data.sources for row in _rows(source)] + [_asked(each) for each in facts.asked]
    lines += ["", table(["source", "file", "rows", "licence", "sha256"], rows)]
    if facts.data.missing:
        lines += ["", f"The files are not listed: {plain(facts.data.missing)}."]
    lines += ["", f"Hash of the exact tokens and what is learnt of them: {code(facts.told['contract']['data'])}"]
    return "\n".join(lines)


def _rows(source: Origin) -> Iterator[list[str]]:
    name = _named(source.name, source.hub)
    name += f" at {code(source.revision[:12])}" if source.revision else ""
    name += ", held out" if source.held_out else ""
    licence = plain(source.license or ("" if source.held_out else "not stated"))
    for file in source.files[:LONGEST_LIST]:
        yield [name, code(file.name), f"{file.rows:,}", licence, shown_hash(file.sha256)]
    if (more := source.files[LONGEST_LIST:]) or not source.files:
        left = f"{len(more)} more files" if more else ""
        yield [name, left, f"{sum(file.rows for file in more):,}" if more else "", licence, ""]


def _asked(asked: Asked) -> list[str]:
    """Tells of a set that was only asked."""
    by = f" through {asked.harness}" if asked.harness else ""
    name = f"{_named(asked.name, asked.hub)}, evaluation data: asked by {plain(', '.join(asked.tasks) + by)}"
    digest = shown_hash(asked.sha256) if asked.sha256 else ""
    return [name, code(asked.name) if digest else "", f"{asked.items:,}", "", digest]


def _named(name: str, hub: bool) -> str:
    return f"[{plain(name)}](https://huggingface.co/datasets/{name})" if hub else plain(name)


def recipe(facts: Facts) -> str:
    """Writes the recipe as it was followed; of paths only their last part, for the rest is of one machine."""
    text = facts.run.recipe.read_text()
    values = yaml.safe_load(text)
    shown = yaml.safe_dump(_public(values), sort_keys=False, allow_unicode=True, width=100)
    told = "Defaults are written out; of paths only their last part is shown."
    if hashlib.sha256(text.encode()).hexdigest() != facts.told["contract"]["recipe"]:
        told += " The file was edited since the run began; the manifest has the hash of the one that was followed."
    return f"{told}\n\n{fenced(shown, 'yaml')}"


def _public(values: dict[str, Any]) -> dict[str, Any]:
    """Shortens what names a place on a machine, and leaves out what is about publishing."""
    public = {key: value for key, value in values.items() if key not in ("base_path", "card", "publish", "name")}
    if str(public["base"]).startswith((".", "/", "~")):
        public["base"] = f"./{_last(public['base'])}"
    data = {**public["data"], "train": _shortened(public["data"]["train"])}
    if isinstance(data["eval"], str):
        data["eval"] = _last(data["eval"])
    tasks = public.get("evaluate", {}).get("tasks") or []
    shortened = [{**task, **_paths(task)} if isinstance(task, dict) else task for task in tasks]
    evaluate = {"evaluate": {**public["evaluate"], "tasks": shortened}} if "evaluate" in public else {}
    return {**public, "data": data, **evaluate}


def _paths(task: dict[str, Any]) -> dict[str, Any]:
    return {key: _last(task[key]) for key in ("file", "json_schema") if isinstance(task.get(key), str)}


def _shortened(train: Any) -> Any:
    if isinstance(train, list):
        return [_shortened(each) for each in train]
    if isinstance(train, dict):
        return {**train, "path": _last(train["path"])} if train.get("path") else train
    return _last(train)


def _last(path: Any) -> str:
    return str(path).replace("\\", "/").rstrip("/").rpartition("/")[2]


def training(facts: Facts, compute: Compute | None, energy: Energy | None) -> str:
    """Writes what trained it, for how long, and what that took, estimates with their formula."""
    plan = facts.plan
    device = f"{plan.processes} x {plan.gpu}" if plan.gpu else "a CPU"
    rows = [
        ["method", plain(_method(facts))],
        ["optimizer steps", f"{plan.steps:,} of {facts.recipe.train.batch_size} examples"],
        ["hardware", plain(device)],
        ["arithmetic", plain(f"{plan.dtype}, base held as {plan.quantisation or plan.dtype}")],
        ["time", f"{_duration(seconds_of(facts))}, from loading to the proven files"],
    ]
    if compute:
        rows.append(["operations", _operations(compute)])
    if energy:
        kwh = f"{energy.kwh:.3g} kWh, estimated: {energy.hours:.2f} h x {energy.gpus} x {energy.watts:g} W (full load)"
        grams = f"{energy.grams:.3g} g, estimated: that x {GRAMS_A_KWH:g} g/kWh (world 2024, IEA Electricity 2025)"
        rows += [["energy", kwh], ["CO2", grams]]
    else:
        rows.append(["energy", "not estimated: the power of this hardware is not known here"])
    return table(["", ""], rows)


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _method(facts: Facts) -> str:
    plan = facts.plan
    if plan.method == "full":
        return f"full: {plan.trainable_parameters:,} weights were trained"
    variant = f" ({plan.variant})" if plan.variant else ""
    of = f"{plan.trainable_parameters:,} trained numbers beside {plan.total_parameters:,} frozen ones"
    return f"{plan.method}{variant}, rank {plan.rank}, alpha {plan.alpha:g}: {of}"


def _operations(compute: Compute) -> str:
    tokens = f"{compute.tokens:,} tokens x {compute.active_parameters:,} active parameters x 6"
    return f"{figure(compute.six_flops)} FLOP, estimated: {tokens}"

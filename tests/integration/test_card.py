"""The card of a run: read as the Hub's client reads it, with the figures of the run and no path of a machine."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial.made_run import made_run

from finetune.card import benchmark_results, card_of, license_of, make_card
from finetune.cli.carding import BILL, CARD, SUMMARY
from finetune.cli.targets import check_made
from finetune.errors import ArtifactError, RecipeError
from finetune.provenance import bill_of_materials, public_recipe, read_facts
from finetune.run import Entry, Run, atomic, manifest, open_run

ROOT = Path(__file__).parents[2]

HOSTILE = "fine\n---\nlicense: mit\n---\n# Not a heading\n<script>alert(1)</script> ``` | [x](javascript:y) \u202e"


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


GGUF = "gguf/small-0001-Q8_0.gguf"
"""A file whose bytes are its name."""

ASKED: dict[str, Any] = {"thinking": False, "sampling": {"temperature": 0, "max_new_tokens": 64, "seed": 0}}

EVALUATION: dict[str, Any] = {
    "format": 1,
    "made": "2026-11-30T10:00:00+00:00",
    "sides": {
        "base": {**ASKED, "engine": "transformers 5 cpu float32, base in 4 bits"},
        "tuned": {**ASKED, "engine": "transformers 5 cpu float32, base in 4 bits"},
        GGUF: {**ASKED, "engine": "llama.cpp, xllamacpp", "sha256": hashlib.sha256(GGUF.encode()).hexdigest()},
    },
    "tasks": [
        {
            "name": "held-out loss",
            "kind": "loss",
            "set": "domain",
            "unit": "nats a token",
            "better": "lower",
            "items": 120,
            "scores": {"base": interval(2.31), "tuned": interval(1.41), "gguf/small-0001-Q8_0.gguf": interval(1.5)},
            "pairs": [
                {
                    "one": "base",
                    "other": "tuned",
                    "difference": interval(-0.9),
                    "p": None,
                    "verdict": "better",
                    "sees": 0.03,
                }
            ],
        },
        {
            "name": "gsm8k | exact",
            "kind": "exact",
            "set": "regression",
            "unit": "share right",
            "better": "higher",
            "items": 50,
            "scores": {"base": interval(0.6), "tuned": interval(0.5)},
            "pairs": [
                {
                    "one": "base",
                    "other": "tuned",
                    "difference": interval(-0.1),
                    "p": 0.06,
                    "verdict": "no evidence",
                    "sees": None,
                }
            ],
        },
    ],
    "gate": {"rules": ["regression exact drops more than 0.02"], "failed": []},
    "notes": ["3 answers were cut"],
}


@pytest.fixture(scope="module")
def made(pico_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with words in its recipe that try to leave their place."""
    folder = tmp_path_factory.mktemp("carded")
    return made_run(pico_base, folder, f"card.intended_use={json.dumps(HOSTILE)}", f"system={json.dumps(HOSTILE)}")


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Run:
    """A copy to change, beside it, for the recipe names its base from there."""
    copy = made.path.with_name(f"copy-of-{tmp_path.name}")
    shutil.copytree(made.path, copy)
    return open_run(copy)


def evaluated(run: Run, evaluation: dict[str, Any] = EVALUATION) -> Run:
    """Lays an evaluation beside the run, with the GGUF files that it asked."""
    for name in [side for side in evaluation["sides"] if side.startswith("gguf/")]:
        (run.path / name).parent.mkdir(exist_ok=True)
        (run.path / name).write_text(name)
        proven(run, "export", run.path / name)
    run.evaluation.parent.mkdir(exist_ok=True)
    atomic.write_json(run.evaluation, evaluation)
    return proven(run, "evaluate", run.evaluation)


def ledgered(run: Run, ledger: dict[str, Any]) -> Run:
    atomic.write_json(run.ledger, ledger)
    return proven(run, "ledger", run.ledger)


def proven(run: Run, stage: str, file: Path) -> Run:
    """Adds the entry that a stage leaves, which took the adapter as it is."""
    adapter = {run.named(each): atomic.sha256(each) for each in run.adapter.iterdir()}
    outputs = {run.named(file): atomic.sha256(file)}
    manifest.add(run.manifest, Entry(stage, adapter, outputs, [], {}, 0.0, manifest.now()))
    return run


def on_the_hub(run: Run, base: Path) -> Run:
    """Names the base by an id, as a recipe does whose base was downloaded."""
    values = yaml.safe_load(run.recipe.read_text())
    run.recipe.write_text(yaml.safe_dump({**values, "base": "Qwen/Qwen3.6-27B", "base_path": str(base)}))
    return run


def sections(card: str) -> dict[str, str]:
    """Splits a page at its headings, code left out."""
    text = re.sub(r"(?ms)^(`{3,}).*?^\1$", "", ModelCard(card).text)
    parts = re.split(r"(?m)^## (.*)$", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("artifact", ["adapter", "merged", "gguf"])
def test_words_of_a_recipe_break_neither_head_nor_page(made: Run, artifact: Any) -> None:
    card = card_of(made, artifact, "acme/small")
    data = ModelCard(card).data.to_dict()
    assert data["license"] == "unknown", "the words say mit"
    assert data["library_name"] == {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}[artifact]
    found = sections(card)
    assert list(found) == [
        *("Results", "How to run it", "Intended use", "Limits", "Data"),
        *("Training", "Recipe", "Licence", "Provenance"),
    ]
    lines = found["Intended use"].strip().splitlines()
    assert all(line.startswith(">") for line in lines)
    assert "\n---\n" not in ModelCard(card).text.replace("\n| --- |", "")
    assert re.search(r"(?<!\\)<script", re.sub(r"(?ms)^(`{3,}).*?^\1$", "", card)) is None
    assert "\u202e" not in card


def test_no_path_and_no_local_base_is_on_the_card(made: Run, pico_base: Path) -> None:
    for artifact in ("adapter", "merged", "gguf"):
        card = card_of(made, artifact, "acme/small")  # type: ignore[arg-type]
        assert str(pico_base.parent) not in card
        assert str(made.path.parent) not in card
        assert "../" not in card
        assert "base_model" not in ModelCard(card).data.to_dict()
        assert "The base is a folder without an id on the Hub" in card


def test_the_head_names_base_relation_and_own_results(run: Run, pico_base: Path) -> None:
    evaluated(on_the_hub(run, pico_base))
    heads = {
        each: ModelCard(card_of(run, each, "acme/small", "acme/small")).data for each in ("adapter", "merged", "gguf")
    }  # type: ignore[arg-type]
    told = {each: (head.base_model, head.base_model_relation) for each, head in heads.items()}
    base = "Qwen/Qwen3.6-27B"
    assert told == {
        "adapter": (base, "adapter"),
        "merged": (base, "finetune"),
        "gguf": ("acme/small", "quantized"),
    }
    results = {each: [(r.metric_type, r.metric_value) for r in head.eval_results or []] for each, head in heads.items()}
    names = [task["dataset"]["name"] for task in heads["adapter"].to_dict()["model-index"][0]["results"]]
    assert names == ["held-out loss, of the run's own rows", "gsm8k | exact, of the run's own rows"]
    assert results == {"adapter": [("loss", 1.41), ("exact_match", 0.5)], "merged": [], "gguf": [("loss", 1.5)]}
    assert heads["adapter"].license == "apache-2.0", "what is known of Qwen's bases, the rows' own licence aside"


def test_results_are_those_of_the_evaluation_with_their_intervals(run: Run) -> None:
    text = sections(card_of(evaluated(run), "adapter"))
    assert "| 2.3100 [2.2100, 2.4100] | 1.4100 [1.3100, 1.5100] |" in text["Results"]
    assert "tuned against base: -0.9000 [-1.0000, -0.8000], **better**; sees changes over 0.0300" in text["Results"]
    assert "gsm8k \\| exact" in text["Results"]
    assert "not measured" in text["Results"], "of the GGUF on the second task"
    assert "1 of 1 rules of the run's gate hold" in text["Results"]
    assert "forgot" not in text["Limits"], "a regression set was asked"
    assert "Held-out loss: 2.3100 before, 1.4100 after, on 120 rows: better than before" in card_of(run, "adapter")


def test_rules_that_nobody_asked_stand_beside_those_that_hold(run: Run) -> None:
    (rule,) = EVALUATION["gate"]["rules"]
    gate = {"rules": [rule, "held_out loss does not fall"], "failed": [f"{rule}: -0.1", f"{rule}: -0.2"]}
    evaluated(run, {**EVALUATION, "gate": {**gate, "not_asked": ["mmlu drops more than 0.01"]}})
    assert (
        "1 of 2 rules of the run's gate hold. "
        f"**Failed:** {rule}: -0.1; {rule}: -0.2. **Not asked by this evaluation:** mmlu drops more than 0.01."
    ) in sections(card_of(run, "adapter"))["Results"]
    evaluated(run, {**EVALUATION, "gate": {"rules": [], "failed": [], "not_asked": [rule]}})
    assert f"\n\n**Not asked by this evaluation:** {rule}.\n" in card_of(run, "adapter")


def test_a_pair_says_against_whom_it_is_and_p_is_holms(run: Run) -> None:
    loss, exact = EVALUATION["tasks"]
    gguf = "gguf/small-0001-Q8_0.gguf"
    tested = {**loss["pairs"][0], "p": 0.01, "p_holm": 0.02}
    against = {**tested, "one": "tuned", "other": gguf, "difference": interval(0.15), "verdict": "worse"}
    evaluated(run, {**EVALUATION, "tasks": [{**loss, "pairs": [tested, against]}, exact]})
    text = sections(card_of(run, "gguf"))["Results"]
    assert "tuned against base: -0.9000 [-1.0000, -0.8000], p 0.02, **better**" in text
    assert "gguf/small-0001-Q8\\_0.gguf against tuned: +0.1500 [+0.0500, +0.2500], p 0.02, **worse**" in text
    assert text.count("Holm") == 1
    assert "base and tuned by transformers 5 cpu float32, base in 4 bits; gguf/small-0001-Q8\\_0.gguf by llama" in text


def test_the_headline_is_of_the_files_themselves_or_says_of_whom(run: Run) -> None:
    def opening(artifact: Any) -> str:
        return card_of(run, artifact).partition("## Results")[0]

    evaluated(run)
    assert "2.3100 before, 1.4100 after, on 120 rows: better than before (the adapter; these" in opening("merged")
    loss, exact = EVALUATION["tasks"]
    own = {**loss["pairs"][0], "other": "gguf/small-0001-Q8_0.gguf", "verdict": "worse"}
    evaluated(run, {**EVALUATION, "tasks": [{**loss, "pairs": [*loss["pairs"], own]}, exact]})
    ledgered(run, LEDGER)
    assert "Held-out loss: 2.4000 (bf16) before, 1.4300 (bf16) after, on 120 rows." in opening("merged")
    assert "1.5000 after (small-0001-Q8\\_0.gguf), on 120 rows: worse than before" in opening("gguf")
    assert "Worse than its base on: held-out loss." in opening("gguf")
    assert "Worse" not in opening("adapter")
    other = "gguf/small-0001-Q4_K_M.gguf"
    told = {**EVALUATION["sides"][GGUF], "sha256": hashlib.sha256(other.encode()).hexdigest()}
    sides = {**EVALUATION["sides"], other: told}
    evaluated(run, {**EVALUATION, "sides": sides, "tasks": [{**loss, "pairs": [*loss["pairs"], own]}, exact]})
    assert "Worse than its base on: held-out loss (small-0001-Q8\\_0.gguf)." in opening("gguf")


def test_figures_of_a_gguf_that_is_not_there_any_more_are_nobodys(run: Run) -> None:
    loss, _ = EVALUATION["tasks"]
    own = {**loss["pairs"][0], "other": GGUF}
    evaluated(run, {**EVALUATION, "tasks": [{**loss, "pairs": [own]}]})
    assert "1.5000 after" in card_of(run, "gguf").partition("## Results")[0]
    (run.path / GGUF).rename(run.path / "gguf" / "renamed.gguf")
    proven(run, "export", run.path / "gguf" / "renamed.gguf")
    card = card_of(run, "gguf")
    assert "1.5000 after" in card.partition("## Results")[0], "it has the same bytes"
    (run.path / "gguf" / "renamed.gguf").unlink()
    (run.path / "gguf" / "small-0001-Q2_K.gguf").write_text("Q2_K")
    card = card_of(proven(run, "export", run.path / "gguf" / "small-0001-Q2_K.gguf"), "gguf")
    assert "1.5000" not in card.partition("## Results")[0]
    assert "model-index" not in ModelCard(card).data.to_dict()


@pytest.mark.parametrize("stage", ["evaluate", "ledger"])
def test_figures_of_another_adapter_come_on_no_card(run: Run, stage: str) -> None:
    evaluated(run) if stage == "evaluate" else ledgered(run, LEDGER)
    config = run.adapter / "adapter_config.json"
    config.write_text(config.read_text() + " ")
    adapter = {run.named(each): atomic.sha256(each) for each in run.adapter.iterdir()}
    manifest.add(run.manifest, Entry("train", {}, adapter, [], {}, 0.0, manifest.now()))
    with pytest.raises(ArtifactError, match="is of another training") as refused:
        card_of(run, "adapter")
    assert refused.value.problems[0].fix == f"finetune {stage} {run.path}"


def test_gguf_files_of_elsewhere_have_names_of_their_own_and_no_folder(run: Run) -> None:
    places = ("/data/clients/acme/x.gguf", "/data/clients/beta/x.gguf")
    sides = {**EVALUATION["sides"], **dict.fromkeys(places, EVALUATION["sides"]["tuned"])}
    loss, exact = EVALUATION["tasks"]
    scores = {**loss["scores"], places[0]: interval(0.1), places[1]: interval(0.9)}
    pairs = [{**loss["pairs"][0], "other": place} for place in places]
    notes = [f"{places[1]}: 3 answers were cut", "rows of /srv/clients/rows.jsonl"]
    tasks = [{**loss, "scores": scores, "pairs": pairs}, exact]
    facts = read_facts(evaluated(run, {**EVALUATION, "sides": sides, "tasks": tasks, "notes": notes}))
    assert facts.evaluation is not None
    assert list(facts.evaluation["sides"]) == ["base", "tuned", GGUF, "x.gguf", "x-2.gguf"]
    told = facts.evaluation["tasks"][0]
    assert [told["scores"][side]["value"] for side in ("x.gguf", "x-2.gguf")] == [0.1, 0.9]
    assert [pair["other"] for pair in told["pairs"]] == ["x.gguf", "x-2.gguf"]
    assert facts.evaluation["notes"] == ["x-2.gguf: 3 answers were cut", "rows of rows.jsonl"]
    written = make_card(facts, "gguf") + json.dumps(bill_of_materials(facts, "gguf"))
    assert "clients" not in written


def test_a_label_of_few_rows_is_an_answer_of_somebodys(run: Run) -> None:
    loss, exact = EVALUATION["tasks"]
    for share, shown in ((0.1, True), (0.08, False)):
        majority = {"label": "Maria Huber", "share": share}
        note = f"{exact['name']}: always saying 'Maria Huber' would score {share:.1%}"
        evaluated(run, {**EVALUATION, "tasks": [loss, {**exact, "majority": majority}], "notes": [note]})
        facts = read_facts(run)
        assert ("Maria Huber" in json.dumps(facts.evaluation) + card_of(run, "adapter")) is shown
    assert facts.evaluation is not None
    assert facts.evaluation["notes"] == [f"{exact['name']}: always saying the commonest answer would score 8.0%"]


def test_what_a_form_keeps_is_told_with_enough_digits_and_on_which_weights(run: Run) -> None:
    ledgered(evaluated(run), LEDGER)
    text = sections(card_of(run, "merged"))["What each form keeps of the tuning"]
    assert "99.98% [99.98%, 99.99%]" in text
    assert "was measured on: base and tuned by transformers 5 cpu float32, base in 4 bits" in text


def test_how_it_was_measured_is_told_in_each_runtimes_words(run: Run) -> None:
    evaluated(run)
    told = {each: sections(card_of(run, each))["How to run it"] for each in ("adapter", "merged", "gguf")}  # type: ignore[arg-type]
    assert all("measured greedily, at most 64 tokens each" in text for text in told.values())
    assert "`do_sample=False, max_new_tokens=64`" in told["merged"]
    assert '`"temperature": 0, "max_tokens": 64`' in told["adapter"]
    assert "`--temp 0 -n 64`" in told["gguf"]
    assert "may have allowed more" not in told["gguf"]
    evaluated(run, {**EVALUATION, "tasks": [*EVALUATION["tasks"], BENCHMARK]})
    assert "tasks of lm-evaluation-harness may have allowed more" in card_of(run, "gguf")
    evaluated(run, {**EVALUATION, "tasks": EVALUATION["tasks"][:1]})
    assert "greedily" not in card_of(run, "gguf"), "a loss has no answers"


def test_gguf_files_are_spoken_of_where_there_are_some(run: Run) -> None:
    assert "GGUF" not in card_of(run, "merged")
    file = run.path / "gguf" / "small-0001-Q8_0.gguf"
    file.parent.mkdir()
    file.write_bytes(b"GGUF")
    assert "`finetune export` made GGUF files" in card_of(proven(run, "export", file), "merged")


def test_rows_of_another_file_are_a_data_set_of_its_name_and_what_was_asked(run: Run) -> None:
    loss, exact = EVALUATION["tasks"]
    evaluated(run, {**EVALUATION, "tasks": [{**loss, "file": "held_out"}, {**exact, "file": "gsm8k40"}, BENCHMARK]})
    card = card_of(run, "adapter")
    data = sections(card)["Data"]
    assert "| gsm8k40, evaluation data: asked by gsm8k \\| exact |  | 50 |  |  |" in data
    named = "[openai/gsm8k](https://huggingface.co/datasets/openai/gsm8k)"
    assert f"| {named}, evaluation data: asked by gsm8k through lm\\_eval 0.4.13 |  | 50 |" in data
    results = ModelCard(card).data.eval_results or []
    assert [(each.dataset_type, each.dataset_name) for each in results] == [
        ("held-out", "held-out loss, of the run's own rows"),
        ("gsm8k40", "gsm8k | exact, of the file gsm8k40"),
        ("openai/gsm8k", "gsm8k, of lm_eval 0.4.13"),
    ]
    assert "were not tested; beside the held-out rows, gsm8k \\| exact, gsm8k was asked." in sections(card)["Limits"]


BENCHMARK: dict[str, Any] = {
    **EVALUATION["tasks"][1],
    "name": "gsm8k",
    "kind": "lm_eval",
    "unit": "exact_match,strict-match",
    "harness": "lm_eval 0.4.13",
    "few_shot": [5],
    "hub": {"dataset": "openai/gsm8k", "config": "main"},
}


def test_a_public_benchmark_asked_whole_has_a_file_of_the_hubs_own_form(run: Run) -> None:
    loss, exact = EVALUATION["tasks"]
    part = {**BENCHMARK, "name": "a part", "hub": None}
    twins = [
        {**BENCHMARK, "name": name, "scores": {"tuned": interval(at)}} for name, at in (("g k", 0.1), ("g-k", 0.9))
    ]
    found = benchmark_results(read_facts(evaluated(run, {**EVALUATION, "tasks": twins})), "adapter")
    values = {name: yaml.safe_load(text)[0]["value"] for name, text in found.items()}
    assert values == {".eval_results/g-k.yaml": 0.1, ".eval_results/g-k-2.yaml": 0.9}
    evaluated(run, {**EVALUATION, "tasks": [loss, exact, BENCHMARK, part]})
    ((name, text),) = benchmark_results(read_facts(run), "adapter").items()
    assert name == ".eval_results/gsm8k.yaml"
    (entry,) = parse_eval_result_entries(yaml.safe_load(text))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("openai/gsm8k", "main", 0.5)
    assert entry.notes is not None
    assert entry.notes.startswith("exact_match,strict-match of 50 items, 95 % [0.4000, 0.6000]; 5 examples before")
    assert entry.date == EVALUATION["made"]
    assert benchmark_results(read_facts(run), "merged") == {}, "which nobody asked"
    results = ModelCard(card_of(run, "adapter")).data.eval_results or []
    told = {(each.dataset_type, each.dataset_name, each.metric_type) for each in results}
    assert ("openai/gsm8k", "gsm8k, of lm_eval 0.4.13", "exact_match") in told
    assert ("lm-evaluation-harness", "a part, of lm_eval 0.4.13", "exact_match") in told


def test_what_became_worse_is_told_at_the_top(run: Run) -> None:
    loss, exact = EVALUATION["tasks"]
    lost = {**exact, "pairs": [{**exact["pairs"][0], "verdict": "worse"}]}
    card = card_of(evaluated(run, {**EVALUATION, "tasks": [loss, lost]}), "adapter")
    assert "**Worse than its base on: gsm8k \\| exact.**" in card.partition("## Results")[0]


def test_how_it_is_asked_is_how_it_was_trained(blue_run: Run) -> None:
    card = card_of(blue_run, "adapter", "acme/blue")
    code = next(block for block in re.findall(r"(?ms)^```python\n(.*?)^```", card))
    compile(code, "card", "exec")
    assert '{"role": "system", "content": "Be brief."}' in code
    assert "enable_thinking=False" in code
    assert "Held-out loss" in card
    assert "```text\nBe brief.\n```" in card


def test_data_are_told_with_their_hashes_until_they_are_others(run: Run) -> None:
    rows = run.path.parents[1] / "train.jsonl"
    text = sections(card_of(run, "adapter"))["Data"]
    assert f"| train.jsonl | `train.jsonl` | 12 | not stated | `{atomic.sha256(rows)[:16]}` |" in text
    before = rows.read_text()
    try:
        rows.write_text(before.replace("closed", "open"))
        card = card_of(run, "adapter")
        assert "the rows on the disk are not those of the training" in sections(card)["Data"]
        assert "those that the run began with | **" in sections(card)["Provenance"], "the chain says it too"
    finally:
        rows.write_text(before)


def test_the_recipe_on_the_card_is_the_one_that_was_followed(made: Run) -> None:
    card = card_of(made, "adapter")
    shown = yaml.safe_load(re.findall(r"(?ms)^(`{3,})yaml\n(.*?)^\1$", card)[0][1])
    values = yaml.safe_load(made.recipe.read_text())
    assert {key: shown[key] for key in ("method", "lora", "train", "memory", "parallel")} == {
        key: values[key] for key in ("method", "lora", "train", "memory", "parallel")
    }
    assert shown["data"]["train"] == "train.jsonl"
    assert "edited" not in sections(card)["Recipe"]


def test_recipe_and_card_tell_of_every_path_its_last_part_alone(run: Run) -> None:
    values = yaml.safe_load(run.recipe.read_text())
    tasks = [{"lm_eval": "/opt/clients/Big Merger/ga.yaml"}, {"score": "exact", "file": "../../my rows/held out.jsonl"}]
    run.recipe.write_text(yaml.safe_dump({**values, "evaluate": {**values["evaluate"], "tasks": tasks}}))
    for text in (public_recipe(run), card_of(run, "adapter")):
        assert "lm_eval: ga.yaml" in text
        assert "file: held out.jsonl" in text
        assert not any(word in text for word in ("clients", "Merger", "my rows", "../"))


def test_what_is_said_on_the_command_line_is_the_cards_only(run: Run) -> None:
    facts = read_facts(run, ["card.license=mit", "card.limits=none"])
    assert (facts.verdict().license, facts.recipe.card.limits) == ("mit", "none")
    assert license_of(run).publishable == "only forced"
    assert "**mit**, which is the wish of whoever made this model" in sections(make_card(facts, "adapter"))["Licence"]
    with pytest.raises(RecipeError, match="only the card's own words"):
        read_facts(run, ["lora.rank=99"])


def test_an_unfinished_run_and_a_damaged_evaluation_are_refused(run: Run) -> None:
    evaluated(run, {"sides": {}})
    with pytest.raises(ArtifactError, match="evaluation is damaged"):
        card_of(run, "adapter")
    told = json.loads(run.manifest.read_text())
    run.manifest.write_text(json.dumps({**told, "stages": []}))
    with pytest.raises(ArtifactError, match="not finished"):
        card_of(run, "adapter")


LEDGER: dict[str, Any] = {
    "examples": {"scored": 120, "learnt": 900},
    "unit": "nats a learnt token",
    "intervals": "95 %, percentile bootstrap over examples, paired",
    "steps": [
        {"name": "base", "weights": "bf16", "loss": interval(2.4), "kept": {"value": 0.0, "low": 0.0, "high": 0.0}},
        {"name": "adapter", "weights": "nf4", "loss": interval(1.41), "kept": {"value": 1.0, "low": 1.0, "high": 1.0}},
        {
            "name": "merged",
            "weights": "bf16",
            "loss": interval(1.43),
            "kept": {"value": 0.99983, "low": 0.99977, "high": 0.99989},
        },
    ],
    "advice": [],
}


@pytest.mark.parametrize("stage", ["evaluate", "ledger"])
def test_a_figure_that_was_typed_by_hand_comes_on_no_card(run: Run, stage: str) -> None:
    made = evaluated(run) if stage == "evaluate" else ledgered(run, LEDGER)
    file = made.evaluation if stage == "evaluate" else made.ledger
    card_of(made, "adapter")
    file.write_text(file.read_text().replace("1.41", "0.41"))
    with pytest.raises(ArtifactError, match="is not the one that was proven") as refused:
        card_of(made, "adapter")
    assert refused.value.problems[0].fix == f"finetune {stage} {run.path}"


NAN, HUGE = float("nan"), 10**400


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tasks.0.scores.base.value", NAN),
        ("tasks.0.scores.base.value", "x"),
        ("tasks.0.scores.base", None),
        ("tasks.0.pairs.0.difference.high", HUGE),
        ("tasks.0.pairs.0.sees", "x"),
        ("tasks.0.pairs", None),
        ("tasks.0.name", 5),
        ("tasks.0.items", "many"),
        ("tasks.0.hub", {"x": 1}),
        ("tasks", [1]),
        ("sides", []),
        ("sides.base.sampling", {"seed": 0}),
        ("gate", {}),
        ("gate.rules", 5),
        ("notes", [5]),
        ("made", 5),
    ],
)
def test_figures_of_another_kind_are_told_though_their_hash_is_right(run: Run, key: str, value: Any) -> None:
    told: Any = json.loads(json.dumps(EVALUATION))
    holder, *names = told, *key.split(".")
    for name in names[:-1]:
        holder = holder[int(name)] if isinstance(holder, list) else holder[name]
    holder[names[-1]] = value
    run.evaluation.parent.mkdir()
    run.evaluation.write_text(json.dumps(told))
    with pytest.raises(ArtifactError, match="the run's evaluation is damaged") as refused:
        card_of(proven(run, "evaluate", run.evaluation), "adapter")
    assert key.split(".")[0] in refused.value.problems[0].why
    assert refused.value.problems[0].fix == f"finetune evaluate {run.path}"


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '{"steps": [1], "examples": {}}'])
def test_a_ledger_that_is_none_is_told(run: Run, text: str) -> None:
    run.ledger.write_text(text)
    with pytest.raises(ArtifactError, match="the run's ledger is damaged"):
        card_of(proven(run, "ledger", run.ledger), "adapter")


@pytest.mark.parametrize(
    ("part", "value"),
    [("data", None), ("data", {"rows": "many"}), ("serving", {"thinking": 1}), ("contract", {"recipe": 1})],
)
def test_a_head_of_a_manifest_of_another_kind_is_told(run: Run, part: str, value: Any) -> None:
    told = manifest.read(run.manifest)
    held = told.pop(part)
    run.manifest.write_text(json.dumps(told if value is None else {**told, part: {**held, **value}}))
    with pytest.raises(ArtifactError, match="the run's manifest is damaged"):
        card_of(run, "adapter")


def test_an_evaluation_of_no_stage_comes_on_no_card(run: Run) -> None:
    before = manifest.read(run.manifest)
    atomic.write_json(evaluated(run).manifest, before)
    with pytest.raises(ArtifactError, match=r"evaluation\.json is of no stage") as refused:
        card_of(run, "adapter")
    assert refused.value.problems[0].fix == f"finetune evaluate {run.path}"


def test_the_command_writes_card_bill_and_summary_without_torch(run: Run, tmp_path: Path) -> None:
    words = ["card", str(run.path), "--repo", "acme/small", "--out", "README.md", "--bom", "bom.json"]
    script = "import sys; from finetune.cli import main; sys.argv = ['finetune', *sys.argv[1:]]\ntry: main()\n"
    script += "finally: print('torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script, *words, "--summary", "summary.md"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "False\n"), done.stderr
    assert done.stdout.split() == ["bom.json", "summary.md", "README.md"]
    for file, mark in (("README.md", CARD), ("bom.json", BILL), ("summary.md", SUMMARY)):
        check_made("--out", tmp_path / file, run, mark)  # so that it may be written again
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.pipeline_tag == "text-generation"
    assert 'from_pretrained(model, "acme/small-lora")' in card.text, "where publish puts the adapter"
    summary = (tmp_path / "summary.md").read_text().strip().splitlines()
    assert summary[0] == summary[-1]
    assert "DRAFT" in summary[0]

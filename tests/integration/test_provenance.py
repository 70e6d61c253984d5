"""Where a model came from: the chain of its hashes, its compute, its bill of materials and its signature."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial.made_run import made_run

from finetune.data import Counts
from finetune.errors import ArtifactError, RecipeError
from finetune.provenance import (
    Compute,
    Facts,
    bill_of_materials,
    check_signature,
    compute_of,
    compute_told,
    energy_of,
    links,
    read_facts,
    repo_of,
    sign,
    training_summary,
)
from finetune.provenance.asked import Asked, read_asked
from finetune.provenance.signing import is_installed
from finetune.recipe import Task
from finetune.run import Run


def silent(*_: Any) -> None:
    """Takes what would be told to a user."""


@pytest.fixture(scope="module")
def run(pico_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that was merged."""
    from finetune.merge import merge

    made = made_run(pico_base, tmp_path_factory.mktemp("proven"), "card.intended_use=trials")
    merge(made, "bf16", None, silent, silent)
    return made


@pytest.fixture
def facts(run: Run) -> Facts:
    return read_facts(run)


def missing(told: dict[str, Any], rendered: str | None = None) -> list[str]:
    return [link.told for link in links(told, rendered) if not link.holds]


def test_a_whole_chain_holds_from_the_rows_to_the_merged_model(facts: Facts) -> None:
    found = links(facts.told, facts.data.rendered)
    assert [link.told for link in found] == [
        "the rows on the disk are those that the run began with",
        "train took the rendered rows that the run began with",
        "train took the template that the run began with",
        "train took the tokenizer that the run began with",
        "train took the base that the run began with",
        "merge took the adapter that training made",
        "merge took the base that the run began with",
    ]
    assert all(link.holds for link in found)


def test_a_link_that_is_lost_is_named(facts: Facts) -> None:
    told: dict[str, Any] = json.loads(json.dumps(facts.told))
    assert missing(told, "0" * 64) == ["the rows on the disk are those that the run began with"]
    told["stages"][0]["inputs"].pop("data")
    told["stages"][1]["inputs"]["adapter/adapter_model.safetensors"] = "0" * 64
    exported = {**told["stages"][1], "stage": "export", "inputs": {"merged": "merged"}}
    told["stages"].append(exported)
    assert missing(told) == [
        "train took the rendered rows that the run began with",
        "merge took the adapter that training made",
        "export took the weights that merging made",
    ]


def test_an_evaluation_took_the_adapter_or_that_is_missed(facts: Facts) -> None:
    told: dict[str, Any] = json.loads(json.dumps(facts.told))
    taken = {name: digest for name, digest in told["stages"][0]["outputs"].items() if name.startswith("adapter/")}
    told["stages"].append({**told["stages"][0], "stage": "evaluate", "inputs": taken, "outputs": {}})
    assert missing(told) == []
    assert "evaluate took the adapter that training made" in [link.told for link in links(told)]
    taken["adapter/adapter_model.safetensors"] = "0" * 64
    assert missing(told) == ["evaluate took the adapter that training made"]


@pytest.mark.parametrize(
    ("repo", "adapter", "merged", "gguf"),
    [
        ("acme/bank", "acme/bank-lora", "acme/bank", "acme/bank-GGUF"),
        ("acme/bank-GGUF", "acme/bank-lora", "acme/bank", "acme/bank-GGUF"),
    ],
)
def test_each_form_has_its_own_repository_whatever_name_is_told(
    repo: str, adapter: str, merged: str, gguf: str
) -> None:
    assert (repo_of(repo, "adapter"), repo_of(repo, "merged"), repo_of(repo, "gguf")) == (adapter, merged, gguf)


@pytest.mark.parametrize(("name", "verb"), [("eval/evaluation.json", "evaluate"), ("ledger.json", "ledger")])
@pytest.mark.parametrize("raw", ["{", "[]", "{}", "[" * 99_999])
def test_what_is_damaged_in_a_run_is_made_again_by_its_verb(run: Run, name: str, verb: str, raw: str) -> None:
    file = run.path / name
    before = file.read_bytes() if file.is_file() else None
    file.parent.mkdir(exist_ok=True)
    file.write_text(raw)
    try:
        with pytest.raises(ArtifactError) as told:
            read_facts(run)
    finally:
        file.write_bytes(before) if before is not None else file.unlink()
    assert told.value.problems[0].fix == f"finetune {verb} {run.path}"


def test_compute_is_six_operations_a_weight_and_token(facts: Facts, run: Run) -> None:
    compute, counts = compute_of(facts), Counts(**facts.told["data"])
    assert compute is not None
    assert counts.tokens is not None
    assert compute.tokens == 3 * counts.tokens, "three epochs"
    assert compute.active_parameters == facts.plan.total_parameters
    assert compute.six_flops == 6 * compute.active_parameters * compute.tokens
    assert 0.3 < compute.executed_flops / compute.six_flops < 3, "two ways to count the same"
    limited = replace(
        facts, recipe=facts.recipe.model_copy(update={"train": facts.recipe.train.model_copy(update={"max_steps": 3})})
    )
    short = compute_of(limited)
    assert short is not None
    assert short.passes == 3 * facts.recipe.train.batch_size / counts.examples


def test_a_mixture_counts_the_experts_that_a_token_meets(pico_moe_base: Path, tmp_path: Path) -> None:
    facts = read_facts(made_run(pico_moe_base, tmp_path))
    compute = compute_of(facts)
    assert compute is not None
    from finetune.shape import read_shape

    routed = read_shape(facts.recipe.base, facts.base).num_routed_parameters
    assert compute.active_parameters == facts.plan.total_parameters - routed * 6 // 8, "2 of 8"


def test_the_example_of_the_guidelines_is_far_below_their_threshold() -> None:
    told = compute_told(Compute(15_000_000, 1, 27_000_000_000, 6 * 27e9 * 15e6, 1.6e18))
    assert "2.430e+18" in told
    assert "| 3.33e+22 | 7.3e-05 | below |" in told
    above = compute_told(replace(Compute(1, 1, 1, 0, 0), six_flops=4e22))
    assert "| 3.33e+22 | 1.2e+00 | **above** |" in above


def test_energy_is_told_of_cards_whose_power_is_known_alone(facts: Facts) -> None:
    assert energy_of(facts) is None, "a CPU"
    stages = [{**facts.trained, "seconds": 7200.0}]
    on = {
        gpu: replace(facts, plan=replace(facts.plan, gpu=gpu, processes=2), told={**facts.told, "stages": stages})
        for gpu in ("NVIDIA GeForce RTX 4090", "ACME 9000")
    }
    energy = energy_of(on["NVIDIA GeForce RTX 4090"])
    assert energy is not None
    assert asdict(energy) == pytest.approx({"hours": 2.0, "gpus": 2, "watts": 450.0, "kwh": 1.8, "grams": 801.0})
    assert energy_of(on["ACME 9000"]) is None


def test_the_summary_is_a_draft_at_both_ends(facts: Facts) -> None:
    lines = training_summary(facts).strip().splitlines()
    assert lines[0] == lines[-1]
    assert "DRAFT" in lines[0]
    assert "Not legal advice" in lines[0]


@pytest.mark.parametrize("artifact", ["adapter", "merged"])
def test_a_bill_of_materials_keeps_the_published_schema(facts: Facts, artifact: Any) -> None:
    pytest.importorskip("cyclonedx", reason="cyclonedx-python-lib, which ships the schema, is not installed")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    bill = bill_of_materials(facts, artifact, "acme/small")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    broken = {**bill, "components": [{"type": "model"}]}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(broken)) is not None


def test_a_bill_names_every_file_source_and_package_by_hash_or_version(facts: Facts, pico_base: Path) -> None:
    bill = bill_of_materials(facts, "adapter", "acme/small")
    assert bill == bill_of_materials(facts, "adapter", "acme/small"), "the same run, the same bill"
    model = bill["metadata"]["component"]
    hashes = {each["name"]: each["hashes"][0]["content"] for each in model["components"]}
    assert hashes == facts.files("adapter")
    parts = {each["bom-ref"]: each for each in bill["components"]}
    assert {each["bom-ref"] for each in bill["components"]} == set(bill["dependencies"][0]["dependsOn"])
    assert parts["data/0"]["components"][0]["hashes"][0]["content"] == facts.data.sources[0].files[0].sha256
    assert parts["library/torch"]["version"] == facts.trained["versions"]["torch"]
    assert model["modelCard"]["considerations"] == {"useCases": ["trials"]}
    assert str(pico_base.parent) not in json.dumps(bill)


def test_what_was_only_asked_is_evaluation_data_with_its_hash_while_the_file_is_there(
    facts: Facts, tmp_path: Path
) -> None:
    (tmp_path / "old.jsonl").write_text("{}\n")
    wished = [Task(score="exact", file=tmp_path / "old.jsonl"), Task(score="loss", file=tmp_path / "gone.jsonl")]
    evaluate = facts.recipe.evaluate.model_copy(update={"tasks": wished})
    recipe = facts.recipe.model_copy(update={"evaluate": evaluate})
    tasks: list[dict[str, Any]] = [
        {"name": "held_out loss", "items": 9, "file": "held_out"},
        {"name": "old exact", "items": 3, "file": "old"},
        {"name": "old loss", "items": 4, "file": "old"},
        {"name": "gone loss", "items": 5, "file": "gone"},
        {"name": "gsm8k", "items": 6, "harness": "lm_eval 0.4", "hub": {"dataset": "openai/gsm8k", "config": "main"}},
        {"name": "own", "items": 7, "harness": "lm_eval 0.4", "hub": None},
    ]
    found = read_asked(recipe, {"tasks": tasks})
    digest = hashlib.sha256(b"{}\n").hexdigest()
    assert found == (
        Asked("old.jsonl", False, ("old exact", "old loss"), 4, "", digest),
        Asked("gone.jsonl", False, ("gone loss",), 5),
        Asked("openai/gsm8k", True, ("gsm8k",), 6, "lm_eval 0.4"),
        Asked("own", False, ("own",), 7, "lm_eval 0.4"),
    )
    assert read_asked(recipe, None) == ()
    bill = bill_of_materials(replace(facts, asked=found), "adapter", "acme/small")
    parts = {each["bom-ref"]: each for each in bill["components"]}
    assert parts["evaluation/0"]["hashes"][0]["content"] == digest
    assert parts["evaluation/2"]["name"] == "openai/gsm8k"
    assert set(parts) == set(bill["dependencies"][0]["dependsOn"])
    if importlib.util.find_spec("cyclonedx"):
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator

        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None


@pytest.fixture
def signed(run: Run, tmp_path: Path) -> Path:
    """A folder with a signature, and its keys beside it."""
    if not is_installed():
        pytest.skip("the extra `signing` is not installed")
    import shutil

    folder = shutil.copytree(run.adapter, tmp_path / "model")
    make = "openssl ecparam -name prime256v1 -genkey -noout -out {0}.pem && openssl ec -in {0}.pem -pubout -out {0}.pub"
    for name in ("key", "other"):
        subprocess.run(make.format(name), shell=True, cwd=tmp_path, check=True, capture_output=True)
    sign(folder, tmp_path / "key.pem")
    return folder


def _flip(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


def _add(folder: Path) -> None:
    (folder / "extra.py").write_text("")


def _lose(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def _rename(folder: Path) -> None:
    (folder / "adapter_config.json").rename(folder / "config.json")


def _damage(folder: Path) -> None:
    (folder / "model.sig").write_text("{}")


def _write(told: str) -> Any:
    return lambda folder: (folder / "model.sig").write_text(told)


def _added(name: str) -> Any:
    def harm(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")

    return harm


def _forge(folder: Path) -> None:
    """Exchanges what was signed, the signature kept."""
    import base64

    told = json.loads((folder / "model.sig").read_text())
    payload = base64.b64decode(told["dsseEnvelope"]["payload"]).replace(b"adapter_config", b"adapter_other_")
    told["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    (folder / "model.sig").write_text(json.dumps(told))


@pytest.mark.parametrize(
    "harm",
    [
        _flip,
        _add,
        _lose,
        _rename,
        _damage,
        _forge,
        *map(
            _write,
            ("", "[]", "[" * 99_999, '{"dsseEnvelope": 5}', '{"dsseEnvelope": null, "verificationMaterial": null}'),
        ),
        *map(
            _added,
            (".gitignore", ".git/a.py", ".github/a.py", ".gitattributes/a.py", ".cache/a.py", "b/.gitattributes"),
        ),
    ],
)
def test_a_signed_folder_that_was_changed_is_caught(signed: Path, harm: Any) -> None:
    key = signed.parent / "key.pub"
    (before,) = check_signature(signed, key)
    assert (before["holds"], before["measured"]) == (True, 2)
    harm(signed)
    (after,) = check_signature(signed, key)
    assert not after["holds"]


def test_another_key_is_told_from_the_one_that_signed(signed: Path) -> None:
    (told,) = check_signature(signed, signed.parent / "other.pub")
    assert not told["holds"]
    with pytest.raises(RecipeError, match="cannot verify"):
        list(check_signature(signed, signed.parent / "key.pem"))
    with pytest.raises(RecipeError, match="cannot sign"):
        sign(signed, signed.parent / "key.pub")


def test_what_a_clone_and_a_download_keep_is_not_signed_and_told_so(signed: Path) -> None:
    key = signed.parent / "key.pub"
    (signed / ".cache" / "huggingface").mkdir(parents=True)
    (signed / ".cache" / "huggingface" / "model.metadata").write_text("")
    subprocess.run(["git", "init", "-q", str(signed)], check=True)
    (signed / ".gitattributes").write_text("")
    held, left_out = check_signature(signed, key)
    assert (held["holds"], held["measured"]) == (True, 2)
    assert left_out["measured"] == ".cache/huggingface, .gitattributes, .git"
    (signed / ".git" / "HEAD").unlink()
    (told,) = check_signature(signed, key)
    assert not told["holds"]
    assert ".git/config" in str(told["measured"])


def test_files_of_such_names_that_were_there_are_signed_with_the_others(signed: Path) -> None:
    for name in (".gitignore", ".github/a.py", ".git/a.py"):
        _added(name)(signed)
    sign(signed, signed.parent / "key.pem")
    (told,) = check_signature(signed, signed.parent / "key.pub")
    assert (told["holds"], told["measured"]) == (True, 5)
    (signed / ".github" / "a.py").write_text("changed")
    (told,) = check_signature(signed, signed.parent / "key.pub")
    assert (told["holds"], told["measured"]) == (False, ".github/a.py is not what was signed")


def test_what_a_signature_of_another_tool_passes_over_is_found(signed: Path) -> None:
    from model_signing import hashing, signing

    what = hashing.Config().set_ignored_paths(paths=["model.sig"])
    signer = signing.Config().set_hashing_config(what).use_elliptic_key_signer(private_key=signed.parent / "key.pem")
    signer.sign(signed, signed / "model.sig")
    (told,) = check_signature(signed, signed.parent / "key.pub")
    assert (told["holds"], told["measured"]) == (True, 2)
    _added(".github/a.py")(signed)
    (told,) = check_signature(signed, signed.parent / "key.pub")
    assert (told["holds"], told["measured"]) == (False, ".github/a.py was added, where the signature looks at nothing")

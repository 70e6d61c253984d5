"""The chain of proofs only grows, and a damaged one is not read as an empty one."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import ArtifactError
from finetune.run import Entry, atomic, manifest

ENTRY = Entry(
    stage="merge",
    inputs={"adapter": "ab12"},
    outputs={"merged": "cd34"},
    claims=[{"claim": "logits agree", "measured": 3e-6, "tolerance": 1e-5, "holds": True}],
    versions={"torch": "2.13.0"},
    seconds=1.5,
    finished="2026-11-23T10:00:00+00:00",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "manifest.json"
    atomic.write_json(path, manifest.head("legal-0001", {"base": "x"}))
    return path


def test_an_entry_is_added_behind_the_others_and_nothing_is_replaced(path: Path) -> None:
    before = manifest.read(path)
    manifest.add(path, ENTRY)
    manifest.add(path, replace(ENTRY, seconds=2.0))
    after = manifest.read(path)
    assert [stage["seconds"] for stage in after["stages"]] == [1.5, 2.0]
    assert Entry(**after["stages"][0]) == ENTRY
    assert {**after, "stages": []} == before
    assert os.listdir(path.parent) == ["manifest.json"]


def test_a_figure_that_is_not_finite_is_refused_and_the_chain_stays(path: Path) -> None:
    claim: manifest.Claim = {"claim": "logits agree", "measured": math.nan, "tolerance": 1e-5, "holds": False}
    with pytest.raises(ValueError, match="JSON compliant"):
        manifest.add(path, replace(ENTRY, claims=[claim]))
    assert manifest.read(path)["stages"] == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is not JSON"),
        ('{"format": 1, "run": "legal-0001", "stag', "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[]", "it lacks one of"),
        ('{"format": 1, "run": "x", "created": "x"}', "it lacks one of created, format, run, stages"),
        ('{"format": 2, "run": "x", "created": "x", "stages": []}', "its format is 2, this version reads 1"),
        ('{"format": 1, "run": "x", "created": "x", "stages": {}}', "not an entry"),
        ('{"format": 1, "run": "x", "created": "x", "stages": [{"stage": "merge"}]}', "not an entry"),
    ],
)
def test_a_damaged_manifest_is_refused_and_left_as_it_is(path: Path, text: str, why: str) -> None:
    path.write_text(text)
    for act in (lambda: manifest.read(path), lambda: manifest.add(path, ENTRY)):
        with pytest.raises(ArtifactError) as refusal:
            act()
        assert why in refusal.value.problems[0].why
        assert refusal.value.problems[0].where == str(path)
    assert path.read_text() == text


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as refusal:
        manifest.read(tmp_path / "manifest.json")
    assert refusal.value.problems[0].why == "it is missing"


def test_a_folder_in_the_place_of_the_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as refusal:
        manifest.read(tmp_path)
    assert refusal.value.problems[0].why == "Is a directory"


@pytest.mark.parametrize(
    "wrong",
    [{"claims": [{"claim": "x"}]}, {"claims": {}}, {"seconds": "1"}, {"outputs": []}, {"inputs": []}, {"stage": ["x"]}],
)
def test_a_stage_whose_parts_are_not_what_they_should_be_is_refused(path: Path, wrong: dict[str, Any]) -> None:
    manifest.add(path, ENTRY)
    value = json.loads(path.read_text())
    value["stages"][0] |= wrong
    path.write_text(json.dumps(value))
    with pytest.raises(ArtifactError, match="cannot be read"):
        manifest.read(path)


@pytest.mark.parametrize(
    ("without", "why"),
    [("serving", "its serving lacks"), ("contract", "its contract lacks"), ("notes", "it lacks the list of notes")],
)
def test_a_run_that_training_began_tells_how_it_is_asked_and_held_to(path: Path, without: str, why: str) -> None:
    facts: dict[str, Any] = {part: dict.fromkeys(keys, "") for part, keys in manifest.BEGUN.items()} | {"notes": []}
    atomic.write_json(path, manifest.head("legal-0001", facts))
    assert manifest.read_begun(path) == manifest.read(path)
    atomic.write_json(path, manifest.head("legal-0001", facts | {without: "gone"}))
    with pytest.raises(ArtifactError) as refusal:
        manifest.read_begun(path)
    assert why in refusal.value.problems[0].why


def test_an_entry_has_exactly_these_fields(path: Path) -> None:
    manifest.add(path, ENTRY)
    assert list(json.loads(path.read_text())["stages"][0]) == [
        "stage",
        "inputs",
        "outputs",
        "claims",
        "versions",
        "seconds",
        "finished",
    ]


def test_a_contract_whose_hashes_are_none_is_refused(path: Path) -> None:
    facts: dict[str, Any] = {part: dict.fromkeys(keys, "") for part, keys in manifest.BEGUN.items()} | {"notes": []}
    facts["contract"]["base"] = 5
    atomic.write_json(path, manifest.head("legal-0001", facts))
    with pytest.raises(ArtifactError) as refusal:
        manifest.read_begun(path)
    assert refusal.value.problems[0].why == "its contract's base is no hash"

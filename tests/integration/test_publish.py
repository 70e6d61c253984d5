"""`finetune publish` against a Hub on the loopback: all arrives byte for byte, and nothing private with it."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import string
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

sys.path.append(str(Path(__file__).parents[1] / "proof"))

import hub_server
from hub_server import READER, WRITER, Hub, Repo, listening
from huggingface_hub import ModelCard
from trial.made_run import made_run
from typer.testing import CliRunner

from finetune.cli.app import app
from finetune.errors import ArtifactError, DataError, DoesNotFit, OutsideError, ProofFailed, RecipeError
from finetune.merge import merge
from finetune.publish import Asked, Wish, lay_out, prepare, publish, staging, uploading
from finetune.publish.private import Privates, look
from finetune.publish.rows import STRETCH, repeated
from finetune.run import Entry, Run, atomic, manifest, open_run

REPOS = {"adapter": "acme/legal-lora", "merged": "acme/legal", "gguf": "acme/legal-GGUF"}


def silent(*_: Any) -> None:
    """Takes what would be told to a user."""


def gguf(**words: str) -> bytes:
    """A GGUF of no weights that says so much."""

    def text(told: str) -> bytes:
        return struct.pack("<Q", len(told)) + told.encode()

    told = b"".join(text(key.replace("_", ".")) + struct.pack("<I", 8) + text(value) for key, value in words.items())
    tokens = (
        text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2000) + b"".join(map(text, map(str, range(2000))))
    )
    scores = text("tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 3) + bytes(12)
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(words) + 2) + tokens + scores + told


def export(run: Run, **words: str) -> None:
    """Lays a GGUF beside the run as an export leaves it; made by a writer of a few lines, for a converter is slow."""
    (run.path / "gguf").mkdir(exist_ok=True)
    file = run.path / "gguf" / f"{run.name}-Q8_0.gguf"
    file.write_bytes(gguf(general_architecture="qwen35", **words))
    outputs = {run.named(file): atomic.sha256(file)}
    manifest.add(run.manifest, Entry("export", {"merged": str(run.merged)}, outputs, [], {}, 0.0, manifest.now()))


def evaluated(run: Run, **parts: Any) -> Run:
    """Lays an evaluation beside the run as `finetune evaluate` leaves it, with the items that are there."""
    told = {"format": 1, "sides": {}, "tasks": [], "gate": {"rules": [], "failed": []}, "notes": [], **parts}
    run.evaluation.parent.mkdir(exist_ok=True)
    atomic.write_json(run.evaluation, told)
    files = [file for file in (run.evaluation, run.evaluated_items) if file.is_file()]
    outputs = {run.named(file): atomic.sha256(file) for file in files}
    manifest.add(run.manifest, Entry("evaluate", {}, outputs, [], {}, 0.0, manifest.now()))
    return run


@pytest.fixture(scope="module")
def made(pico_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with all forms of its model; its base has a licence."""
    base = tmp_path_factory.mktemp("bases") / "base"
    shutil.copytree(pico_base, base)
    (base / "LICENSE").write_text("Do as you like.\n")
    folder = tmp_path_factory.mktemp("made")
    run = made_run(base, folder, *of_the_hub(base), "system=Be brief, path or no path: /etc.")
    merge(run, "bf16", None, silent, silent)
    export(run)
    return run


def of_the_hub(base: Path) -> tuple[str, str]:
    """Wishes for a base that has a name at the Hub."""
    return "base=acme/pico-base", f"base_path={base}"


@pytest.fixture
def run(made: Run) -> Iterator[Run]:
    """A copy to publish and to harm, beside it, for the recipe names its rows from there."""
    copy = made.path.with_name("legal-0001")
    shutil.copytree(made.path, copy)
    yield open_run(copy)
    shutil.rmtree(copy)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # read once, when it is imported
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.setattr(uploading, "WAITS", (0.01,) * 3)
    made = Hub()
    with listening(made):
        yield made


def sent(run: Run, hub: Hub, *kinds: Any, **wishes: Any) -> list[dict[str, Any]]:
    """Publishes; gives the entries."""
    return publish(run, Asked("acme/legal", kinds, endpoint=hub.url, **wishes), silent)


def staged(run: Run, *kinds: Any, **wishes: Any) -> dict[str, dict[str, bytes]]:
    """What would go up: kind -> name -> bytes."""
    with staging(run) as place:
        found = prepare(run, Asked("acme/legal", kinds, **wishes), place, silent)
        return {each.artifact.kind: {file.name: file.path.read_bytes() for file in each.files} for each in found}


def publications(run: Run) -> list[dict[str, Any]]:
    return [stage for stage in manifest.read(run.manifest)["stages"] if stage["stage"] == "publish"]


# What arrives


def test_every_form_arrives_byte_for_byte_with_its_card_its_licence_and_its_chain(run: Run, hub: Hub) -> None:
    wanted = staged(run)
    entries = sent(run, hub)
    assert {repo: hub.repos[repo].files for repo in REPOS.values()} == {REPOS[k]: f for k, f in wanted.items()}
    assert all(hub.repos[repo].private for repo in REPOS.values())
    merged = {file.name for file in run.merged.iterdir()}
    assert wanted["merged"].keys() == merged | {"README.md", "bom.json", "manifest.json", "recipe.yaml"}
    assert all("LICENSE" in files for files in wanted.values())
    bases = {
        kind: files["README.md"].decode().partition("base_model: ")[2].split("\n")[0] for kind, files in wanted.items()
    }
    assert bases == {"adapter": "acme/pico-base", "merged": "acme/pico-base", "gguf": "acme/legal"}
    assert publications(run) == entries
    assert [entry["inputs"]["commit"] for entry in entries] == [hub.repos[repo].head for repo in REPOS.values()]
    assert [claim["holds"] for entry in entries for claim in entry["claims"]] == [True] * 12


def test_a_run_that_trained_every_weight_has_a_merged_model_and_gguf_files_and_no_adapter(
    pico_base: Path, hub: Hub, tmp_path: Path
) -> None:
    run = made_run(pico_base, tmp_path, *of_the_hub(pico_base), "method=full", "lora.dropout=0")
    with pytest.raises(ArtifactError, match="the run has no merged") as refused:
        sent(run, hub)
    assert refused.value.problems[0].fix == f"finetune merge {run.path}"
    merge(run, "bf16", None, silent, silent)
    export(run)
    with pytest.raises(ArtifactError, match="this run has no adapter") as refused:
        sent(run, hub, "adapter")
    assert refused.value.problems[0].fix.startswith("--merged ")
    sent(run, hub)
    assert hub.repos.keys() == {"acme/legal", "acme/legal-GGUF"}
    files = hub.repos["acme/legal"].files
    assert all(files[file.name] == file.read_bytes() for file in run.merged.iterdir())
    cards = [ModelCard(hub.repos[repo].files["README.md"].decode()) for repo in ("acme/legal", "acme/legal-GGUF")]
    heads = [(each.data.base_model, each.data["base_model_relation"], each.data.library_name) for each in cards]
    assert heads == [("acme/pico-base", "finetune", "transformers"), ("acme/legal", "quantized", "gguf")]
    assert all(each.data.tags == ["sft"] and not re.search("adapter|peft", each.content, re.I) for each in cards)
    assert 'from_pretrained("acme/legal"' in cards[0].text
    assert "vllm serve acme/legal" in cards[0].text


def test_what_is_told_of_the_run_names_no_folder_of_this_machine(run: Run) -> None:
    for files in staged(run).values():
        told = json.loads(files["manifest.json"])
        assert str(run.path).encode() not in files["manifest.json"]
        assert told["contract"]["wishes"]["data.train"] == "train.jsonl"
        assert "system: 'Be brief, path or no path: /etc.'" in files["recipe.yaml"].decode()
        assert [stage["stage"] for stage in told["stages"]] == ["train", "merge", "export"]
        assert "base_path" not in files["recipe.yaml"].decode()
        assert "train: train.jsonl" in files["recipe.yaml"].decode()


def test_two_paths_of_one_name_stay_two_things(run: Run) -> None:
    made = {"/data/one/x.gguf": "a" * 64, "/data/two/x.gguf": "b" * 64}
    manifest.add(run.manifest, Entry("export", {}, made, [], {}, 0.0, manifest.now()))
    told = json.loads(staged(run, "adapter")["adapter"]["manifest.json"])
    assert told["stages"][-1]["outputs"] == {"x.gguf": "a" * 64, "x-2.gguf": "b" * 64}


def test_a_figure_that_is_none_is_told(run: Run) -> None:
    evaluated(run)
    run.manifest.write_text(run.manifest.read_text().replace('"claims": []', '"claims": [], "took": NaN', 1))
    with pytest.raises(ArtifactError, match="a file of the run is damaged") as refused:
        staged(run, "adapter")
    assert refused.value.problems[0].where == "manifest.json"


def test_publishing_again_sends_nothing_and_adds_no_entry(run: Run, hub: Hub) -> None:
    first = sent(run, hub)
    hub.asked.clear()
    assert sent(run, hub) == first
    assert hub.writes == []
    assert publications(run) == first


def test_what_changed_is_sent_alone_and_what_went_away_is_deleted(run: Run, hub: Hub) -> None:
    sent(run, hub, "gguf")
    repo = hub.repos[REPOS["gguf"]]
    (old,) = (run.path / "gguf").iterdir()
    old.rename(old.with_name("x-BF16.gguf"))
    told = json.loads(run.manifest.read_text().replace(old.name, "x-BF16.gguf"))
    atomic.write_json(
        run.manifest, {**told, "stages": [*told["stages"][:-1], manifest.read(run.manifest)["stages"][-1]]}
    )
    sent(run, hub, "gguf")
    assert {name for name in repo.files if name.endswith(".gguf")} == {"x-BF16.gguf"}
    assert len(repo.commits) == 3


@pytest.mark.parametrize("fault", ["commit 503", "commit cut", "commit late", "lfs cut", "lfs 500", "preupload 429"])
def test_under_each_fault_every_form_arrives_byte_for_byte(run: Run, hub: Hub, fault: str) -> None:
    call, _, what = fault.partition(" ")
    hub.faults[call] = [int(what) if what.isdigit() else what]
    wanted = staged(run)
    sent(run, hub)
    assert {kind: hub.repos[REPOS[kind]].files for kind in REPOS} == wanted
    assert hub.faults[call] == [], "it was met"
    assert all(len(hub.repos[repo].commits) == 2 for repo in REPOS.values())


def test_an_upload_that_never_succeeds_is_given_up_and_the_next_goes_on(run: Run, hub: Hub) -> None:
    hub.faults["commit"] = [503] * 4
    with pytest.raises(OutsideError, match="was not published") as refused:
        sent(run, hub, "merged")
    assert "503" in refused.value.problems[0].why
    assert publications(run) == []
    assert not (run.path / ".publish").exists()
    hub.asked.clear()
    sent(run, hub, "merged")
    assert hub.asked.count("PUT lfs") == 0, "the weights were there"
    assert len(publications(run)) == 1


def test_a_publication_killed_after_its_commit_is_known_again(run: Run, hub: Hub) -> None:
    before = run.manifest.read_bytes()
    (first,) = sent(run, hub, "adapter")
    run.manifest.write_bytes(before)
    (second,) = sent(run, hub, "adapter")
    assert second["inputs"] == first["inputs"]
    assert len(hub.repos[REPOS["adapter"]].commits) == 2


# Whose commits


def _before(repo: Repo) -> None:
    repo.add("edit the card", README__md="mine")


def test_a_commit_of_somebody_elses_is_never_built_upon_unseen(run: Run, hub: Hub) -> None:
    sent(run, hub, "adapter")
    repo = hub.repos[REPOS["adapter"]]
    theirs = repo.add("edit the card", README__md="mine")
    with pytest.raises(OutsideError, match="somebody else's commit") as refused:
        sent(run, hub, "adapter")
    assert repo.head == theirs
    assert refused.value.problems[0].fix.startswith(f"look at it; then --parent {theirs[:12]}")
    sent(run, hub, "adapter", wish=Wish(parent=theirs[:12]))
    assert repo.files == staged(run, "adapter")["adapter"]


def test_a_run_of_equal_name_and_plan_and_a_copy_are_somebody_else(hub: Hub, pico_base: Path, tmp_path: Path) -> None:
    def go(run: Run, **wishes: Any) -> list[dict[str, Any]]:
        return sent(run, hub, "adapter", base="acme/pico-base", forced="rows are elsewhere", **wishes)

    one, two = (made_run(pico_base, tmp_path / str(seed), seed=seed) for seed in range(2))
    copy = open_run(Path(shutil.copytree(one.path, tmp_path / "copy" / "runs" / one.name)))
    assert (one.name, one.plan.read_bytes()) == (two.name, two.plan.read_bytes())
    go(one)
    for other in (two, copy):
        with pytest.raises(OutsideError, match="somebody else's commit"):
            go(other)
    (theirs,) = go(two, wish=Wish(onto_head=True))
    manifest.add(one.manifest, Entry("ledger", {}, {}, [], {}, 0.0, manifest.now()))
    with pytest.raises(OutsideError, match="somebody else's commit"):
        go(one)
    assert hub.repos[REPOS["adapter"]].head == theirs["inputs"]["commit"]


def test_a_commit_made_meanwhile_is_not_built_upon_either(run: Run, hub: Hub) -> None:
    sent(run, hub, "adapter")
    repo = hub.repos[REPOS["adapter"]]
    manifest.add(run.manifest, Entry("ledger", {}, {}, [], {}, 0.0, manifest.now()))  # so that there is news
    hub.meanwhile = lambda: repo.add("meanwhile", notes__txt="mine")
    with pytest.raises(OutsideError, match="somebody else's commit"):
        sent(run, hub, "adapter")
    assert repo.commits[-1][1] == "meanwhile"
    assert len(publications(run)) == 1
    (entry,) = sent(run, hub, "adapter", wish=Wish(onto_head=True))
    assert {"other files lie there": "notes.txt"}.items() <= {
        c["claim"]: c["measured"] for c in entry["claims"]
    }.items()


def test_a_repository_that_others_filled_is_refused_and_an_empty_one_is_taken(run: Run, hub: Hub) -> None:
    hub.make(REPOS["adapter"])
    sent(run, hub, "adapter")
    hub.make(REPOS["gguf"]).add("theirs", README__md="theirs")
    with pytest.raises(OutsideError, match="somebody else's commit"):
        sent(run, hub, "gguf")
    assert hub.repos[REPOS["gguf"]].files == {"README.md": b"theirs"}


# Around the files


def test_a_public_one_is_seen_when_all_of_it_was_read_back_and_not_before(run: Run, hub: Hub) -> None:
    hub.faults["tree"] = [400]
    with pytest.raises(OutsideError):
        sent(run, hub, "adapter", private=False, forced="it is ours")
    assert hub.repos[REPOS["adapter"]].private
    wishes: dict[str, Any] = {"gated": "manual", "tag": "v1.0", "collection": "Our models", "forced": "it is ours"}
    (entry,) = sent(run, hub, "adapter", private=False, **wishes)
    repo = hub.repos[REPOS["adapter"]]
    assert (repo.private, repo.gated, repo.tags) == (False, "manual", {"v1.0": repo.head})
    assert [item["id"] for item in hub.collections["acme/our-models-0"]["items"]] == [REPOS["adapter"]]
    assert {"seen by": "everybody", "gated": "manual", "tag": "v1.0"}.items() <= {
        claim["claim"]: claim["measured"] for claim in entry["claims"]
    }.items()
    assert entry["inputs"]["forced"] == "it is ours"
    hub.asked.clear()
    sent(run, hub, "adapter", private=False, **wishes)
    assert hub.writes == ["POST collections", "POST items"], "which say that they are there"


def test_a_tag_that_is_taken_is_told_before_anything_is_sent(run: Run, hub: Hub) -> None:
    sent(run, hub, "adapter", tag="v1")
    repo = hub.repos[REPOS["adapter"]]
    manifest.add(run.manifest, Entry("ledger", {}, {}, [], {}, 0.0, manifest.now()))
    with pytest.raises(OutsideError, match="the tag v1 is taken"):
        sent(run, hub, "adapter", tag="v1")
    assert len(repo.commits) == 2


def test_what_is_wished_private_does_not_go_where_everybody_sees_it(run: Run, hub: Hub) -> None:
    hub.make(REPOS["adapter"], private=False)
    with pytest.raises(OutsideError, match="is public"):
        sent(run, hub, "adapter")
    assert hub.writes == []


@pytest.mark.parametrize(
    ("token", "faults", "repo", "told"),
    [
        ("", {}, "acme/legal", "hf auth login"),
        ("hf_revoked_long_ago", {}, "acme/legal", "hf auth login"),
        (READER, {}, "acme/legal", "the token may not write to acme"),
        (WRITER, {}, "nobody/legal", "the token may not write to nobody"),
        (WRITER, {"commit": [507]}, "acme/legal", "there is no room left"),
        (WRITER, {"object": [507]}, "acme/legal", "quota"),
        (WRITER, {"lfs": [413]}, "acme/legal", "413"),
    ],
    ids=["nobody", "revoked", "read only", "foreign owner", "full", "quota", "too large"],
)
def test_what_the_hub_refuses_is_told_with_what_to_do(
    run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str, faults: Any, repo: str, told: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("HF_TOKEN_PATH", "/nonexistent")
    hub.faults.update(faults)
    with pytest.raises(OutsideError) as refused:
        publish(run, Asked(repo, ("adapter",), endpoint=hub.url), silent)
    assert told in str(refused.value)
    assert refused.value.problems[0].fix
    assert publications(run) == []


def test_where_nobody_listens_that_is_said(run: Run, hub: Hub) -> None:
    with pytest.raises(OutsideError, match="the Hub does not know you"):
        publish(run, Asked("acme/legal", ("adapter",), endpoint="http://127.0.0.1:9"), silent)


LIES: dict[str, Any] = {
    "a list for a repository": ("info", []),
    "a word for a repository": ("info", "<html>log in</html>"),
    "an empty repository": ("info", {}),
    "an object for commits": ("commits", {"error": "x"}),
    "commits of nothing": ("commits", [{"id": None, "title": None, "authors": [], "date": "2026-01-01T00:00:00.000Z"}]),
    "commits without a part": ("commits", [{"id": None}]),
    "a file without a name": ("tree", [{"type": "file"}]),
    "a file of no name": ("tree", [{"type": "file", "path": None, "size": None, "oid": None}]),
    "a word for files": ("tree", "x"),
    "a commit of nothing": ("commit", {}),
    "no way to send": ("preupload", {"files": []}),
    "no tags": ("refs", {}),
    "tags of nothing": (
        "refs",
        {"branches": [], "converts": [], "tags": [{"name": "v1", "ref": "x", "targetCommit": 0}]},
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_that_no_hub_gives_is_told(run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch, lie: str) -> None:
    wrong, answer = LIES[lie]
    honest = hub_server._of_repo

    def lying(hub: Hub, repo: Repo, call: str, rest: str, body: bytes) -> tuple[int, Any]:
        return (200, answer) if call == wrong else honest(hub, repo, call, rest, body)

    monkeypatch.setattr(hub_server, "_of_repo", lying)
    hub.make(REPOS["adapter"])
    with pytest.raises(OutsideError, match=r"cannot be|was not published") as refused:
        sent(run, hub, "adapter", tag="v1", wish=Wish(onto_head=True))
    assert "its answer is none of a Hub" in refused.value.problems[0].why
    assert publications(run) == []


def test_a_page_in_place_of_json_is_told(run: Run, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>log in</html>")

        def log_message(self, *words: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, args=(0.01,)).start()
        asked = Asked("acme/legal", ("adapter",), endpoint=f"http://127.0.0.1:{server.server_address[1]}")
        with pytest.raises(OutsideError, match="the Hub does not know you") as refused:
            publish(run, asked, silent)
        server.shutdown()
    assert "it is not JSON" in refused.value.problems[0].why


# What must not go up

SECRET = "hf_" + "abcdefghij" * 3


def append(file: Path, text: str) -> None:
    with file.open("a") as opened:
        opened.write(text)


def prove_again(run: Run) -> None:
    """Writes down the adapter as it is now: what is searched is not what was damaged."""
    told = manifest.read(run.manifest)
    for name in [name for stage in told["stages"] for name in stage["outputs"] if name.startswith("adapter/")]:
        told["stages"][0]["outputs"][name] = atomic.sha256(run.path / name)
    atomic.write_json(run.manifest, told)


def _config(text: str) -> Callable[[Run], None]:
    def harm(run: Run) -> None:
        file = run.adapter / "adapter_config.json"
        told = json.loads(file.read_text())
        file.write_text(json.dumps({**told, "note": text.replace("RUN", str(run.path))}, indent=2))
        prove_again(run)

    return harm


def _weights(run: Run) -> None:
    from safetensors.torch import load_file, save_file

    file = run.adapter / "adapter_model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt", "made_by": "/home/alice/train.py"})
    prove_again(run)


def _gguf(run: Run) -> None:
    export(run, general_source_url="/home/alice/models/merged")


def _beside(name: str, content: bytes = b"x") -> Callable[[Run], None]:
    def harm(run: Run) -> None:
        file = run.adapter / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    return harm


def _link(run: Run) -> None:
    (run.adapter / "notes.md").symlink_to("/etc/hostname")


def _linked_weights(run: Run) -> None:
    file = run.adapter / "adapter_model.safetensors"
    file.rename(run.path / "elsewhere.safetensors")
    file.symlink_to(run.path / "elsewhere.safetensors")


def _linked_report(run: Run) -> None:
    (run.path / "report.html").symlink_to("/etc/hostname")


def reported(run: Run, text: str) -> None:
    """Lays a report beside the run that is of its evaluation as it is now."""
    now = atomic.sha256(run.evaluation) if run.evaluation.is_file() else ""
    run.report.write_text(f'<html><meta name="finetune-evaluation" content="{now}">\n<p>{text}</p></html>')


def _report(text: str) -> Callable[[Run], None]:
    return lambda run: reported(run, text)


def _card(text: str) -> Callable[[Run], None]:
    def harm(run: Run) -> None:
        values = yaml.safe_load(run.recipe.read_text())
        run.recipe.write_text(yaml.safe_dump({**values, "card": {**values["card"], "limits": text}}))

    return harm


def _evaluation(run: Run) -> None:
    row = json.loads((run.path.parents[1] / "train.jsonl").read_text().splitlines()[3])["prompt"]
    evaluated(run, notes=[row])


def _row(run: Run) -> None:
    row = json.loads((run.path.parents[1] / "train.jsonl").read_text().splitlines()[2])["prompt"]
    reported(run, "<b>" + row.replace(" ", "</b>\n<b>").replace("?", "&#63;") + "</b>")


PLANTED: dict[str, tuple[Callable[[Run], None], str]] = {
    "hub token": (_config(SECRET), "a secret"),
    "cloud key": (_config("AKIA" + "ABCDEFGH" * 2), "a secret"),
    "password in an address": (_config("postgres://bob:hunter22@db.acme.org/x"), "a secret"),
    "private key": (_report("-----BEGIN RSA PRIVATE KEY-----"), "a secret"),
    "assigned key": (_report("WANDB_API_KEY=0123456789abcdef0123"), "a secret"),
    "home": (_config("/home/alice/rows.jsonl"), "a path of a machine"),
    "root's home": (_config("/" + "root/rows/rows.jsonl"), "a path of a machine"),
    "Windows": (_config("C:\\Users\\alice\\rows.jsonl"), "a path of a machine"),
    "the run's own path": (_config("RUN/adapter"), "a path of this machine"),
    "path behind a colon": (_report("dir:/home/alice/secret"), "a path of a machine"),
    "path of a server": (_report("x=/srv/clients/acme/rows"), "a path of a machine"),
    "path of a share": (_report("\\\\fileserver\\share\\acme"), "a path of a machine"),
    "path of a share in JSON": (_config("\\\\fileserver\\share\\acme"), "a path of a machine"),
    "cloud key by its name": (_report("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCY"), "a secret"),
    "password": (_config("password: hunter2hunter22"), "a secret"),
    "password on the card": (_card("the password: hunter2hunter22"), "a secret"),
    "key on the card": (_card("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCY"), "a secret"),
    "share on the card": (_card("at \\\\fileserver\\share\\acme"), "a path of a machine"),
    "metadata of safetensors": (_weights, "a path of a machine"),
    "metadata of a GGUF": (_gguf, "a path of a machine"),
    "optimizer": (_beside("optimizer.safetensors"), "the state of a training"),
    "checkpoint": (_beside("checkpoint-10/adapter_model.safetensors"), "the state of a training"),
    "pickle": (_beside("adapter_model.bin"), "a pickle"),
    "training arguments": (_beside("training_args.bin"), "a pickle"),
    "environment": (_beside(".env"), "a file of secrets"),
    "git": (_beside(".git/config"), "a repository's inside"),
    "wandb": (_beside("wandb/run-1/files/output.log"), "a log of a training"),
    "tensorboard": (_beside("runs/events.out.tfevents.1.host.0"), "a log of a training"),
    "link": (_link, "a link"),
    "linked report": (_linked_report, "a link"),
    "linked weights": (_linked_weights, "a link"),
    "stray file": (_beside("notes.md"), "no stage of the run made"),
    "training row in a page": (_row, "repeats a row"),
    "training row in figures": (_evaluation, "repeats a row"),
    "pickle by another name": (_beside("../loss.png", b"\x80\x04x"), "a pickle"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_must_not_go_up_is_refused_by_name_and_nothing_is_sent(run: Run, hub: Hub, planted: str) -> None:
    harm, kind = PLANTED[planted]
    harm(run)
    with pytest.raises(ProofFailed) as refused:
        sent(run, hub)
    assert any(kind in problem.what for problem in refused.value.problems)
    assert all(problem.where for problem in refused.value.problems)
    assert not any(word in str(refused.value) for word in (SECRET, "hunter22", "0123456789abcdef"))
    assert hub.asked == []
    assert hub.repos == {}


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com/home/alice and http://localhost:8000/v1/data/x",
        "either/or, and/opt/out; 1/2; a password: required, of 8 letters",
        r"a line \nends\nhere, \frac{1}{2}, \w+\d+",
        'eos_token: "<|im_end|>"; pad_token_id = 248044',
    ],
)
def test_what_only_looks_alike_is_let_through(text: str) -> None:
    assert list(look(text, Privates((), None))) == []
    assert list(look(json.dumps(text), Privates((), None))) == []


def test_the_user_and_the_host_are_not_named(run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "brunhilde")
    _report("made by Brunhilde")(run)
    with pytest.raises(ProofFailed, match="the name of the user or host"):
        sent(run, hub, "adapter")
    with staging(run) as place:
        assert prepare(run, Asked("brunhilde/x", ("adapter",)), place, silent), "her own repository says so anyway"


def test_files_with_examples_go_up_only_when_that_is_wished(run: Run) -> None:
    _row(run)
    (run.path / "eval").mkdir()
    item = {"task": "x", "place": f"{run.path.parents[1]}/held out.jsonl:3", "prompt": "why /etc?"}
    (run.path / "eval" / "items.jsonl").write_text(json.dumps(item) + "\n")
    with pytest.raises(ProofFailed, match="repeats a row") as refused:
        staged(run, "adapter")
    page = run.path / "report.html"
    fix = f"--with-examples   # its rows are seen then; or mv {page} {run.name}-report.html"
    assert [problem.fix for problem in refused.value.problems] == [fix]
    found = staged(run, "adapter", with_examples=True)["adapter"]
    assert "report.html" in found
    assert json.loads(found["eval/items.jsonl"]) == {**item, "place": "held out.jsonl:3"}
    (run.path / "report.html").unlink()
    assert "eval/items.jsonl" not in staged(run, "adapter")["adapter"]


def test_what_an_evaluation_asked_is_as_private_as_rows(run: Run) -> None:
    asked = "Which of the three clauses binds the tenant when the roof leaks for a second time?"
    _report(f"It was asked: <i>{asked}</i>")(run)
    assert staged(run, "adapter")
    (run.path / "eval").mkdir()
    (run.path / "eval" / "items.jsonl").write_text(json.dumps({"task": "own", "prompt": asked}) + "\n")
    with pytest.raises(ProofFailed, match=r"report.html repeats a row") as refused:
        staged(run, "adapter")
    assert "items.jsonl:1" in refused.value.problems[0].why


def test_a_report_of_another_evaluation_does_not_go_up(run: Run) -> None:
    evaluated(run)
    reported(run, "rows")
    staged(run, "adapter")
    evaluated(run, notes=["a second one"])
    for _ in range(2):
        with pytest.raises(ArtifactError, match="not of the newest evaluation") as refused:
            staged(run, "adapter", with_examples=True)
        assert refused.value.problems[0].fix == f"finetune report {run.path}"
        run.report.write_text("<html><p>a page that does not say of which it is</p></html>")


def test_items_that_are_gone_or_others_keep_their_evaluation_back(run: Run) -> None:
    run.evaluated_items.parent.mkdir()
    run.evaluated_items.write_text('{"task": "x"}\n')
    evaluated(run)
    staged(run, "adapter")
    append(run.evaluated_items, '{"task": "y"}\n')
    with pytest.raises(ArtifactError, match=r"items.jsonl is not the one that was proven"):
        staged(run, "adapter")
    run.evaluated_items.unlink()
    with pytest.raises(ArtifactError, match=r"items.jsonl is gone") as refused:
        staged(run, "adapter")
    assert refused.value.problems[0].fix == f"finetune evaluate {run.path}"


def test_forty_letters_are_found_wherever_they_begin_and_thirty_nine_are_not(tmp_path: Path) -> None:
    rng = random.Random(0)
    row = "".join(rng.choice(string.ascii_lowercase) for _ in range(200))
    for begin in range(len(row) - STRETCH + 1):
        (tmp_path / "in.md").write_text(f"00: {row[begin : begin + STRETCH]}!")
        (tmp_path / "out.md").write_text(f"00: {row[begin : begin + STRETCH - 1]}!")
        files = {name: tmp_path / name for name in ("in.md", "out.md")}
        assert list(repeated([("short", "a:1"), (row, "a:2")], files)) == [("in.md", "a:2")]


def test_what_calls_of_a_row_are_given_is_as_private_as_what_is_said(pico_base: Path, tmp_path: Path) -> None:
    told = "The tenant of the third floor has not paid since the roof began to leak in May"
    function = {"name": "note", "arguments": {"text": f"{told}."}}
    parameters = {"type": "object", "properties": {"text": {"type": "string"}}}
    row = {
        "messages": [
            {"role": "user", "content": "note it"},
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
        ],
        "tools": [{"type": "function", "function": {"name": "note", "parameters": parameters}}],
    }
    run = made_run(pico_base, tmp_path, f"card.limits={json.dumps(told)}")
    assert staged(run, "adapter", base="acme/pico-base")
    append(tmp_path / "train.jsonl", json.dumps(row) + "\n")
    with pytest.raises(ProofFailed, match=r"README.md repeats a row"):
        staged(run, "adapter", base="acme/pico-base")


def test_rows_that_are_gone_cannot_be_compared_and_that_is_refused(made: Run, hub: Hub, tmp_path: Path) -> None:
    run = open_run(Path(shutil.copytree(made.path, tmp_path / "away" / "runs" / "x-0001")))
    with pytest.raises(DataError, match="not to be had"):
        staged(run, "adapter")
    assert staged(run, "adapter", forced="they were deleted by law")


def test_a_file_that_is_not_the_proven_one_is_refused(run: Run, hub: Hub) -> None:
    append(run.merged / "config.json", " ")
    with pytest.raises(ArtifactError, match=r"config.json is not the one that was proven"):
        sent(run, hub)
    assert hub.asked == []


def test_an_evaluation_that_was_edited_is_to_be_made_again_by_its_own_command(run: Run) -> None:
    append(evaluated(run).evaluation, " ")
    with pytest.raises(ArtifactError, match=r"evaluation.json is not the one that was proven") as refused:
        staged(run, "adapter")
    assert refused.value.problems[0].fix == f"finetune evaluate {run.path}"


def test_a_licence_that_is_not_known_keeps_it_from_everybody_unless_there_is_a_reason(run: Run) -> None:
    with pytest.raises(ProofFailed, match="licence") as refused:
        staged(run, "adapter", private=False)
    wheres = [each.rpartition("  ")[2] for each in refused.value.problems[0].where.split("; ")]
    assert wheres == ["base", "data.train"], "neither states one"
    files = staged(run, "adapter", private=False, forced="the rows are ours")["adapter"]
    assert json.loads(files["manifest.json"])["forced"] == "the rows are ours"
    assert "forced" not in json.loads(staged(run, "adapter")["adapter"]["manifest.json"])


def test_a_failed_gate_keeps_it_back_unless_there_is_a_reason(run: Run) -> None:
    rule = "held_out loss does not fall"
    evaluated(run, gate={"rules": [rule], "failed": [f"{rule}: +0.1 [+0.0, +0.2]"]})
    with pytest.raises(ProofFailed, match="the gate failed") as refused:
        staged(run, "adapter")
    problem = refused.value.problems[0]
    assert (problem.where, problem.why) == (str(run.evaluation), f"{rule}: +0.1 [+0.0, +0.2]")
    assert problem.fix.startswith("--force REASON")
    files = staged(run, "adapter", forced="a trial")["adapter"]
    assert json.loads(files["manifest.json"])["forced"] == "a trial"


def test_rules_that_were_not_asked_are_said_and_do_not_refuse(run: Run) -> None:
    rule = "regression regex drops more than 0.02"
    said: list[str] = []
    evaluated(run, gate={"rules": [], "failed": [], "not_asked": [rule]})
    with staging(run) as place:
        prepare(run, Asked("acme/legal", ("adapter",)), place, said.append)
    assert said[0] == (
        f"rules of the gate that the newest evaluation did not ask: {rule}; finetune evaluate {run.path} asks them"
    )


def test_a_base_that_is_a_folder_has_no_name_until_it_is_told(pico_base: Path, tmp_path: Path) -> None:
    run = made_run(pico_base, tmp_path)
    with pytest.raises(RecipeError, match="no name at the Hub"):
        staged(run)
    files = staged(run, base="acme/pico-base")["adapter"]
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "acme/pico-base"
    assert str(pico_base).encode() not in b"".join(files.values())


def test_an_endpoint_of_a_recipe_gets_no_token_in_the_clear(made: Run, run: Run) -> None:
    append(run.recipe, "")
    run.recipe.write_text(run.recipe.read_text().replace("endpoint: null", "endpoint: http://hub.example.com"))
    with pytest.raises(RecipeError, match="no https"):
        publish(run, Asked("acme/legal"), silent)


# The command


def command(run: Run, hub: Hub, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": WRITER}
    environment |= {"HF_HOME": str(cwd / "hf"), "HF_ENDPOINT": hub.url, "PYTHONPATH": os.pathsep.join(sys.path)}
    line = [sys.executable, "-m", "finetune", "publish", str(run.path), *words]
    return subprocess.run(line, env=environment, capture_output=True, text=True, cwd=cwd)


def test_a_dry_run_lists_all_and_asks_nothing_and_the_command_publishes_it(run: Run, hub: Hub, tmp_path: Path) -> None:
    words = ("--repo", "acme/legal", "--adapter", "--merged", "--json")
    dry = command(run, hub, *words, "--dry-run", cwd=tmp_path)
    assert dry.returncode == 0, dry.stderr
    listed = {each["repo"]: {file["name"] for file in each["files"]} for each in json.loads(dry.stdout)}
    laid = command(run, hub, *words, "--out", str(tmp_path / "laid"), cwd=tmp_path)
    assert laid.stdout == dry.stdout
    told = command(run, hub, *words[:3], "--out", str(tmp_path / "told"), cwd=tmp_path)
    assert told.stdout.splitlines()[-1].endswith(f"laid out in {tmp_path / 'told'}; nothing was sent")
    assert hub.asked == []
    done = command(run, hub, *words, "--quiet", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert {name: set(repo.files) for name, repo in hub.repos.items()} == listed
    assert hub.repos["acme/legal"].files == {
        file.name: file.read_bytes() for file in (tmp_path / "laid" / "legal").iterdir()
    }
    assert json.loads(done.stdout) == publications(run)


def test_folders_are_laid_out_whole_or_not_at_all(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, copytree, copied = tmp_path / "out" / "laid", shutil.copytree, []

    def filling(source: Path, place: Path) -> None:
        copytree(source, place)
        copied.append(place)
        if len(copied) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with staging(run) as place:
        found = prepare(run, Asked("acme/legal"), place, silent)
        monkeypatch.setattr(shutil, "copytree", filling)
        with pytest.raises(DoesNotFit) as refused:
            lay_out(found, out)
        assert refused.value.problems[0].fix.endswith("then give the same command again")
        assert list(out.iterdir()) == []
        lay_out(found, out)
        assert {each.name for each in out.iterdir()} == {"legal-lora", "legal", "legal-GGUF"}
        shutil.rmtree(out / "legal")
        with pytest.raises(ArtifactError, match="this cannot be written") as taken:
            lay_out(found, out)
    assert taken.value.problems[0].where == str(out / "legal-lora")
    assert {each.name for each in out.iterdir()} == {"legal-lora", "legal-GGUF"}


@pytest.mark.parametrize(
    "words", [("--repo", "legal"), ("--gated", "yes"), ("--tag", "a b"), ("--parent", "main"), ("--base-model", "/x")]
)
def test_words_that_the_hub_would_not_take_are_refused_with_a_fix(run: Run, words: tuple[str, str]) -> None:
    refused = CliRunner().invoke(app, ["publish", str(run.path), *words])
    assert isinstance(refused.exception, RecipeError)
    assert refused.exception.problems[0].fix.startswith(words[0])


def test_a_run_whose_recipe_names_no_repository_is_told_to_name_one(run: Run) -> None:
    with pytest.raises(RecipeError, match="no repository is named") as refused:
        publish(run, Asked(), silent)
    assert refused.value.problems[0].fix == "--repo OWNER/small"


# Data sets of the Hub


def test_rows_of_a_data_set_come_from_the_hub_and_then_from_its_cache(hub: Hub, tmp_path: Path) -> None:
    repo = hub.make("acme/rows", "dataset")
    rows = ['{"prompt": "colour 1?", "completion": "blue"}', '{"prompt": "colour 2?", "completion": "red"}']
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n    path: held.jsonl\n---\n"
    commit = repo.add("rows", README__md=card, held__jsonl="\n".join(rows), train__jsonl=rows[0])
    repo.add("later", held__jsonl="broken")
    recipe = tmp_path / "r.yaml"
    told = f"{{hub: acme/rows, split: test, revision: {commit}}}"
    recipe.write_text(f"base: acme/pico-base\ndata:\n  eval: 0\n  train: {told}\n")
    script = (
        "import sys; from pathlib import Path; from finetune.data import read; from finetune.recipe import load\n"
        "print([row.messages[0]['content'] for row, _ in read(load(Path(sys.argv[1]))).rows()])"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": WRITER}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.url, "PYTHONPATH": os.pathsep.join(sys.path)}
    for offline in ("0", "1"):
        environment["HF_HUB_OFFLINE"] = offline
        asked = len(hub.asked)
        got = subprocess.run([sys.executable, "-c", script, recipe], env=environment, capture_output=True, text=True)
        assert got.stdout == "['colour 1?', 'colour 2?']\n", got.stderr
        assert (len(hub.asked) > asked) is (offline == "0")

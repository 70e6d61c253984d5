"""The last look before training: what is refused, what is told, and that each fix is one."""

from __future__ import annotations

import os
import shlex
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from finetune import host
from finetune.cards import CARDS, MIB, parse_gpus
from finetune.errors import DoesNotFit, OutsideError
from finetune.hardware import Hardware, detect, usable_bytes
from finetune.preflight import licence, preflight
from finetune.recipe import Recipe, load

GIB = 2**30


@dataclass(frozen=True)
class Promised:
    """What a preflight reads of a plan; the figures are those of the 27B on a card of 24 GB, rounded."""

    device: str = "cuda"
    peak_bytes: int = 19 * GIB
    host_bytes: int = GIB
    disk_bytes: dict[str, int] = field(default_factory=lambda: {"checkpoints": 3 * MIB, "adapter": MIB})
    kernels: bool = True
    rule_kernel: bool = False


CARD = Hardware(
    gpus=("NVIDIA GeForce RTX 4090",),
    gpu_bytes=24564 * MIB,
    host_bytes=64 * GIB,
    card=CARDS["rtx4090"],
    gpu_free_bytes=23900 * MIB,
    host_free_bytes=60 * GIB,
    disk_free_bytes=900 * GIB,
    kernels=True,
    compute_capability=(8, 9),
)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Hi", "completion": "Hello"}\n')
    (tmp_path / "legal.yaml").write_text("base: Qwen/Qwen3.6-27B\ndata: {train: rows.jsonl}\n")
    return load(Path("legal.yaml"), [])


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "LICENSE").write_text(
        "\n                                 Apache License\n                           Version 2.0"
    )
    return folder


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a program in nvidia-smi's place tell who holds the card."""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    card = "GPU-aa11, NVIDIA GeForce RTX 4090, 24564, 14000, 8.9, 580.95.05, [N/A]"
    apps = f"GPU-aa11, 4242, 9000, /usr/bin/ollama\\nGPU-aa11, {os.getpid()}, 500, python\\nGPU-cc, 7, 20000, other"
    smi.write_text(f"#!/bin/sh\ncase \"$1\" in --query-gpu*) echo '{card}';; *) printf '{apps}\\n';; esac\n")
    smi.chmod(smi.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{smi.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_training_that_fits_is_told_in_lines_that_are_all_ok(recipe: Recipe, base: Path, tmp_path: Path) -> None:
    checks = preflight(Promised(), CARD, tmp_path / "runs", base, recipe)
    assert {check.name: check.state for check in checks} == {
        "GPU memory": "ok",
        "host memory": "ok",
        "disk": "ok",
        "Gated DeltaNet": "ok",
        "packages": "ok",
        "licence": "ok",
    }


def test_who_holds_the_card_is_named_with_the_command_that_frees_it(
    recipe: Recipe, base: Path, tmp_path: Path, held: None
) -> None:
    hardware = detect()
    with pytest.raises(DoesNotFit) as caught:
        preflight(Promised(), replace(CARD, gpu_free_bytes=hardware.gpu_free_bytes), tmp_path, base, recipe)
    (problem,) = caught.value.problems
    assert problem.what == "training needs 19.0 GiB of GPU memory; 14.2 GiB are free"  # ours, 500 MiB, counts as free
    assert problem.where == "NVIDIA GeForce RTX 4090"
    assert problem.why == "process 4242 (ollama) holds 8.8 GiB"
    assert problem.fix == "kill 4242   # ollama, if it is yours"


def test_what_this_process_holds_itself_is_free(recipe: Recipe, base: Path, tmp_path: Path, held: None) -> None:
    plan = Promised(peak_bytes=14400 * MIB)
    checks = preflight(plan, replace(CARD, gpu_free_bytes=14000 * MIB), tmp_path, base, recipe)
    assert checks[0].told == "14.1 GiB needed, 14.2 GiB free"


def test_when_nobody_can_be_ended_the_fix_plans_for_what_is_free(
    recipe: Recipe, base: Path, tmp_path: Path, held: None
) -> None:
    plan = Promised(peak_bytes=40 * GIB)
    with pytest.raises(DoesNotFit) as caught:
        preflight(plan, replace(CARD, gpu_free_bytes=14000 * MIB), tmp_path, base, recipe)
    fix = caught.value.problems[0].fix
    assert fix == "finetune plan legal.yaml --gpu 14.6GB   # what fits into it"
    card, _ = parse_gpus(fix.split("--gpu ")[1].split()[0])
    assert usable_bytes(card.memory_bytes) == pytest.approx(14500 * MIB, rel=0.004)  # the size is written in tenths


def test_for_less_than_a_card_has_nothing_is_planned(recipe: Recipe, base: Path, tmp_path: Path, held: None) -> None:
    with pytest.raises(DoesNotFit) as caught:
        preflight(Promised(peak_bytes=40 * GIB), replace(CARD, gpu_free_bytes=9 * MIB), tmp_path, base, recipe)
    assert caught.value.problems[0].fix == "nvidia-smi   # shows who holds the rest"


def test_the_fix_repeats_what_was_typed(base: Path, tmp_path: Path, held: None) -> None:
    file = tmp_path / "my a:b.yaml"
    file.write_text("base: Qwen/Qwen3.6-27B\nlora: {rank: 4}\ndata: {train: rows.jsonl}\n")
    typed = load(file, ["lora.rank=8", "lora.targets=[mlp]"])
    with pytest.raises(DoesNotFit) as caught:
        preflight(Promised(peak_bytes=40 * GIB), replace(CARD, gpu_free_bytes=14000 * MIB), tmp_path, base, typed)
    words = shlex.split(caught.value.problems[0].fix, comments=True)
    assert words[2:-2] == [str(file), "--set", "lora.rank=8", "--set", "lora.targets=[mlp]"]


def test_a_driver_that_tells_no_free_memory_refuses_nothing(recipe: Recipe, base: Path, tmp_path: Path) -> None:
    checks = preflight(Promised(), replace(CARD, gpu_free_bytes=0), tmp_path, base, recipe)
    assert "does not tell what is free" in checks[0].told


def test_host_memory_that_others_hold_is_refused(recipe: Recipe, base: Path, tmp_path: Path) -> None:
    for plan, hardware in (
        (Promised(host_bytes=61 * GIB), CARD),
        (Promised(device="cpu", peak_bytes=61 * GIB, kernels=False), replace(CARD, gpus=())),
    ):
        with pytest.raises(DoesNotFit) as caught:
            preflight(plan, hardware, tmp_path, base, recipe)
        assert caught.value.problems[0].what == "training needs 61.0 GiB of host memory; 60.0 GiB can be had"


def test_a_disk_without_room_for_checkpoints_is_refused(recipe: Recipe, base: Path, tmp_path: Path) -> None:
    free = host.disk_free_bytes(tmp_path)
    plan = Promised(disk_bytes={"checkpoints": free, "adapter": GIB})
    with pytest.raises(DoesNotFit) as caught:
        preflight(plan, CARD, tmp_path / "runs", base, recipe)
    (problem,) = caught.value.problems
    assert problem.fix == "finetune train legal.yaml --runs /a/larger/disk/runs"
    assert "checkpoints" in problem.why
    assert problem.where == str(tmp_path / "runs")
    preflight(plan, CARD, tmp_path, base, recipe, written_bytes=2 * GIB)  # resumed: they are on disk already


def test_a_disk_without_room_for_later_stages_is_only_told(recipe: Recipe, base: Path, tmp_path: Path) -> None:
    plan = Promised(disk_bytes={"checkpoints": MIB, "adapter": MIB, "merge": 2**60, "gguf": MIB})
    (told,) = [check for check in preflight(plan, CARD, tmp_path, base, recipe) if check.state != "ok"]
    assert (told.name, told.state) == ("disk of later stages", "slow")
    assert told.told.endswith(f"too little for merge {2**30:,}.0 GiB")


def test_kernels_that_the_plan_counts_on_must_be_there(recipe: Recipe, base: Path, tmp_path: Path) -> None:
    with pytest.raises(OutsideError) as caught:
        preflight(Promised(), replace(CARD, kernels=False), tmp_path, base, recipe)
    assert caught.value.exit_code == 5
    assert "causal-conv1d" in caught.value.problems[0].fix


def test_a_plan_without_kernels_is_told_loudly_to_be_slow(recipe: Recipe, base: Path, tmp_path: Path) -> None:
    checks = preflight(Promised(kernels=False), replace(CARD, kernels=False), tmp_path, base, recipe)
    (slow,) = [check for check in checks if check.state == "slow"]
    assert slow.told.startswith("SLOW: without fla and causal_conv1d three of four layers run on the torch reference")


@pytest.mark.parametrize(
    ("file", "text", "state", "told"),
    [
        ("LICENSE", "Apache License\n   Version 2.0, January 2004", "ok", "Apache-2.0 (LICENSE of the base)"),
        ("LICENSE.txt", "MIT License\nCopyright", "ok", "MIT (LICENSE.txt of the base)"),
        ("LICENSE", "Qwen LICENSE AGREEMENT", "ok", "Qwen licence, with terms of its own (LICENSE of the base)"),
        ("README.md", "---\nlicense: apache-2.0\ntags: [x]\n---\n# M", "ok", "apache-2.0 (README.md of the base)"),
        ("README.md", '---\nlicense: other\nlicense_name: "qwen"\n---\n', "ok", "qwen (README.md of the base)"),
        ("README.md", "license: apache-2.0", "slow", "unknown: the base's files name none that is known here"),
        ("LICENSE", "All rights reserved", "slow", "unknown: the base's files name none that is known here"),
        ("config.json", "{}", "slow", "unknown: the base's files name none that is known here"),
    ],
)
def test_the_licence_is_read_from_the_bases_files(file: str, text: str, state: str, told: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    check = licence(tmp_path)
    assert (check.state, check.told, "\n" in check.fix) == (state, told, False)


def test_a_folder_of_ones_own_needs_no_licence(tmp_path: Path) -> None:
    assert licence(tmp_path, own=True).state == "absent"

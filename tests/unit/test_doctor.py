"""What the doctor says of machines, most of them not this one."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.cards import CARDS
from finetune.doctor import is_healthy, render
from finetune.hardware import ALLOCATOR_VARIABLES, Hardware
from finetune.probes import Check, gpu, hub, machine, packages, trials
from finetune.trial import MARK, TRIALS

NO_GPU = Hardware((), 0, 2**36)
RTX4090 = Hardware(("NVIDIA GeForce RTX 4090",), 24 * 2**30, 2**36, CARDS["rtx4090"], compute_capability=(8, 9))
T4 = Hardware(("Tesla T4",), 15 * 2**30, 2**36, CARDS["t4"], compute_capability=(7, 5))
CUDA = {"version": "2.13.0", "cuda": "13.0", "gpu": True, "nccl": "2.29.3"}


def test_every_trial_is_one_that_the_doctor_makes() -> None:
    from finetune import doctor as room

    assert {*room.ON_A_GPU, "torch", "bitsandbytes", "deepspeed", "hub"} == set(TRIALS)
    assert trials.MARK == MARK


def test_trials_that_take_too_long_are_all_told() -> None:
    told = trials.run(["torch", "deepspeed"], "cpu", seconds=0.05)
    assert "gave no answer within" in str(told["torch"])
    assert "was not tried" in str(told["deepspeed"])


@pytest.mark.parametrize(
    ("check", "state", "told"),
    [
        (gpu.driver(replace(NO_GPU, trouble="nvidia-smi gave no answer within 30 s")), "broken", "no answer"),
        (gpu.driver(replace(NO_GPU, trouble="nvidia-smi ended with exit code 9")), "broken", "exit code 9"),
        (gpu.gpus(NO_GPU), "absent", "toys"),
        (gpu.gpus(RTX4090), "ok", "1 x NVIDIA GeForce RTX 4090, 24.0 GiB"),
        (gpu.bf16(RTX4090), "ok", "8.9"),
        (gpu.bf16(T4), "slow", "7.5 has no bf16 units"),
        (gpu.bf16(NO_GPU), "absent", "float32"),
        (trials.torch("ImportError: libcudart", RTX4090), "broken", "libcudart"),
        (trials.torch({**CUDA, "cuda": None, "gpu": False}, NO_GPU), "ok", "without CUDA"),
        (trials.torch({**CUDA, "cuda": None, "gpu": False}, RTX4090), "broken", "cannot use the GPU"),
        (trials.torch({**CUDA, "gpu": False}, RTX4090), "broken", "does not see the GPU"),
        (trials.torch(CUDA, RTX4090), "ok", "built for CUDA 13.0, computes on the GPU"),
        (trials.nccl(CUDA), "ok", "2.29.3"),
        (trials.nccl({"version": "2.13.0"}), "absent", "comes with"),
        (trials.attention({"finite": True}), "ok", "forth and back"),
        (trials.attention({"finite": False}), "broken", "not finite"),
        (trials.attention("RuntimeError: No available kernel"), "slow", "No available kernel"),
        (trials.attention(None), "absent", "no GPU"),
        (trials.pinned({"bytes_per_second": 24e9}, RTX4090), "ok", "24.0 GB/s"),
        (trials.pinned({"bytes_per_second": 6e9}, RTX4090), "slow", "the plan counts on 25"),
        (trials.pinned("RuntimeError: CUDA error: out of memory", RTX4090), "broken", "out of memory"),
        (trials.bitsandbytes({"device": "cuda", "error": 0.092}), "ok", "0.092"),
        (trials.bitsandbytes({"device": "cuda", "error": 0.9}), "broken", "of 0.09 expected"),
        (trials.bitsandbytes({"device": "cuda", "error": float("nan")}), "broken", "nan"),
        (trials.bitsandbytes("python was ended by SIGSEGV"), "broken", "SIGSEGV"),
        (trials.deepspeed(None), "absent", "one GPU needs none"),
        (trials.deepspeed("ImportError: x"), "broken", "ImportError: x"),
        (trials.gated_deltanet([Check("fla", "ok", "")], RTX4090), "ok", "fast kernels"),
        (trials.gated_deltanet([Check("fla", "slow", "", "mend")], NO_GPU), "absent", "right and slow"),
    ],
)
def test_a_state_is_told_with_a_fix_of_one_line(check: Check, state: str, told: str) -> None:
    assert check.state == state
    assert told in check.told
    assert "\n" not in check.told + check.fix
    assert bool(check.fix) == (state in ("slow", "broken")) or state == "absent"


def test_a_machine_without_gpu_is_no_broken_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    check = gpu.driver(NO_GPU)
    assert (check.state, check.fix) == ("absent", "unset CUDA_VISIBLE_DEVICES")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if not gpu._on_the_bus():
        assert gpu.driver(NO_GPU).told == "no NVIDIA GPU: training runs on the CPU, for toys"


@pytest.mark.skipif(
    any(packages.version_of(name) for name in ("flash-linear-attention", "causal-conv1d")),
    reason="the kernels are installed",
)
def test_a_choice_of_gpus_that_leaves_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    check = gpu.driver(NO_GPU)
    assert (check.state, check.fix) == ("absent", "unset CUDA_VISIBLE_DEVICES")
    assert "CUDA_VISIBLE_DEVICES=7 hides every GPU" in check.told


def test_missing_kernels_are_slow_on_a_gpu_and_nothing_without_one() -> None:
    for hardware, state in ((NO_GPU, "absent"), (RTX4090, "slow")):
        checks = [trials.fla(None, hardware), trials.causal_conv1d(None, hardware)]
        assert [(check.state, check.told) for check in checks] == [(state, "not installed")] * 2
        assert trials.gated_deltanet(checks, hardware).state == state


def test_the_slow_reference_of_gated_deltanet_is_said_loudly() -> None:
    here, gone = Check("causal_conv1d", "ok", ""), Check("fla", "slow", "not installed", "pip install fla-core")
    check = trials.gated_deltanet([gone, here], RTX4090)
    assert check.told.startswith("SLOW: without fla three of four layers run on the torch reference")
    assert check.fix == "pip install fla-core"


def test_a_convolution_in_torch_is_told_for_what_it_is() -> None:
    gone = Check("causal_conv1d", "slow", "not installed", "pip install causal-conv1d")
    check = trials.gated_deltanet([Check("fla", "ok", ""), gone], RTX4090)
    assert (check.state, check.fix) == ("slow", gone.fix)
    assert check.told.startswith("its rule runs on fla, the convolution before it in torch")


@pytest.mark.parametrize(
    ("triton", "capability", "wrong"),
    [
        ("3.3.1", (9, 0), False),
        ("3.4.0", (9, 0), True),
        ("3.6.0", (9, 0), True),
        ("3.7.0+git1", (9, 0), True),
        ("3.7.1", (9, 0), False),
        ("3.9.0", (9, 0), False),
        ("3.6.0", (8, 9), False),
        ("3.6.0", (10, 0), False),
        ("3.6.0", None, False),
    ],
)
def test_the_tritons_that_miscompile_on_hopper_are_those_that_fla_refuses(
    triton: str, capability: tuple[int, int] | None, wrong: bool
) -> None:
    assert trials.is_miscompiled(triton, capability) is wrong


def test_a_lock_of_a_killed_build_is_told_with_the_command_that_removes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert machine.builds().state == "ok"
    lock = tmp_path / "py311_cu130" / "it's one" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    assert (machine.builds().state, machine.builds().told) == ("ok", "it's one is being built now")
    os.utime(lock, (time.time() - 7200, time.time() - 7200))
    check = machine.builds()
    assert check.state == "broken"
    assert "120 minutes old" in check.told
    subprocess.run(check.fix, shell=True, check=True)
    assert machine.builds().state == "ok"


def test_an_allocator_that_may_not_grow_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ALLOCATOR_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert machine.allocator().state == "ok"
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128")
    assert (machine.allocator().state, machine.allocator().fix) == ("slow", "unset PYTORCH_CUDA_ALLOC_CONF")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128, expandable_segments: True")
    assert machine.allocator().state == "ok"


def test_a_token_is_seen_and_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*hub.TOKEN_VARIABLES, "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert hub.token(None).state == "absent"
    (tmp_path / "token").write_text("secret-of-mine")
    assert hub.token(None).state == "ok"
    assert "secret-of-mine" not in hub.token(None).told
    told = hub.token({"name": "ada", "role": "write"})
    assert told.told == f"ada's, in {tmp_path / 'token'}, permits write"
    assert hub.token("HfHubHTTPError: 401").state == "broken"


def test_a_full_or_closed_disk_is_told(tmp_path: Path) -> None:
    assert machine.disk(Path("/proc/self")).state == "broken"  # nobody writes there
    assert machine.disk(tmp_path).state in ("ok", "slow")


def test_this_installation_is_within_its_ranges() -> None:
    assert list(packages.outside_ranges()) == []
    assert packages.versions().state == "ok"


def test_a_report_aligns_and_colours_only_when_asked() -> None:
    checks = [Check("a", "ok", "fine"), Check("longer", "broken", "gone", "mend it"), Check("b", "slow", "so so")]
    assert render(checks).splitlines() == [
        "ok      a       fine",
        "broken  longer  gone",
        "                fix: mend it",
        "slow    b       so so",
        "",
        "1 broken, 1 slow, 1 ok, 0 absent",
    ]
    assert "\x1b[31;1mbroken\x1b[0m  longer  gone" in render(checks, colour=True)
    assert not is_healthy(checks)
    assert is_healthy([checks[0], checks[2]])

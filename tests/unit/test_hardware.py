"""What the driver says, and what is made of it: a program in nvidia-smi's place prints what real ones print."""

from __future__ import annotations

import os
import stat
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from finetune import host, nvidia
from finetune.asking import ask
from finetune.cards import CARDS, MIB
from finetune.errors import OutsideError, RecipeError
from finetune.hardware import (
    ALLOCATOR_VARIABLES,
    CONTEXT_BYTES,
    GROWING,
    LAUNCHED,
    MEETING,
    Hardware,
    check_launched,
    detect,
    plannable_bytes,
    usable_bytes,
    use_gpus,
    use_growing_segments,
    wished,
    with_processes,
)

RTX4090 = "GPU-aa11, NVIDIA GeForce RTX 4090, 24564, 23900, 8.9, 580.95.05, [N/A]"
H100S = "\n".join(f"GPU-{n}0, NVIDIA H100 80GB HBM3, 81559, {81000 - n}, 9.0, 580.95.05, Disabled" for n in range(8))
SLICED = "GPU-5d, NVIDIA A100-SXM4-40GB, [Insufficient Permissions], [N/A], 8.0, 570.1, Enabled"
SLICES = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d)
  MIG 3g.20gb     Device  0: (UUID: MIG-e0)
  MIG 1g.5gb      Device  1: (UUID: MIG-f1)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-6e)
  MIG 2g.10gb     Device  0: (UUID: MIG-a7)"""
GB10 = "GPU-b0, NVIDIA GB10, [N/A], [N/A], 12.1, 580.126.09, [N/A]"


class SmiMaker:
    """Writes a program that answers in nvidia-smi's place, each question its own text."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "nvidia-smi"

    def says(self, query: str = "", listing: str = "", apps: str = "", plain: str = "", code: int = 0) -> None:
        answers = {"query": query, "listing": listing, "apps": apps, "plain": plain}
        for name, text in answers.items():
            (self.file.parent / name).write_text(text)
        here = self.file.parent
        self.runs(
            f'case "$1" in --query-gpu*) cat "{here}/query";; -L) cat "{here}/listing";;'
            f' --query-compute*) cat "{here}/apps";; *) cat "{here}/plain";; esac; exit {code}'
        )

    def runs(self, script: str, shebang: str = "#!/bin/sh") -> None:
        self.file.write_text(f"{shebang}\n{script}\n")
        self.file.chmod(self.file.stat().st_mode | stat.S_IEXEC)


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmiMaker:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return SmiMaker(tmp_path)


def test_one_card_is_found_with_its_speed_and_what_is_free(smi: SmiMaker) -> None:
    smi.says(RTX4090)
    found = detect()
    assert (found.gpus, found.gpu_bytes, found.gpu_free_bytes) == (
        ("NVIDIA GeForce RTX 4090",),
        24564 * MIB,
        23900 * MIB,
    )
    assert (found.card, found.compute_capability, found.device) == (CARDS["rtx4090"], (8, 9), "cuda")
    assert plannable_bytes(found) == usable_bytes(24564 * MIB)


def test_a_training_never_plans_with_more_than_is_free(smi: SmiMaker) -> None:
    smi.says(RTX4090.replace("23900", "9000"))
    assert plannable_bytes(detect()) == 9000 * MIB


def test_of_several_cards_the_smallest_decides(smi: SmiMaker) -> None:
    smi.says(f"{H100S}\n{RTX4090}\nWARNING: infoROM is corrupted at gpu 0000:00:1E.0")
    found = detect()
    assert (len(found.gpus), found.gpu_bytes, found.gpu_free_bytes) == (9, 24564 * MIB, 23900 * MIB)
    assert found.card == CARDS["rtx4090"]


@pytest.mark.parametrize(
    ("visible", "free"),
    [
        ("3", [80997]),
        ("1,0", [80999, 81000]),
        ("GPU-20", [80998]),
        (" 7 , GPU-60", [80993, 80994]),
        ("2,-1,3", [80998]),  # CUDA reads up to the first that is no GPU
        ("GPU-", []),  # the beginning of several
        ("8", []),
        ("all", []),
        ("", []),
        ("-1", []),
        ("0,0", [81000]),
        ("²", []),
    ],
)
def test_cuda_visible_devices_chooses_as_cuda_does(
    visible: str, free: list[int], smi: SmiMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi.says(H100S)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.free_bytes for gpu in nvidia.look().gpus] == [mib * MIB for mib in free]
    assert detect().device == ("cuda" if free else "cpu")


@pytest.mark.parametrize(("visible", "gib"), [(None, 20), ("0", 20), ("1", 5), ("MIG-f1", 5), ("MIG-f1,MIG-e0", 5)])
def test_a_process_gets_one_slice_of_a_divided_gpu(
    visible: str | None, gib: int, smi: SmiMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi.says(SLICED, listing=SLICES)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = detect()
    assert found.gpus == (f"NVIDIA A100-SXM4-40GB MIG {gib}GB",)
    assert (found.gpu_bytes, found.gpu_free_bytes) == (int(0.95 * gib * 2**30), 0)


def test_a_gpu_without_memory_of_its_own_has_the_hosts(smi: SmiMaker) -> None:
    smi.says(GB10)
    found = detect()
    assert (found.gpus, found.gpu_bytes) == (("NVIDIA GB10",), host.total_bytes())
    assert 0 < found.gpu_free_bytes <= host.total_bytes()


@pytest.mark.parametrize(
    ("query", "code", "told"),
    [
        ("", 0, "it said nothing"),
        ("No devices were found", 0, "No devices were found"),
        ("Failed to initialize NVML: Driver/library version mismatch", 18, "exit code 18: Failed to initialize NVML"),
        ("\x00\xff garbage, , ,\n,,,", 0, "names no GPU"),
        (RTX4090.replace("24564", "[Unknown Error]"), 0, "does not tell the memory of NVIDIA GeForce RTX 4090"),
        (RTX4090.replace("24564", "²"), 0, "does not tell the memory"),
        (RTX4090.replace("24564", "9" * 5000), 0, "does not tell the memory"),
        (SLICED, 0, "names no GPU"),  # divided, but no slice was made
    ],
)
def test_a_driver_in_trouble_is_a_machine_without_gpu_that_says_why(
    query: str, code: int, told: str, smi: SmiMaker
) -> None:
    smi.says(query, code=code)
    found = detect()
    assert (found.gpus, found.gpu_bytes, found.card) == ((), 0, None)
    assert told in found.trouble


@pytest.mark.parametrize("cell", range(7))
def test_any_cell_may_be_missing(cell: int, smi: SmiMaker) -> None:
    cells = RTX4090.split(", ")
    cells[cell] = "[N/A]"
    smi.says(", ".join(cells))
    assert len(detect().gpus) == 1


def test_a_driver_that_hangs_is_left_with_all_its_children(smi: SmiMaker) -> None:
    smi.runs("sleep 60 & sleep 60")
    began = time.monotonic()
    told = nvidia.look(seconds=0.3).trouble
    assert time.monotonic() - began < 5
    assert told == "nvidia-smi gave no answer within 0.3 s"


def test_a_program_that_is_none_is_told(smi: SmiMaker) -> None:
    smi.runs("", shebang="#!/no/such/shell")
    assert "cannot be run" in detect().trouble


def test_without_a_driver_there_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = detect()
    assert (found.gpus, found.trouble, found.device) == ((), "", "cpu")
    assert 0 < found.host_free_bytes <= found.host_bytes
    assert found.disk_free_bytes > 0


def test_holders_are_those_of_our_gpus_largest_first(smi: SmiMaker) -> None:
    lines = (
        "aa11, 11, 300, /usr/bin/a, b",
        "bb22, 12, 9000, x",
        "aa11, 13, 2048, python",
        "aa11, 14, [N/A], y",
        f"aa11, {'9' * 5000}, 1, z",
    )
    smi.says(apps="\n".join(f"GPU-{line}" for line in lines))
    found = nvidia.holders(["GPU-aa11"])
    assert [(holder.pid, holder.used_bytes // MIB, holder.name) for holder in found] == [
        (13, 2048, "python"),
        (11, 300, "a, b"),
        (14, 0, "y"),
    ]
    assert str(found[0]) == "process 13 (python) holds 2.0 GiB"


@pytest.mark.parametrize(
    ("plain", "version"),
    [
        ("| NVIDIA-SMI 580.95  Driver Version: 580.95  CUDA Version: 13.0 |", "13.0"),
        ("| NVIDIA-SMI 610.57  KMD Version: 610.57  CUDA UMD Version: 13.3 |", "13.3"),
        ("CUDA Version: N/A", ""),
    ],
)
def test_the_newest_cuda_of_a_driver_is_read(plain: str, version: str, smi: SmiMaker) -> None:
    smi.says(plain=plain)
    assert nvidia.cuda_version() == version


@pytest.mark.parametrize(("mib", "gib"), [(24564, 22.8), (24576, 22.8), (23028, 21.4), (23034, 21.4)])
def test_a_card_of_24_gb_leaves_pytorch_what_was_published(mib: int, gib: float) -> None:
    # 0.1 GiB: the published figures are rounded so
    assert (usable_bytes(mib * MIB) - CONTEXT_BYTES) / 2**30 == pytest.approx(gib, abs=0.1)


def test_a_wish_has_the_gpus_of_the_catalogue_and_the_rest_of_this_machine() -> None:
    found = wished("h100x8")
    assert (found.gpus, found.gpu_bytes, found.card) == (("h100",) * 8, 81559 * MIB, CARDS["h100"])
    assert (found.kernels, found.gpu_free_bytes, found.host_bytes) == (True, 0, host.total_bytes())
    assert plannable_bytes(found) == usable_bytes(81559 * MIB)


def test_a_wish_for_no_gpu_is_a_cpu() -> None:
    assert wished(" CPU ").device == wished("none").device == "cpu"


def test_three_words_still_make_a_hardware() -> None:
    assert Hardware(("NVIDIA A10",), 23028 * MIB, 64 * 2**30).device == "cuda"


def test_the_tightest_control_group_binds(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    inner = groups / "pod" / "task"
    inner.mkdir(parents=True)
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("0::/pod/task\n")
    mib = 2**20
    for folder, most, used, idle in ((inner, "max", 5, 0), (groups / "pod", str(512 * mib), 200 * mib, 50 * mib)):
        (folder / "memory.max").write_text(most + "\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {idle}\n")
    assert host.limits(proc, groups) == [(512 * mib, 362 * mib)]


def test_a_control_group_of_version_1_that_the_container_hides_is_read_at_its_root(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("4:cpu,cpuacct:/x\n3:memory:/docker/abc\n0::/\n")
    (groups / "memory").mkdir(parents=True)
    (groups / "memory" / "memory.limit_in_bytes").write_text(f"{2**30}")
    (groups / "memory" / "memory.usage_in_bytes").write_text(f"{2**29}")
    assert host.limits(proc, groups) == [(2**30, 2**29)]


def test_no_control_group_is_no_limit(tmp_path: Path) -> None:
    assert host.limits(tmp_path, tmp_path) == []


def test_disk_is_asked_where_a_folder_will_lie(tmp_path: Path) -> None:
    assert host.disk_free_bytes(tmp_path / "not" / "yet") > 0


def test_an_answer_keeps_what_was_said_before_the_end() -> None:
    script = "import sys, os; print('half', flush=True); print('why', file=sys.stderr, flush=True); os.abort()"
    answer = ask([sys.executable, "-c", script], 20)
    assert answer.out == "half\n"
    assert answer.trouble.endswith("was ended by SIGABRT: why")


def test_cuda_numbers_gpus_as_the_driver_does_and_one_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", *LAUNCHED):
        monkeypatch.setenv(name, "")  # so that what is set here is taken back
        monkeypatch.delenv(name)
    use_gpus()
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["CUDA_DEVICE_ORDER"]) == ("0", "PCI_BUS_ID")


@pytest.mark.parametrize(
    ("visible", "count", "shown"),
    [("2,3,5", 2, "2,3"), ("2,3,5", 1, "2"), ("GPU-aa11", 1, "GPU-aa11"), ("", 2, ""), ("-1", 1, "-1")],
)
def test_of_the_gpus_that_somebody_chose_the_first_are_shown(
    monkeypatch: pytest.MonkeyPatch, visible: str, count: int, shown: str
) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    use_gpus(count)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == shown
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    use_gpus(1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1", "each of those that were started takes its own"


def test_a_process_trains_on_each_gpu_unless_fewer_are_asked_for(
    smi: SmiMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    smi.says(H100S)
    found = detect()
    assert (found.processes, len(found.gpus)) == (8, 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    assert detect().processes == 2
    monkeypatch.setenv("WORLD_SIZE", "16")
    assert detect().processes == 16
    assert replace(with_processes(found, 4), gpus=()) == replace(found, gpus=(), processes=4)
    with pytest.raises(RecipeError, match="9 processes cannot train here") as told:
        with_processes(found, 9)
    assert told.value.problems[0].fix == "--processes 8"


def test_an_allocator_that_somebody_set_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ALLOCATOR_VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    use_growing_segments()
    assert [os.environ.get(name) for name in ALLOCATOR_VARIABLES] == [GROWING, None]
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    use_growing_segments()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "max_split_size_mb:64"


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ("WORLD_SIZE=2", "RANK is missing"),
        ("WORLD_SIZE=2 RANK=0 LOCAL_RANK=0", "MASTER_ADDR is missing"),
        ("WORLD_SIZE=abc", "WORLD_SIZE is no place"),
        ("WORLD_SIZE=0", "WORLD_SIZE is no place"),
        ("LOCAL_RANK=-1", "LOCAL_RANK is no place"),
        ("RANK=1", "WORLD_SIZE is missing"),
        ("WORLD_SIZE=2 RANK=2 LOCAL_RANK=0 MASTER_ADDR=a MASTER_PORT=1", "RANK is no place"),
        ("WORLD_SIZE=2 RANK=1 LOCAL_RANK=1 MASTER_ADDR=a MASTER_PORT=1", ""),
        ("WORLD_SIZE=1 RANK=0", ""),
        ("MASTER_ADDR=a", ""),
    ],
)
def test_what_a_launcher_left_out_or_got_wrong_is_told(told: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LAUNCHED, *MEETING):
        monkeypatch.delenv(name, raising=False)
    for word in told.split():
        monkeypatch.setenv(*word.split("="))
    with pytest.raises(OutsideError, match=wrong) if wrong else nullcontext():
        check_launched()

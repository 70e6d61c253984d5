"""The quantised cache gives the very bits of a cold load; interrupted, damaged or of other settings, it is not used."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial.planned import plan_on_cpu

from finetune.model import cache as caching
from finetune.model import frozen_sha256, load_base
from finetune.plan import Plan
from finetune.shards import shards

WRITTEN = "the quantised base is written down for the next start"
REMOVED = "the quantised cache is removed and made again"


@pytest.fixture(scope="module")
def plan(pico_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return plan_on_cpu(pico_base, tmp_path_factory.mktemp("plan"))


@pytest.fixture(autouse=True)
def several_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a cache of this size has the five files or so of a real one."""
    monkeypatch.setattr(caching, "FILE_BYTES", 60_000)


def every_bit(model: Any) -> str:
    """Hashes all weights and quantisation states, none of which is trained here."""
    return frozen_sha256(model.requires_grad_(False))


class Loaded:
    """A load through the cache: the model, what was said, and the bytes that were read."""

    def __init__(self, base: Path, plan: Plan, cache: Path) -> None:
        self.said: list[str] = []
        self.bytes = 0
        self.model = load_base(base, plan, cache=cache, progress=self._progress, say=self.said.append)
        self.trainable = {name: p.requires_grad for name, p in self.model.named_parameters()}
        self.sha256 = every_bit(self.model)

    def _progress(self, done: int, whole: int) -> None:
        assert done <= whole
        self.bytes = done

    @property
    def was_cached(self) -> bool:
        return self.said == []


def entry(cache: Path) -> Path:
    """The one folder that is neither hidden nor missing."""
    (found,) = [path for path in cache.iterdir() if not path.name.startswith(".")]
    return found


@pytest.mark.parametrize(
    ("base", "head"),
    [
        ("pico_base", "full"),
        ("pico_base", "int8"),
        ("pico_base", "nf4"),
        ("pico_tied_base", "full"),
        ("pico_moe_base", "full"),
    ],
)
def test_the_second_start_has_the_bits_of_the_first(
    base: str, head: Any, plan: Plan, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(base)
    plan = replace(plan, choices=replace(plan.choices, head=head))
    without = load_base(folder, plan)
    first, second = Loaded(folder, plan, tmp_path / "cache"), Loaded(folder, plan, tmp_path / "cache")
    assert [line.partition(":")[0] for line in first.said] == [WRITTEN]
    assert second.was_cached
    assert [(n, type(m)) for n, m in second.model.named_modules()] == [(n, type(m)) for n, m in without.named_modules()]
    assert second.trainable == first.trainable == {n: p.requires_grad for n, p in without.named_parameters()}
    assert first.sha256 == second.sha256 == every_bit(without)
    held = without.state_dict()
    if "tied" in base:
        del held["lm_head.weight"]
    assert second.bytes == sum(tensor.numel() * tensor.element_size() for tensor in held.values())


def test_where_the_embedding_lies_does_not_matter_to_the_cache(pico_base: Path, plan: Plan, tmp_path: Path) -> None:
    first = Loaded(pico_base, plan, tmp_path)
    on_host = replace(plan, choices=replace(plan.choices, embeddings="host"))
    second = Loaded(pico_base, on_host, tmp_path)
    assert second.was_cached
    assert first.sha256 == second.sha256


def test_the_files_are_small_safetensors_in_the_order_of_the_layers(
    pico_base: Path, plan: Plan, tmp_path: Path
) -> None:
    Loaded(pico_base, plan, tmp_path)
    files = sorted(entry(tmp_path).glob("*.safetensors"))
    assert len(files) > 4
    names = []
    for file in files:
        with safe_open(file, framework="pt") as opened:
            names.append(sorted(opened.keys()))
    layers = [sorted({int(n.split(".")[2]) for n in group if n.startswith("model.layers.")}) for group in names]
    flat = [layer for group in layers for layer in group]
    assert flat == sorted(flat)
    assert {*flat} == {0, 1, 2, 3}


OTHER: dict[str, Callable[[Plan], Plan]] = {
    "dtype": lambda plan: replace(plan, dtype="bfloat16"),
    "unquantised": lambda plan: replace(plan, unquantised=plan.unquantised[:-1]),
    "head": lambda plan: replace(plan, choices=replace(plan.choices, head="int8")),
}


@pytest.mark.parametrize("what", OTHER)
def test_other_settings_have_another_cache(pico_base: Path, plan: Plan, tmp_path: Path, what: str) -> None:
    first = Loaded(pico_base, plan, tmp_path)
    assert not Loaded(pico_base, OTHER[what](plan), tmp_path).was_cached
    again = Loaded(pico_base, plan, tmp_path)
    assert again.was_cached
    assert again.sha256 == first.sha256


def test_another_base_has_another_cache(pico_base: Path, plan: Plan, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(pico_base, base)
    Loaded(base, plan, tmp_path / "cache")
    config = json.loads((base / "config.json").read_text())
    config["text_config"]["rms_norm_eps"] = 1e-5
    (base / "config.json").write_text(json.dumps(config))
    assert not Loaded(base, plan, tmp_path / "cache").was_cached


def test_weights_that_were_written_since_are_not_those_of_the_cache(
    pico_base: Path, plan: Plan, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(pico_base, base)
    Loaded(base, plan, tmp_path / "cache")
    assert Loaded(base, plan, tmp_path / "cache").was_cached
    os.utime(shards(base)[0])  # a change between two samples shows nowhere else
    assert not Loaded(base, plan, tmp_path / "cache").was_cached


def test_a_plan_without_quantisation_keeps_no_copy(pico_base: Path, plan: Plan, tmp_path: Path) -> None:
    plain = replace(plan, method="lora", quantisation=None, unquantised=())
    assert Loaded(pico_base, plain, tmp_path / "cache").was_cached
    assert not (tmp_path / "cache").exists()


def first_file(folder: Path) -> Path:
    return folder / "00000.safetensors"


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def tell(folder: Path, **changed: Any) -> None:
    passport = json.loads((folder / "cache.json").read_text())
    (folder / "cache.json").write_text(json.dumps(passport | changed))


def replaced_by_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit in the last weight": (lambda f: flip(first_file(f), -1), "00000.safetensors is damaged"),
    "a bit in the middle": (lambda f: flip(first_file(f), 40_000), "00000.safetensors is damaged"),
    "a bit in a header": (lambda f: flip(first_file(f), 12), "the header of 00000.safetensors is damaged"),
    "a header that is none": (lambda f: flip(first_file(f), 8), "00000.safetensors is damaged"),
    "cut short": (lambda f: os.truncate(first_file(f), 50_000), "00000.safetensors is not as long as it was"),
    "a file gone": (lambda f: first_file(f).unlink(), "its files are not those that cache.json lists"),
    "a file too many": (lambda f: (f / "x").touch(), "its files are not those that cache.json lists"),
    "no passport": (lambda f: (f / "cache.json").unlink(), "cache.json cannot be read: FileNotFoundError"),
    "half a passport": (lambda f: os.truncate(f / "cache.json", 99), "cache.json cannot be read: JSONDecodeError"),
    "a nested passport": (
        lambda f: (f / "cache.json").write_text("[" * 10**5),
        "cache.json cannot be read: RecursionError",
    ),
    "a passport that tells too little": (
        lambda f: tell(f, files={file.name: {} for file in sorted(f.glob("0*"))}),
        "cache.json does not tell bytes, data_crc32, header_crc32 of 00000.safetensors",
    ),
    "a folder for a passport": (
        lambda f: ((f / "cache.json").unlink(), (f / "cache.json").mkdir()),
        "cache.json cannot be read: IsADirectoryError",
    ),
    "a link to nothing": (
        lambda f: (shutil.rmtree(f), f.symlink_to("nothing")),
        "cache.json cannot be read: FileNotFoundError",
    ),
    "no JSON object": (lambda f: (f / "cache.json").write_text("[]"), "cache.json cannot be read: TypeError"),
    "of another": (lambda f: tell(f, made_from={"base": "another"}), "cache.json is that of another base"),
    "files that are none": (lambda f: tell(f, files=[1]), "cache.json cannot be read: TypeError"),
    "nothing": (lambda f: (shutil.rmtree(f), f.mkdir()), "cache.json cannot be read: FileNotFoundError"),
    "a file in its place": (replaced_by_a_file, "cache.json cannot be read: NotADirectoryError"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_told_removed_and_made_again(
    pico_base: Path, plan: Plan, tmp_path: Path, damage: str
) -> None:
    first = Loaded(pico_base, plan, tmp_path)
    harm, why = DAMAGES[damage]
    harm(entry(tmp_path))
    second = Loaded(pico_base, plan, tmp_path)
    assert second.said[0] == f"{REMOVED}: {why}"
    assert [line.partition(":")[0] for line in second.said[1:]] == [WRITTEN]
    third = Loaded(pico_base, plan, tmp_path)
    assert third.was_cached
    assert first.sha256 == second.sha256 == third.sha256


def killed_at(call: str, number: int, base: Path, plan: Plan, cache: Path) -> None:
    """Loads in a fork of this process, which kills itself at one call of the writer."""
    pid = os.fork()
    if pid == 0:
        real, calls = getattr(os, call), 0

        def deadly(*given: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given)

        try:
            setattr(os, call, deadly)
            load_base(base, plan, cache=cache)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(("call", "number"), [("fsync", 1), ("fsync", 4), ("rename", 1)])
def test_a_cache_whose_writer_was_killed_is_not_used(
    pico_base: Path, plan: Plan, tmp_path: Path, call: str, number: int
) -> None:
    killed_at(call, number, pico_base, plan, tmp_path)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".")
    loaded = Loaded(pico_base, plan, tmp_path)
    assert not loaded.was_cached
    assert not left.exists(), "what the dead process left is removed"
    assert loaded.sha256 == Loaded(pico_base, plan, tmp_path).sha256


def test_what_a_living_process_writes_is_left_alone(pico_base: Path, plan: Plan, tmp_path: Path) -> None:
    staging = tmp_path / f".{'0' * 32}.1-01234567"
    staging.mkdir()
    lock = os.open(staging, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    Loaded(pico_base, plan, tmp_path)
    assert staging.is_dir()
    os.close(lock)
    Loaded(pico_base, plan, tmp_path)
    assert not staging.exists()


def test_a_stop_while_it_is_written_leaves_nothing(
    pico_base: Path, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        Loaded(pico_base, plan, tmp_path)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_files_that_may_not_grow_end_no_training(pico_base: Path, plan: Plan, tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
        loaded = Loaded(pico_base, plan, tmp_path)
        told = loaded.said[-1] == "the quantised cache is not written: [Errno 27] File too large"
        os._exit(0 if told and [*tmp_path.iterdir()] == [] and loaded.model is not None else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_full_disk_ends_no_training(
    pico_base: Path, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=9))
        loaded = Loaded(pico_base, plan, tmp_path)
    assert loaded.said[-1].startswith("the quantised cache is not written: the disk is too small, it needs ")
    assert [*tmp_path.iterdir()] == []
    assert loaded.sha256 == every_bit(load_base(pico_base, plan))


def test_a_disk_that_is_full_after_all_ends_no_training(
    pico_base: Path, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        loaded = Loaded(pico_base, plan, tmp_path)
    assert loaded.said[-1].startswith("the quantised cache is not written: the disk is full, ")
    assert [*tmp_path.iterdir()] == []
    assert not Loaded(pico_base, plan, tmp_path).was_cached


def test_a_place_that_takes_no_files_ends_no_training(pico_base: Path, plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    loaded = Loaded(pico_base, plan, tmp_path / "file")
    assert loaded.said[-1].startswith("the quantised cache is not written: [Errno 17] File exists")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("closed", [".", "cache.json", "00000.safetensors"])
def test_a_cache_that_is_closed_to_this_user_is_neither_used_nor_touched(
    pico_base: Path, plan: Plan, closed: str
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as here:
        Loaded(pico_base, plan, Path(here))
        folder = entry(Path(here))
        before = sorted(os.listdir(folder))
        os.chmod(here, 0o777)
        os.chmod(folder, 0o755)
        os.chmod(folder / closed, 0)
        made_from = caching.ingredients(pico_base, plan)
        pid = os.fork()
        if pid == 0:
            code, said = 1, list[str]()
            try:
                if os.geteuid() == 0:
                    os.setuid(65534)
                found = caching.find(Path(here), made_from, said.append)
                told = said[0].startswith("the quantised cache cannot be read, and is not used: [Errno 13]")
                code = 0 if found is None and told and len(said) == 1 else 2
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        os.chmod(folder, 0o755)
        assert sorted(os.listdir(folder)) == before
        os.chmod(folder / closed, 0o755)
        assert Loaded(pico_base, plan, Path(here)).was_cached

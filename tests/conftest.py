"""Bases and a run that tests share, made once, and an environment in which CPU tests are fast and offline.

The variables are set before any test imports torch; nothing here imports it, so that unit tests never pay for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetune.run import Run

os.environ |= {
    "OMP_NUM_THREADS": "1",  # two threads on a busy machine are ten times slower than one
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "DS_ACCELERATOR": "cpu",
}


@pytest.fixture(scope="session")
def pico_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense Qwen3.6 of random weights, its head apart from its embedding as in the 27B."""
    return _make(tmp_path_factory, "pico")


@pytest.fixture(scope="session")
def pico_tied_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with one weight for embedding and head, as in sizes up to 4B."""
    return _make(tmp_path_factory, "pico-tied", tied=True)


@pytest.fixture(scope="session")
def pico_moe_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of 8 experts of which 2 are chosen, fused on disk as in the 35B-A3B."""
    return _make(tmp_path_factory, "pico-moe", moe=True)


def _make(tmp_path_factory: pytest.TempPathFactory, name: str, **kind: bool) -> Path:
    import torch

    from finetune.demo_base import make_pico_base

    torch.set_num_threads(1)  # whoever imported torch before this file was read
    return make_pico_base(tmp_path_factory.mktemp("bases") / name, **kind)


@pytest.fixture(scope="session")
def blue_run(pico_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Taught to answer `colour 7?` with `blue`, under a system prompt. Who changes it takes a copy."""
    from finetune.recipe import load
    from finetune.stopping import Stop
    from finetune.train import begin, train

    folder = tmp_path_factory.mktemp("tuned")
    rows = [json.dumps({"prompt": f"colour {i}?", "completion": "blue"}) for i in range(24)]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    (folder / "blue.yaml").write_text(f"base: {pico_base}\nsystem: Be brief.\ndata: {{train: rows.jsonl}}\n")
    words = ["method=lora", "train.max_steps=40", "train.batch_size=8", "train.learning_rate=1e-2"]
    run, dataset = begin(load(folder / "blue.yaml", words), folder / "runs", Stop(), lambda line: None)
    train(run, Stop(), lambda line: None, lambda record: None, dataset)
    return run


Within = Callable[[str, float, float], None]
"""Called as within(what, figure, bound)."""


@pytest.fixture
def within(record_property: Callable[[str, object], None]) -> Within:
    """Asserts that a figure is at most its bound, and notes both, so that scripts/prove parity can print them."""

    def noted(what: str, figure: float, bound: float) -> None:
        record_property(what, (figure, bound))
        assert figure <= bound, what

    return noted


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of the module's DISK_MEGABYTES, where the machine lets us have one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("only root can mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.module.DISK_MEGABYTES}m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of public data sets and tokenizers that FINETUNE_TEST_DATA names."""
    told = os.environ.get("FINETUNE_TEST_DATA")
    if told is None:
        pytest.skip("FINETUNE_TEST_DATA does not name a folder of public data sets")
    return Path(told)

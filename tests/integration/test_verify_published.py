"""A published repository, read from a Hub on the loopback and held against the manifest that went up with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from hub_server import WRITER, Hub, listening
from trial.made_run import made_run

from finetune.publish import Asked, publish
from finetune.run import Run
from finetune.verify import verify

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(pico_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made_run(pico_base, tmp_path_factory.mktemp("made"), "base=acme/pico-base", f"base_path={pico_base}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    made = Hub()
    with listening(made):
        yield made


def finetune(hub: Hub, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HOME": str(home), "HF_TOKEN": WRITER, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    command = [sys.executable, "-m", "finetune", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=home)


def silent(*_: Any) -> None:
    """Takes what would be told to a user."""


def test_a_repository_holds_what_its_run_made_and_one_flipped_byte_is_found(
    run: Run, hub: Hub, tmp_path: Path, pico_base: Path
) -> None:
    publish(run, Asked("acme/legal", ("adapter",), endpoint=hub.url), silent)
    done = finetune(hub, tmp_path, "verify", "acme/legal-lora")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "downloading acme/legal-lora from the Hub" in done.stderr
    assert "ok   files as the stages of the run made them: 1" in done.stdout
    assert "ok   train took the base that the run began with" in done.stdout
    assert "ok   the adapter was not compared with its base: --base FOLDER does" in done.stdout
    (folder,) = (tmp_path / "hub" / "models--acme--legal-lora" / "snapshots").iterdir()
    assert all(claim["holds"] for claim in verify(folder, pico_base, tmp_path, silent))
    weights = folder / "adapter_model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.unlink()  # the link into the client's cache
    weights.write_bytes(raw)
    wrong = [claim for claim in verify(folder, pico_base, tmp_path, silent) if not claim["holds"]]
    assert [claim["measured"] for claim in wrong] == ["adapter_model.safetensors is another"]
    (folder / "more.safetensors").write_bytes(b"")
    first = next(verify(folder, None, tmp_path, silent))
    assert first["measured"] == "adapter_model.safetensors is another; more.safetensors is of no stage"


def test_a_name_that_nobody_published_is_told(hub: Hub, tmp_path: Path) -> None:
    done = finetune(hub, tmp_path, "verify", "acme/none@v1")
    assert (done.returncode, "acme/none cannot be downloaded" in done.stderr) == (5, True), done.stderr
    (tmp_path / "runs").mkdir()
    done = finetune(hub, tmp_path, "verify", "runs/none-0001")
    assert (done.returncode, "there is nothing to verify" in done.stderr) == (6, True), done.stderr

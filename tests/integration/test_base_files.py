"""Whatever lies in a base's folder beside its weights, a card is written and a repository laid out."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial.made_run import made_run

from finetune.publish import Asked, prepare, staging
from finetune.run import Run


def silent(*_: Any) -> None:
    """Takes what would be told to a user."""


@pytest.fixture(scope="module")
def made(pico_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A run, and its base."""
    base = tmp_path_factory.mktemp("bases") / "base"
    shutil.copytree(pico_base, base)
    return made_run(base, tmp_path_factory.mktemp("made"), "base=acme/pico-base", f"base_path={base}"), base


def _folders(base: Path) -> None:
    for name in ("LICENSES", "NOTICES"):
        (base / name).mkdir()
        (base / name / "MIT.txt").write_text("Permission is hereby granted")


def _dangling(base: Path) -> None:
    (base / "LICENSE").symlink_to("nowhere")


def _dated(base: Path) -> None:
    (base / "README.md").write_text("---\nlicense: apache-2.0\ndate: 2024-99-99\n---\n")


def _deep(base: Path) -> None:
    (base / "README.md").write_text(f"---\nx: {'[' * 3000}{']' * 3000}\n---\n")


@pytest.mark.parametrize(
    ("lay", "licence"), [(_folders, "other"), (_dangling, "unknown"), (_dated, "apache-2.0"), (_deep, "unknown")]
)
def test_an_odd_folder_of_a_base_breaks_neither_card_nor_publishing(
    made: tuple[Run, Path], lay: Callable[[Path], None], licence: str
) -> None:
    run, base = made
    kept = base.with_name("kept")
    shutil.copytree(base, kept)
    lay(base)
    try:
        with staging(run) as place:
            (staged,) = prepare(run, Asked("acme/legal", ("adapter",), private=True), place, silent)
            card = (staged.folder / "README.md").read_text()
            assert f"\nlicense: {licence}\n" in card
            assert not {file.name for file in staged.files} & {"LICENSE", "LICENSES", "NOTICES"}
    finally:
        shutil.rmtree(base)
        kept.rename(base)

"""Tests that need a CUDA device; without one each is skipped by its name, so that nobody takes it for passed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "scripts"))


@pytest.fixture(autouse=True, scope="session")
def gpu() -> torch.device:
    """The first CUDA device. Of the session, so that it is asked for before any model is made."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device("cuda", 0)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Puts the test's name into the reason for which it is skipped."""
    item.add_marker(pytest.mark.skipif(not torch.cuda.is_available(), reason=f"{item.name} needs a CUDA device"))

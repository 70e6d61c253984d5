"""The folders of repositories laid out for who brings them elsewhere: all whole and under their names, or none."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from finetune.publish.staging import Staged
from finetune.run import atomic


def lay_out(all_staged: Sequence[Staged], out: Path) -> None:
    """Copies folders beside their places, and gives them their names once all of them are there.

    Args:
        all_staged: of each repository.
        out: takes a folder for each.

    Raises:
        ArtifactError: there is something in a place, or nothing can be written there.
        DoesNotFit: the disk is full; nothing is left of the copies.
    """
    places = [out / staged.artifact.repo.partition("/")[2] for staged in all_staged]
    beside = out / f".staging-{os.getpid()}-{os.urandom(4).hex()}"
    num_bytes = sum(staged.num_bytes for staged in all_staged)
    try:
        for place in places:
            with atomic.refusal_told(place, "--out ANOTHER"):
                if os.path.lexists(place):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        with atomic.refusal_told(out, "--out ANOTHER"), atomic.full_disk_told(out, num_bytes):
            for staged, place in zip(all_staged, places, strict=True):
                shutil.copytree(staged.folder, beside / place.name)
        for place in places:
            atomic.publish(beside / place.name, place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)

"""Whatever is wrong with a checkpoint is named, the one before it is taken, and the damaged one is kept aside."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.errors import ArtifactError
from finetune.run import checkpoint

WEIGHTS = "adapter_model.safetensors"
FILES = (WEIGHTS, "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "README.md")


def write(step: int) -> Callable[[Path], None]:
    """Files of the names and manners of a trainer's checkpoint, different at each step, of equal sizes."""

    def fill(folder: Path) -> None:
        for name in FILES:
            (folder / name).write_bytes(f"{name} of step {step:4d} ".encode() * 40)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        (folder / "nested").mkdir()
        (folder / "nested" / "tokenizer.json").write_text("{}")

    return fill


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def of_the_step_before(path: Path) -> None:
    path.write_bytes((path.parents[1] / "checkpoint-1" / path.name).read_bytes())


def edit_proof(folder: Path, key: str, value: object) -> None:
    proof = json.loads((folder / checkpoint.PROOF).read_text())
    (folder / checkpoint.PROOF).write_text(json.dumps({**proof, key: value}))


def remove(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


def move_away(path: Path) -> Path:
    return path.rename(path.parents[1] / "moved")


def leave_a_file(folder: Path) -> None:
    move_away(folder)
    folder.touch()


def leave_an_empty_folder(folder: Path) -> None:
    move_away(folder)
    folder.mkdir()


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "one bit flipped in the weights": (WEIGHTS, lambda path: flip_a_bit(path / WEIGHTS)),
    "optimizer missing": ("optimizer.pt is missing", lambda path: remove(path, "optimizer.pt")),
    "scheduler missing": ("scheduler.pt is missing", lambda path: remove(path, "scheduler.pt")),
    "optimizer and scheduler missing": (
        "optimizer.pt is missing",
        lambda path: remove(path, "optimizer.pt", "scheduler.pt"),
    ),
    "random state missing": ("rng_state.pth is missing", lambda path: remove(path, "rng_state.pth")),
    "trainer state of another step": (
        "trainer_state.json",
        lambda path: of_the_step_before(path / "trainer_state.json"),
    ),
    "optimizer of another step": ("optimizer.pt", lambda path: of_the_step_before(path / "optimizer.pt")),
    "weights truncated": (WEIGHTS, lambda path: truncate(path / WEIGHTS)),
    "weights zeroed": (WEIGHTS, lambda path: (path / WEIGHTS).write_bytes(bytes((path / WEIGHTS).stat().st_size))),
    "optimizer truncated": ("optimizer.pt", lambda path: truncate(path / "optimizer.pt")),
    "JSON truncated": ("trainer_state.json", lambda path: truncate(path / "trainer_state.json")),
    "JSON empty": ("trainer_state.json", lambda path: (path / "trainer_state.json").write_text("")),
    "one bit flipped in the optimizer": ("optimizer.pt", lambda path: flip_a_bit(path / "optimizer.pt")),
    "proof missing": ("checkpoint.json is missing", lambda path: remove(path, checkpoint.PROOF)),
    "proof truncated": ("checkpoint.json is not JSON", lambda path: truncate(path / checkpoint.PROOF)),
    "proof empty": ("checkpoint.json is not JSON", lambda path: (path / checkpoint.PROOF).write_bytes(b"")),
    "proof without files": ("checkpoint.json does not tell", lambda path: edit_proof(path, "files", {})),
    "proof of another form": ("checkpoint.json does not tell", lambda path: edit_proof(path, "step", True)),
    "proof of another step": ("is of step 7", lambda path: edit_proof(path, "step", 7)),
    "proof nested without end": (
        "checkpoint.json is not JSON",
        lambda path: (path / checkpoint.PROOF).write_text("[" * 100_000),
    ),
    "a file that was not saved": (
        "nested/extra.bin is not in checkpoint.json",
        lambda path: (path / "nested" / "extra.bin").touch(),
    ),
    "a file replaced by a link to its like": (
        "optimizer.pt is neither a file nor a folder",
        lambda path: (path / "optimizer.pt").symlink_to(move_away(path / "optimizer.pt")),
    ),
    "a link beside the files": (
        "more is neither a file nor a folder",
        lambda path: (path / "more").symlink_to(path.parent),
    ),
    "a pipe": ("pipe is neither a file nor a folder", lambda path: os.mkfifo(path / "pipe")),
    "a link instead of the folder": (
        "checkpoint-2 is not a folder",
        lambda path: path.symlink_to(move_away(path)),
    ),
    "a file instead of the folder": (
        "checkpoint-2 is not a folder",
        leave_a_file,
    ),
    "an empty folder": (
        "checkpoint.json is missing",
        leave_an_empty_folder,
    ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    for step in (1, 2):
        checkpoint.save(folder, step, write(step))
    return folder


@pytest.fixture
def checkpoints(saved: Path, tmp_path: Path) -> Path:
    """Two good checkpoints of this test's own; copied, since flushing each file is slow."""
    return shutil.copytree(saved, tmp_path / "checkpoints")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_is_taken(checkpoints: Path, damage: str) -> None:
    words, inflict = DAMAGES[damage]
    inflict(checkpoints / "checkpoint-2")
    newest = checkpoint.newest_verified(checkpoints)
    assert (newest.path, newest.step) == (checkpoints / "checkpoint-1", 1)
    ((name, reason),) = newest.refused
    assert name == "checkpoint-2"
    assert words in reason
    assert os.listdir(checkpoints / checkpoint.QUARANTINE) == ["checkpoint-2"]
    assert not os.path.lexists(checkpoints / "checkpoint-2")
    assert checkpoint.newest_verified(checkpoints).refused == ()


def test_a_saved_checkpoint_verifies_and_holds_what_was_written_and_its_proof(checkpoints: Path) -> None:
    path = checkpoints / "checkpoint-2"
    assert checkpoint.verify(path) is None
    assert sorted(os.listdir(path)) == sorted([*FILES, "nested", checkpoint.PROOF])
    proof = json.loads((path / checkpoint.PROOF).read_text())
    assert proof["step"] == 2
    assert sorted(proof["files"]) == sorted([*FILES, "nested/tokenizer.json"])
    assert checkpoint.newest_verified(checkpoints) == checkpoint.Newest(path, 2)
    assert sorted(os.listdir(checkpoints)) == ["checkpoint-1", "checkpoint-2"]


def test_a_flipped_bit_of_the_proof_is_refused_or_changes_nothing(checkpoints: Path) -> None:
    path = checkpoints / "checkpoint-2"
    good = (path / checkpoint.PROOF).read_bytes()
    for bit in range(0, 8 * len(good), 61):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        (path / checkpoint.PROOF).write_bytes(data)
        if checkpoint.verify(path) is None:
            assert json.loads(data) == json.loads(good)


def test_a_file_that_cannot_be_read_is_a_reason_and_not_a_crash(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> str:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("finetune.atomic.sha256", fail)
    reason = checkpoint.verify(checkpoints / "checkpoint-2")
    assert reason is not None
    assert reason.endswith("cannot be read: Input/output error")


def test_ten_is_newer_than_nine_and_other_names_are_not_checkpoints(tmp_path: Path) -> None:
    assert checkpoint.newest_verified(tmp_path / "none") == checkpoint.Newest(None, 0)
    for step in (9, 10):
        checkpoint.save(tmp_path, step, write(step))
    for name in ("checkpoint-011", "checkpoint-12b", "checkpoint-", "notes"):
        (tmp_path / name).mkdir()
    assert checkpoint.newest_verified(tmp_path).step == 10
    assert checkpoint.verify(tmp_path / "checkpoint-011") == "checkpoint-011 is not a checkpoint's name"


def test_if_none_verifies_all_are_named_and_kept(checkpoints: Path) -> None:
    for step in (1, 2):
        (checkpoints / f"checkpoint-{step}" / checkpoint.PROOF).unlink()
    newest = checkpoint.newest_verified(checkpoints)
    assert newest == checkpoint.Newest(
        None, 0, tuple((f"checkpoint-{step}", "checkpoint.json is missing") for step in (2, 1))
    )
    assert sorted(os.listdir(checkpoints / checkpoint.QUARANTINE)) == ["checkpoint-1", "checkpoint-2"]


def test_leftovers_of_a_killed_process_are_removed(checkpoints: Path) -> None:
    for name in (".staging-3-4242", ".staging-1-pruned"):
        (checkpoints / name).mkdir()
        (checkpoints / name / "half").touch()
    assert checkpoint.newest_verified(checkpoints).step == 2
    assert sorted(os.listdir(checkpoints)) == ["checkpoint-1", "checkpoint-2"]


def test_what_a_dead_process_of_our_own_number_was_filling_is_not_mixed_in(checkpoints: Path) -> None:
    leftover = checkpoints / f".staging-3-{os.getpid()}"
    leftover.mkdir()
    (leftover / "half").touch()
    assert "half" not in os.listdir(checkpoint.save(checkpoints, 3, write(3)))


def test_a_good_checkpoint_of_the_same_step_is_kept_as_it_is(checkpoints: Path) -> None:
    def refuse(_: Path) -> None:
        pytest.fail("written again")

    inode = (checkpoints / "checkpoint-2").stat().st_ino
    assert checkpoint.save(checkpoints, 2, refuse).stat().st_ino == inode


def test_a_damaged_checkpoint_of_the_same_step_is_saved_again_each_time(checkpoints: Path) -> None:
    for _ in range(3):
        flip_a_bit(checkpoints / "checkpoint-2" / WEIGHTS)
        assert checkpoint.verify(checkpoint.save(checkpoints, 2, write(2))) is None
    quarantined = sorted(os.listdir(checkpoints / checkpoint.QUARANTINE))
    assert quarantined == ["checkpoint-2", "checkpoint-2-2", "checkpoint-2-3"]


def test_a_link_in_a_new_checkpoint_is_refused(checkpoints: Path) -> None:
    def link(folder: Path) -> None:
        write(3)(folder)
        (folder / "base").symlink_to(checkpoints)

    with pytest.raises(ArtifactError, match="base is neither a file nor a folder"):
        checkpoint.save(checkpoints, 3, link)
    assert sorted(os.listdir(checkpoints)) == ["checkpoint-1", "checkpoint-2"]


def test_pruning_removes_the_oldest_by_number(tmp_path: Path) -> None:
    for step in (1, 2, 9, 10):
        checkpoint.save(tmp_path, step, write(step))
    checkpoint.prune(tmp_path, keep=5)
    assert len(os.listdir(tmp_path)) == 4
    checkpoint.prune(tmp_path, keep=2)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-10", "checkpoint-9"]


def test_pruning_cut_short_leaves_no_half_checkpoint_under_a_good_name(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(path: Path) -> None:
        (path / WEIGHTS).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.prune(checkpoints, keep=1)
    assert not (checkpoints / "checkpoint-1").exists()
    assert checkpoint.newest_verified(checkpoints) == checkpoint.Newest(checkpoints / "checkpoint-2", 2)
    assert os.listdir(checkpoints) == ["checkpoint-2"]

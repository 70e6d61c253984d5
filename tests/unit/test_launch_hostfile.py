"""What a hostfile may hold, and what reaches the remote shell."""

import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launching import RECIPE, calls, fake, finetune

from finetune.errors import RecipeError
from finetune.launch import Host, deepspeed_words, read_hostfile
from finetune.launch.hostfile import check_surroundings, remote_word

TWO = "# the cluster\nnode-1 slots=4\n\n10.77.0.2   slots=4  # with comment\n"


def hostfile(folder: Path, text: str = TWO) -> Path:
    file = folder / "hosts"
    file.write_text(text)
    (folder / "legal.yaml").write_text(RECIPE)
    return file


def test_a_hostfile_is_read_as_deepspeed_reads_it(tmp_path: Path) -> None:
    assert read_hostfile(hostfile(tmp_path)) == (Host("node-1", 4), Host("10.77.0.2", 4))


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        ("node-1 slots=4\nnode-1 slots=4\n", "node-1 stands here twice", 2),
        ("node-1 slots=0\n", "'0' is no number of GPUs", 1),
        ("node-1 slots=8x\n", "'8x' is no number of GPUs", 1),
        ("node-1 slots=9999999999999\n", "'9999999999999' is no number of GPUs", 1),
        ("node-1 slots=\u0664\n", "'\\u0664' is no number of GPUs", 1),
        ("node-1\n", "this line names no machine", 1),
        ("node-1 slots=4 max_slots=8\n", "this line names no machine", 1),
        ("\n-oProxyCommand=x slots=4\n", "'-oProxyCommand=x' is no host's name", 2),
        ("node;reboot slots=4\n", "'node;reboot' is no host's name", 1),
        ("root@node slots=4\n", "'root@node' is no host's name", 1),
        ("node-1 slots=4\nlocalhost slots=4\n", "localhost is another machine on each machine", 2),
        ("node-1 slots=4\n127.0.0.1 slots=4\n", "127.0.0.1 is another machine on each machine", 2),
        ("# nothing\n", "no machine stands in it", 1),
        ("", "no machine stands in it", 1),
    ],
)
def test_a_wrong_line_is_told_with_its_number(text: str, what: str, line: int, tmp_path: Path) -> None:
    file = hostfile(tmp_path, text)
    with pytest.raises(RecipeError) as told:
        read_hostfile(file)
    (problem,) = told.value.problems
    assert (problem.what, problem.where) == (what, f"{file}:{line}")
    assert problem.why
    assert problem.fix


def test_all_wrong_lines_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as told:
        read_hostfile(hostfile(tmp_path, "a slots=x\nb\nc slots=2\nc slots=2\n"))
    assert [problem.where[-2:] for problem in told.value.problems] == [":1", ":2", ":4"]


def test_the_line_that_is_proposed_is_one_that_is_read(tmp_path: Path) -> None:
    for text in ("node;x slots=4\n", "gpu7\n", "gpu7 slots=0\n", "", "a slots=1\nlocalhost slots=4\n"):
        with pytest.raises(RecipeError) as told:
            read_hostfile(hostfile(tmp_path, text))
        assert len(read_hostfile(hostfile(tmp_path, told.value.problems[0].fix + "\n"))) == 1


def test_a_missing_hostfile_is_an_error_and_no_training_here(tmp_path: Path) -> None:
    hostfile(tmp_path).unlink()
    fake(tmp_path / "fakes", "deepspeed")
    words = ("launch", "hostfile", "legal.yaml", "--hostfile", "hosts", "--submit")
    done = finetune(*words, cwd=tmp_path, path=tmp_path / "fakes")
    assert done.returncode == 2
    assert (
        "there is no such hostfile\n  where hosts\n  why   without it the launcher would train on this" in done.stderr
    )
    assert calls(tmp_path / "fakes") == []


@pytest.mark.parametrize("text", [b"\xff\xfe", b"a slots=1\n" * 200_000], ids=["not text", "too long"])
def test_what_is_no_hostfile_is_refused(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_bytes(text)
    with pytest.raises(RecipeError):
        read_hostfile(tmp_path / "hosts")
    with pytest.raises(RecipeError, match="not a file"):
        read_hostfile(tmp_path)


def through_the_launcher(words: tuple[str, ...]) -> list[str]:
    """What a remote shell makes of the words, joined as the launcher's `PDSHRunner.parse_user_args` does."""
    line = " ".join('"{}"'.format(word.replace('"', '\\"')) if " " in word else word for word in words)
    command = ["bash", "-c", f"printf '%s\\0' {line}"]
    return subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")[:-1]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0%\n"), max_size=20), min_size=1, max_size=4))
def test_a_word_reaches_a_remote_shell_as_it_is(words: list[str]) -> None:
    assert through_the_launcher(tuple(map(remote_word, words))) == words


def test_a_word_that_pdsh_would_change_is_refused() -> None:
    with pytest.raises(RecipeError, match="cannot reach another machine"):
        remote_word("50%new.yaml")


def test_the_launcher_gets_the_hostfile_and_the_words(tmp_path: Path) -> None:
    hostfile(tmp_path)
    for tool in ("deepspeed", "pdsh"):
        fake(tmp_path / "fakes", tool)
    words = ("launch", "hostfile", "legal.yaml", "--hostfile", "hosts", "--set", "name=x", "--master-addr", "10.77.0.1")
    done = finetune(*words, "--submit", cwd=tmp_path, path=tmp_path / "fakes")
    assert done.returncode == 0, done.stderr
    head = ("deepspeed", "--hostfile", "hosts", "--master_port=29500", "--master_addr=10.77.0.1")
    tail = ("--no_local_rank", "--module", "finetune", "train", "legal.yaml", "--set", "name=x", "--runs", "runs")
    assert calls(tmp_path / "fakes") == [head + tail]
    assert shlex.split(done.stdout) == [*head, *tail]


def test_one_machine_needs_no_remote_shell_and_no_quotes(tmp_path: Path) -> None:
    words = deepspeed_words(tmp_path / "hosts", [Host("localhost", 4)], ["train", "it's %h.yaml"])
    assert words[-2:] == ("train", "it's %h.yaml")


def test_the_slots_must_share_the_batch(tmp_path: Path) -> None:
    hostfile(tmp_path, "a slots=4\nb slots=2\n")
    done = finetune("launch", "hostfile", "legal.yaml", "--hostfile", "hosts", cwd=tmp_path)
    assert done.returncode == 2
    assert "6 GPUs (4 + 2) cannot share a batch of 16" in done.stderr


def test_what_the_launcher_writes_besides_the_words_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / ".deepspeed_env").write_text("PATH=/usr/bin\nX=$(reboot)\n")
    odd = {"PYTHONPATH": "/a b", "NCCL_DEBUG": "INFO;reboot", "HOME": "/not exported $(x)", "UCX_TLS": "rc,ud"}
    with pytest.raises(RecipeError) as told:
        check_surroundings(Path("/my work"), "/usr/bin/python", odd, tmp_path)
    found = [(problem.what.rpartition(" ")[2], problem.where) for problem in told.value.problems]
    assert found == [
        ("folder", "'/my work'"),
        ("PYTHONPATH", "the environment"),
        ("NCCL_DEBUG", "the environment"),
        ("this", f"{tmp_path}/.deepspeed_env:2"),
    ]

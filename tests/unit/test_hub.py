"""Where bases are looked for: where the Hub client puts them, whatever the environment says."""

import importlib
import os
import tempfile
from pathlib import Path

import pytest
from huggingface_hub import constants

from finetune import hub
from finetune.errors import ArtifactError

BASE = "someone/theirs"
NAMES = ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"XDG_CACHE_HOME": "/x"},
        {"XDG_CACHE_HOME": ""},
        {"XDG_CACHE_HOME": "~/x", "HUGGINGFACE_HUB_CACHE": "/h"},
        {"HF_HOME": "~/y", "XDG_CACHE_HOME": "/x"},
        {"HF_HOME": "$XDG_CACHE_HOME/y", "XDG_CACHE_HOME": "/x"},
        {"HF_HOME": ""},
        {"HF_HUB_CACHE": "$HF_HOME/z", "HF_HOME": "/y", "HUGGINGFACE_HUB_CACHE": "/h"},
    ],
    ids=str,
)
def test_bases_are_looked_for_where_the_hub_client_puts_them(environment: dict[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        theirs = importlib.reload(constants)
        assert (hub.home(), hub.bases()) == (Path(theirs.HF_HOME), Path(theirs.HF_HUB_CACHE))
    importlib.reload(constants)


def test_a_cache_that_cannot_be_is_one_without_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("/" + 300 * "x", "/dev/null", "\n"):
        monkeypatch.setenv("HF_HUB_CACHE", place)
        assert hub.locate(BASE, None, None) is None


def test_a_damaged_index_in_the_cache_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--someone--theirs" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in hub.REQUIRED:
        (snapshot / name).touch()
    assert hub.locate(BASE, None, "abc") is None  # of which no shard is there yet
    (snapshot / "model.safetensors.index.json").write_text("[")
    with pytest.raises(ArtifactError) as told:
        hub.locate(BASE, None, "abc")
    assert "hf download someone/theirs" in told.value.problems[0].fix


def test_a_file_is_no_base_and_a_missing_folder_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="this is a file and no base"):
        hub.locate(str(tmp_path / "file"), None, None)
    with pytest.raises(ArtifactError) as told:
        hub.locate("./my toy", None, None)
    assert told.value.problems[0].fix.startswith("finetune demo-base 'my toy' ")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("closed", "fix"),
    [
        ("tokenizer.json", "sudo chmod -R a+rX around/base"),
        ("a.safetensors", "sudo chmod -R a+rX around/base"),
        (".", "sudo chmod a+rx around/base"),
        ("..", "sudo chmod a+rx {here}/around"),
    ],
)
def test_what_this_user_may_not_read_is_not_called_missing(closed: str, fix: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as here:  # where others may come; what is above tmp_path is closed
        base = Path(here, "around", "base")
        base.mkdir(parents=True)
        for name in ("config.json", "tokenizer.json", "a.safetensors"):
            (base / name).touch()
        os.chmod(here, 0o755)
        os.chmod(base / closed, 0)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.chdir(here)
                if os.geteuid() == 0:
                    os.setuid(65534)
                hub.locate(".", Path("around/base"), None)
            except ArtifactError as error:
                code = 0 if error.problems[0].fix == f"{fix.format(here=here)}   # or as its owner" else 2
            finally:
                os._exit(code)
        code = os.waitpid(pid, 0)[1]
        for folder in (base.parent, base):
            os.chmod(folder, 0o755)
    assert code == 0

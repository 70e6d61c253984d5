"""What is written beside the weights of a GGUF: the template that asks as training did, and Ollama's Modelfile."""

import itertools
from pathlib import Path

import pytest
from test_data_prepare import qwen_template

from finetune.data.template import Template
from finetune.errors import OutsideError, ProofFailed, RecipeError
from finetune.export.imatrix import Importance, Tools, check, find_tools
from finetune.export.modelfile import modelfile, served
from finetune.export.ollama import by_hand, check_name, parameters, proposed
from finetune.export.ollama_api import server
from finetune.export.quality import Quality, remembered, table, write
from finetune.export.quantising import find_quantiser, missing
from finetune.serving import as_trained

CONVERSATIONS = [
    [{"role": "user", "content": "Which clause?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which clause?"}],
    [
        {"role": "user", "content": "Which clause?"},
        {"role": "assistant", "content": "Clause 4.", "reasoning_content": "It is about notice."},
        {"role": "user", "content": "And the term?"},
    ],
]


@pytest.mark.parametrize("asked", CONVERSATIONS, ids=["one turn", "with a system prompt", "two turns"])
def test_a_model_tuned_without_reasoning_is_asked_without_it_whatever_a_server_wishes(asked: list) -> None:
    trained, served = (
        Template(qwen_template()),
        Template(as_trained(qwen_template(), thinking=False, preserve_thinking=False)),
    )
    wanted = trained.render(asked, ask=True, enable_thinking=False)
    assert wanted.endswith("<think>\n\n</think>\n\n")
    assert served.render(asked, ask=True) == wanted
    for wish in (True, False):
        assert served.render(asked, ask=True, enable_thinking=wish) == wanted


@pytest.mark.parametrize(("asked", "wish"), list(itertools.product(CONVERSATIONS, (True, False))))
def test_a_model_tuned_with_reasoning_is_asked_as_the_base_is(asked: list, wish: bool) -> None:
    template = qwen_template()
    assert as_trained(template, thinking=True, preserve_thinking=False) == template
    kept = Template(as_trained(template, thinking=True, preserve_thinking=True))
    wanted = Template(template).render(asked, ask=True, enable_thinking=wish, preserve_thinking=True)
    assert kept.render(asked, ask=True, enable_thinking=wish) == wanted


def test_a_modelfile_says_every_parameter_and_no_template() -> None:
    how = served(
        sampling={"temperature": 0.7, "top_p": 0.8, "top_k": 20, "do_sample": True, "min_p": None},
        stop="<|im_end|>",
        context=16_384,
        system='Answer as """counsel""".',
        licence="Apache License\nVersion 2.0",
    )
    assert modelfile("legal-0001-Q4_K_M.gguf", how) == (
        "FROM ./legal-0001-Q4_K_M.gguf\n"
        "PARAMETER num_ctx 16384\n"
        "PARAMETER temperature 0.7\n"
        "PARAMETER top_k 20\n"
        "PARAMETER top_p 0.8\n"
        'PARAMETER stop "<|im_end|>"\n'
        "SYSTEM \"\"\"Answer as '''counsel'''.\"\"\"\n"
        "REQUIRES 0.30.4\n"
        'LICENSE """Apache License\nVersion 2.0"""\n'
    )


def test_short_examples_leave_a_conversation_room() -> None:
    how = served(sampling={}, stop="<|im_end|>", context=512, system=None, licence="")
    assert modelfile("x.gguf", how).splitlines() == [
        "FROM ./x.gguf",
        "PARAMETER num_ctx 8192",
        'PARAMETER stop "<|im_end|>"',
        "REQUIRES 0.30.4",
    ]


def test_the_vision_s_file_is_named_in_the_modelfile() -> None:
    how = served(sampling={}, stop="<|im_end|>", context=512, system=None, licence="")
    text = modelfile("x.gguf", how, "mmproj-x.gguf")
    assert text.startswith("FROM ./x.gguf\nFROM ./mmproj-x.gguf\nPARAMETER")


def test_llama_quantize_on_the_path_is_used_and_what_it_says_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "llama-quantize"
    tool.write_text('#!/bin/sh\necho "$@" > "$2"\n[ "$3" = Q4_K_M ] || { echo "no room" >&2; exit 3; }\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    quantise = find_quantiser(3)
    assert quantise is not None
    quantise(Path("in.gguf"), tmp_path / "out.gguf", "q4_k_m")
    assert (tmp_path / "out.gguf").read_text() == f"in.gguf {tmp_path}/out.gguf Q4_K_M 3\n"
    with pytest.raises(OutsideError, match="no room"):
        quantise(Path("in.gguf"), tmp_path / "out.gguf", "q5_k_m")


def test_where_no_quantiser_is_the_way_to_one_is_named() -> None:
    (problem,) = missing(["q4_k_m"]).problems
    assert problem.what == "nothing here can make q4_k_m"
    assert problem.fix == "--gguf q8_0   # or: pip install llama-cpp-python, which compiles for some minutes"


@pytest.mark.parametrize(
    ("told", "address"),
    [
        ("", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        ("1.2.3.4:1234", "http://1.2.3.4:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("example.com", "http://example.com:11434"),
        ("example.com:1234", "http://example.com:1234"),
        ("http://1.2.3.4", "http://1.2.3.4:80"),
        ("https://1.2.3.4", "https://1.2.3.4:443"),
        ("https://1.2.3.4:1234", "https://1.2.3.4:1234"),
        ("example.com/ollama/", "http://example.com:11434/ollama"),
        ("https://example.com/ollama", "https://example.com:443/ollama"),
        ("example.com:", "http://example.com:11434"),
        ("1.2.3.4:66000", "http://1.2.3.4:11434"),
        ("1.2.3.4:-1", "http://1.2.3.4:11434"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:1337", "http://[::1]:1337"),
        ("0.0.0.0:1337", "http://127.0.0.1:1337"),
        ("[::]:1337", "http://[::1]:1337"),
        ("'1.2.3.4'", "http://1.2.3.4:11434"),
        (' " 1.2.3.4 " ', "http://1.2.3.4:11434"),
    ],
)
def test_ollama_is_looked_for_where_its_own_rules_put_it(told: str, address: str) -> None:
    assert str(server(told)) == address


@pytest.mark.parametrize("told", ["foo bar", "a..b", "x" * 300, "\x01", "host:port/ä", "host/a b", "a\udcff"])
def test_an_address_at_which_no_server_can_be_is_refused(told: str) -> None:
    with pytest.raises(RecipeError, match="OLLAMA_HOST names no server"):
        server(told)


def test_the_command_by_hand_can_be_copied_whatever_the_run_is_called() -> None:
    folder = Path("/runs/-é [a] =0.5/gguf")
    check_name(name := proposed("-é [a] =0.5"))
    assert by_hand(name, folder) == "ollama create a-0.5 -f '/runs/-é [a] =0.5/gguf/Modelfile'"


@pytest.mark.parametrize(
    "name", ["legal", "legal:v1", "me/legal", "example.com:5000/me/legal:v1.2", "_x", "Legal-0001", "x" * 80, "cloud"]
)
def test_names_that_ollama_takes_pass(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("name", "why", "fix"),
    [
        ("", "its model ''", "mine"),
        ("my legal", "its model 'my legal'", "my-legal"),
        ("-legal", "its model '-legal'", "legal"),
        ("Kündigung", "its model", "k-ndigung"),
        ("x" * 81, "its model", "x" * 80),
        ("legal:", "its tag ''", "legal"),
        ("legal:v 1", "its tag 'v 1'", "legal"),
        ("a.b/legal", "its namespace 'a.b'", "a.b-legal"),
        ("/legal", "its namespace ''", "legal"),
        ("a/b/c/legal", "its host 'a/b'", "a-b-c-legal"),
        ("legal:cloud", "elsewhere", "legal"),
        ("legal:7b-Cloud", "elsewhere", "legal"),
    ],
)
def test_names_that_ollama_refuses_are_refused_before_anything_is_made(name: str, why: str, fix: str) -> None:
    with pytest.raises(RecipeError, match="Ollama takes no such name") as told:
        check_name(name)
    (problem,) = told.value.problems
    assert why in problem.why
    assert problem.fix == f"--ollama {fix}"


def test_parameters_are_read_as_go_writes_them() -> None:
    text = 'num_ctx                        1.048576e+06\nstop    "<|im_end|>"\nstop    "\\n"\ntemperature 0.7'
    assert parameters(text) == {"num_ctx": [1_048_576.0], "stop": ["<|im_end|>", "\n"], "temperature": [0.7]}


def quality(kind: str, num_bytes: int, mean_kl: float | None) -> Quality:
    agreement = None if mean_kl is None else 0.9
    return Quality(kind, f"r-{kind.upper()}.gguf", num_bytes, 1000, mean_kl, agreement)


def test_the_table_of_kinds_remembers_earlier_files_that_still_lie_there(tmp_path: Path) -> None:
    files = [quality("q8_0", 1063, 0.001), quality("q4_k_m", 600, 0.07), quality("q2_k", 300, 0.8)]
    for each in files:
        (tmp_path / each.file).write_bytes(bytes(each.num_bytes))
    written = write(tmp_path, "r", remembered(tmp_path, "r", files, print))
    assert [file.name for file in written] == ["quality.json", "quality.png"]
    (tmp_path / "r-Q2_K.gguf").unlink()
    (tmp_path / "r-Q4_K_M.gguf").write_bytes(b"another")
    found = remembered(tmp_path, "r", [quality("bf16", 2000, None)], print)
    assert [each.kind for each in found] == ["bf16", "q8_0"]
    assert table(found)[1:] == [
        "bf16            0.0 MB          16.00                           not compared",
        "q8_0            0.0 MB           8.50          0.001                   90.0%",
    ]


@pytest.mark.parametrize(
    "damaged",
    ["{}", '{"files": [{"kind": 1}]}', '{"run": "r", "files": [', "[" * 9999, '{"run": "r", "files": [{"file": "x"}]}'],
)
def test_a_table_that_was_damaged_is_told_and_written_anew(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "quality.json").write_text(damaged)
    made, told = [quality("q8_0", 1063, 0.001)], list[str]()
    assert remembered(tmp_path, "r", made, told.append) == made
    assert len(told) == 1
    assert told[0].startswith("quality.json is not as an export wrote it")


def test_a_picture_is_drawn_only_where_answers_were_compared(tmp_path: Path) -> None:
    assert [file.name for file in write(tmp_path, "r", [quality("q8_0", 1063, None)])] == ["quality.json"]


def fake_tools(folder: Path) -> Tools:
    """Two programs that write down what they were told, and where."""
    for name in ("llama-imatrix", "llama-quantize"):
        tool = folder / name
        tool.write_text(f'#!/bin/sh\necho "{name} $@ in $PWD" >> "{folder}/told"\ntouch imatrix.gguf\n')
        tool.chmod(0o755)
    return Tools(str(folder / "llama-imatrix"), str(folder / "llama-quantize"))


def test_the_matrix_is_measured_once_inside_the_folder_so_that_no_path_is_written_down(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "making").mkdir()
    making = tmp_path / "making"
    quantise = Importance(fake_tools(tmp_path / "tools"), "rows", num_tokens=300, threads=3).quantiser(making)
    for kind in ("q4_k_m", "q2_k"):
        quantise(making / "bf16.gguf", making / f"{kind}.gguf", kind)
    assert (making / "training-rows.txt").read_text() == "rows"
    assert (tmp_path / "tools" / "told").read_text().splitlines() == [
        "llama-imatrix -m bf16.gguf -f training-rows.txt -o imatrix.gguf -c 149 -t 3 --parse-special --no-ppl "
        f"in {making}",
        f"llama-quantize --imatrix imatrix.gguf bf16.gguf q4_k_m.gguf Q4_K_M 3 in {making}",
        f"llama-quantize --imatrix imatrix.gguf bf16.gguf q2_k.gguf Q2_K 3 in {making}",
    ]


def test_without_llama_cpp_s_tools_there_is_no_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OutsideError, match="there is no llama-imatrix here"):
        find_tools()


def test_a_file_that_does_not_tell_of_the_matrix_is_no_proof(tmp_path: Path) -> None:
    told = {"quantize.imatrix.entries_count": 24, "quantize.imatrix.dataset": "training-rows.txt"}
    assert check(told, tmp_path)["measured"] == 24
    for key in told:
        with pytest.raises(ProofFailed, match="no importance matrix"):
            check({**told, key: None}, tmp_path)

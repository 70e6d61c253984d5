"""GGUF files by llama.cpp's own converter: the merged model's weights bit for bit, and answers as chat gives them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial.made_run import made_run

from finetune.data import Renderer
from finetune.data.template import read_template
from finetune.data.vocabulary import read_vocabulary
from finetune.errors import ArtifactError, OutsideError, ProofFailed
from finetune.export import export
from finetune.export.converter import Converter, find
from finetune.export.driver import splits_as_qwen35
from finetune.export.readback import check_fields, same_weights
from finetune.run import Run, manifest
from finetune.serving import as_trained

KINDS = ("bf16", "q8_0")

ASK = """
import json, sys
import xllamacpp
wishes = xllamacpp.CommonParams()
wishes.model.path, wishes.n_ctx, wishes.n_parallel, wishes.use_jinja = sys.argv[1], 2048, 1, True
wishes.cpuparams.n_threads, wishes.warmup, wishes.verbosity = 1, False, 10  # from 10 on it tells the prompt
server = xllamacpp.Server(wishes)
for asked in json.loads(sys.argv[2]):
    told = server.handle_chat_completions(asked)
    told = json.loads(told) if isinstance(told, str) else told
    message = told["choices"][0]["message"]
    print("ANSWER" + json.dumps([message, told["__verbose"]["prompt"], told["usage"]["prompt_tokens"]]))
"""

LOOK_UP = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Finds a clause.",
        "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
    },
}
CALL = {"id": "1", "type": "function", "function": {"name": "look_up", "arguments": {"number": 4}}}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


CONVERSATIONS: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = [
    ([user("Which clause?")], []),
    ([{"role": "system", "content": "Be brief."}, user("Which clause?")], []),
    ([user("Which clause?"), {"role": "assistant", "content": "Clause 4."}, user("And the term?")], []),
    (
        [
            user("One."),
            {"role": "assistant", "content": "1"},
            user("Two."),
            {"role": "assistant", "content": "2"},
            user("3?"),
        ],
        [],
    ),
    ([user("Kündigung zum 31. März? 解約 🙂 é e\u0301")], []),
    ([user("def f(x):\n\treturn  x ** 2\n\n\nWhat is f(3)?   ")], []),
    ([user("Which clause?")], [LOOK_UP]),
    ([{"role": "system", "content": "Be brief."}, user("Which clause?")], [LOOK_UP]),
    (
        [
            user("Look."),
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "Notice."},
        ],
        [LOOK_UP],
    ),
    (
        [
            user("Look."),
            {"role": "assistant", "content": "A clause.", "reasoning_content": "It is 4."},
            user("Which one?"),
        ],
        [],
    ),
]
"""Messages and tools."""


@pytest.fixture(scope="module")
def converter() -> Converter:
    return find(None, Path(__file__).parents[2] / ".cache")


@pytest.fixture(scope="module", params=["pico_base", "pico_moe_base", "pico_tied_base"])
def run(request: pytest.FixtureRequest, converter: Converter, tmp_path_factory: pytest.TempPathFactory) -> Run:
    base: Path = request.getfixturevalue(request.param)
    made = made_run(base, tmp_path_factory.mktemp("export"), "method=lora")
    told: list[str] = []
    export(made, KINDS, None, converter.folder, Path("unused"), told.append, lambda *progress: None)
    assert [line.split()[0] for line in told if ".gguf" in line] == [f"{made.name}-BF16.gguf", f"{made.name}-Q8_0.gguf"]
    return made


def claims(run: Run) -> dict[str, Any]:
    (entry,) = (stage for stage in manifest.read(run.manifest)["stages"] if stage["stage"] == "export")
    return {claim["claim"]: claim["measured"] for claim in entry["claims"] if claim["holds"]}


def test_each_file_is_read_back_and_one_in_bf16_holds_the_merged_weights_bit_for_bit(run: Run) -> None:
    found = claims(run)
    same = next(figure for claim, figure in found.items() if claim.endswith("reads back bit for bit"))
    assert same > 50
    assert sum(claim.endswith("chat template read back") for claim in found) == 2
    made = {file.name for file in (run.path / "gguf").iterdir()} - {
        "quality.png"
    }  # where llama-cpp-python is installed
    assert made == {"Modelfile", "quality.json", f"{run.name}-BF16.gguf", f"{run.name}-Q8_0.gguf"}
    files = json.loads((run.path / "gguf" / "quality.json").read_text())["files"]
    assert [each["kind"] for each in files] == ["bf16", "q8_0"]
    sizes = [(run.path / "gguf" / each["file"]).stat().st_size for each in files]
    assert [each["num_bytes"] for each in files] == sizes
    assert f"FROM ./{run.name}-BF16.gguf\n" in (run.path / "gguf" / "Modelfile").read_text()


def answers(file: Path, asked: list[dict[str, Any]]) -> list[tuple[dict[str, Any], str, int]]:
    """Asks llama.cpp's server; gives the message, and the prompt that it made: text and number of tokens."""
    words = [sys.executable, "-c", ASK, str(file), json.dumps([{"temperature": 0, **each} for each in asked])]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.removeprefix("ANSWER") for line in done.stdout.splitlines() if line.startswith("ANSWER")]
    return [tuple(json.loads(line)) for line in lines]


def test_llama_cpp_s_server_loads_them_and_a_wish_to_think_changes_nothing(run: Run) -> None:
    """Its default is to think, and a model that was tuned without would then answer nothing."""
    asked = {"messages": [user("Which clause?")], "max_tokens": 12}
    wished = asked | {"chat_template_kwargs": {"enable_thinking": True}}
    plain, other = answers(run.path / "gguf" / f"{run.name}-Q8_0.gguf", [asked, wished])
    assert plain == other
    assert plain[0]["content"]
    assert not plain[0].get("reasoning_content")


def test_the_prompts_that_llama_cpp_s_server_makes_are_those_of_training(run: Run) -> None:
    renderer = Renderer(template=read_template(run.merged), vocabulary=read_vocabulary(run.merged))
    asked = [{"messages": messages, "tools": tools, "max_tokens": 1} for messages, tools in CONVERSATIONS]
    made = answers(run.path / "gguf" / f"{run.name}-BF16.gguf", asked)
    for (messages, tools), (_, prompt, num_tokens) in zip(CONVERSATIONS, made, strict=True):
        assert prompt == renderer.template.render(messages, tools, ask=True, enable_thinking=False)
        assert num_tokens == len(renderer.prompt_ids(messages, tools, thinking=False))


def test_a_weight_of_another_model_is_found(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "merged"
    shutil.copytree(run.merged, folder)
    for shard in folder.glob("*.safetensors"):
        tensors = load_file(shard)
        for name in tensors:
            if name.endswith("layers.3.input_layernorm.weight"):
                tensors[name][7] += 0.5
        save_file(tensors, shard, {"format": "pt"})
    with pytest.raises(ProofFailed, match="a weight of the GGUF is not the merged model's") as told:
        same_weights(run.path / "gguf" / f"{run.name}-BF16.gguf", folder)
    assert "layers.3.input_layernorm" in told.value.problems[0].where


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda fields: fields.update({"tokenizer.chat_template": "x"}), "chat template"),
        (lambda fields: fields.update({"tokenizer.ggml.eos_token_id": 0}), "end of turn"),
        (lambda fields: fields["tokenizer.ggml.tokens"].pop(), "tokens"),
        (lambda fields: fields.update({"general.architecture": "llama"}), "architecture"),
        (lambda fields: fields.update({"tokenizer.ggml.pre": "default"}), "pre-tokenizer"),
    ],
)
def test_metadata_that_differ_are_found(
    run: Run, converter: Converter, change: Callable[[dict[str, Any]], object], what: str
) -> None:
    file = run.path / "gguf" / f"{run.name}-Q8_0.gguf"
    told, template = converter.run("read", file), (run.merged / "chat_template.jinja").read_text()
    template = as_trained(template, thinking=False, preserve_thinking=False)
    assert len(check_fields(file, told, run.merged, template)) == 2
    change(told["fields"])
    with pytest.raises(ProofFailed, match=f"the {what} of the GGUF is another"):
        check_fields(file, told, run.merged, template)


def test_a_tokenizer_that_splits_otherwise_is_not_taken_for_qwen35(pico_base: Path, tmp_path: Path) -> None:
    assert splits_as_qwen35(pico_base)
    told = json.loads((pico_base / "tokenizer.json").read_text())
    text = json.dumps(told).replace("\\\\p{M}", "")
    (tmp_path / "tokenizer.json").write_text(text)
    assert text != json.dumps(told)
    assert not splits_as_qwen35(tmp_path)


def test_the_converter_s_last_words_are_told(converter: Converter, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUX")
    with pytest.raises(OutsideError, match="converter failed to read") as told:
        converter.run("read", tmp_path / "x.gguf")
    assert "GGUF magic invalid" in told.value.problems[0].why


def test_a_cached_converter_that_is_damaged_is_fetched_anew(converter: Converter, tmp_path: Path) -> None:
    folder = tmp_path / converter.folder.name
    shutil.copytree(converter.folder, folder)
    (folder / "conversion" / "qwen.py").write_text("")
    assert find(None, tmp_path).folder == folder
    assert (folder / "conversion" / "qwen.py").read_bytes() == (
        converter.folder / "conversion" / "qwen.py"
    ).read_bytes()


def test_a_folder_without_a_converter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no checkout of llama"):
        find(tmp_path, tmp_path)

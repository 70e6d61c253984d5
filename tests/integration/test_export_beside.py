"""What stands beside a GGUF of the base: a GGUF LoRA that llama.cpp adds as training did, and the base's vision."""

from __future__ import annotations

import base64
import json
import shutil
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial.made_run import made_run

from finetune.cli import app
from finetune.data.template import read_template
from finetune.errors import ArtifactError, ProofFailed
from finetune.export import export_beside, lora
from finetune.export.converter import Converter, find
from finetune.merge.changes import Adapter
from finetune.merge.ondisk import model_on_disk, states
from finetune.merge.order import Order, take
from finetune.model.adapter import WEIGHTS
from finetune.plan import read_plan
from finetune.run import Run, manifest

IDS = [(37 * i + 11) % 500 for i in range(60)]

MOST_APART = 0.003
"""Of the logarithm of a probability: llama.cpp keeps keys and values in 16 bits. 0.0004 was seen."""

SERVE = """
import json, sys
import xllamacpp
model, files, questions = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
wishes = xllamacpp.CommonParams()
wishes.model.path, wishes.n_ctx, wishes.n_parallel, wishes.use_jinja = model, 1024, 1, True
wishes.cpuparams.n_threads, wishes.warmup, wishes.verbosity = 1, False, 10  # from 10 on it tells the prompt
wishes.mmproj.path = files.get("mmproj", "")
if "lora" in files:
    wishes.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(files["lora"], 1.0)]
    wishes.chat_template = open(files["template"]).read()
server = xllamacpp.Server(wishes)
for asked in questions:
    told = (server.handle_completions if "prompt" in asked else server.handle_chat_completions)(asked)
    print("ANSWER" + json.dumps(json.loads(told) if isinstance(told, str) else told))
"""


def answers(model: Path, files: dict[str, Path], questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Asks llama.cpp's server."""
    told = json.dumps({name: str(file) for name, file in files.items()})
    words = [sys.executable, "-c", SERVE, str(model), told, json.dumps(questions)]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.removeprefix("ANSWER") for line in done.stdout.splitlines() if line.startswith("ANSWER")]
    return [json.loads(line) for line in lines]


def picture(side: int) -> str:
    """A square of colours as a PNG in a URL."""
    rows = b"".join(b"\0" + bytes(v for x in range(side) for v in (2 * x, 2 * y, 128)) for y in range(side))
    told = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        told += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return "data:image/png;base64," + base64.b64encode(told).decode()


@pytest.fixture(scope="module")
def converter() -> Converter:
    return find(None, Path(__file__).parents[2] / ".cache")


@pytest.fixture(scope="module")
def seeing_base(pico_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dense one, which says how pictures are prepared for it, as published ones do."""
    base = tmp_path_factory.mktemp("seeing") / "base"
    shutil.copytree(pico_base, base)
    half = [0.5, 0.5, 0.5]
    prepared = {"image_mean": half, "image_std": half, "patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
    (base / "preprocessor_config.json").write_text(json.dumps(prepared))
    return base


DENSE, MIXTURE = ("seeing_base", "lora.rslora=true"), ("pico_moe_base", "lora.expert_rank=3")
"""rsLoRA; plain LoRA whose experts have a rank of their own."""


@pytest.fixture(scope="module", params=[DENSE, MIXTURE], ids=["dense", "mixture"])
def run(request: pytest.FixtureRequest, converter: Converter, tmp_path_factory: pytest.TempPathFactory) -> Run:
    base, wish = request.param
    folder = tmp_path_factory.mktemp("beside")
    made = made_run(request.getfixturevalue(base), folder, "method=lora", wish, size=0.3)
    parts = ["--adapter", "--projector"] if base == "seeing_base" else ["--adapter"]
    app.app(["export", str(made.path), *parts, "--converter", str(converter.folder)], standalone_mode=False)
    return made


def tuned(order: Order, adapter: Adapter | None) -> torch.Tensor:
    """Logarithms of the next token's probabilities, as training computes them, (vocabulary,) float32."""
    model = model_on_disk(order.base, read_plan(order.run.plan), adapter)
    head = torch.cat([rows.clone() for _, rows in order.base.rows(order.base.head)])
    return torch.log_softmax(states(model, torch.tensor(IDS))[-1] @ head.T, dim=-1)


def test_llama_cpp_answers_by_base_and_adapter_as_training_does(run: Run, converter: Converter, tmp_path: Path) -> None:
    order, base, template = take(run, "bf16"), tmp_path / "base.gguf", tmp_path / "template"
    template.write_text(read_template(order.base.folder).source)
    converter.run("convert", order.base.folder, template, "base", "f32", base)
    gguf = run.path / "gguf"
    files = {"lora": gguf / f"{run.name}-LORA-F32.gguf", "template": gguf / f"{run.name}.jinja"}
    chat = {
        "messages": [{"role": "user", "content": "Which clause?"}],
        "max_tokens": 1,
        "chat_template_kwargs": {"enable_thinking": True},
    }
    asked = [{"prompt": IDS, "n_predict": 1, "n_probs": 640, "temperature": 0}, chat]
    likely, spoken = answers(base, files, asked)
    wanted, untuned = tuned(order, order.changes), tuned(order, None)
    found = {each["id"]: each["logprob"] for each in likely["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}
    assert len(found) == len(wanted)
    assert max(abs(found[i] - float(wanted[i])) for i in found) < MOST_APART
    assert (wanted - untuned).abs().max() > 100 * MOST_APART
    assert spoken["__verbose"]["prompt"].endswith("<think>\n\n</think>\n\n")
    if (vision := gguf / f"mmproj-{run.name}-F16.gguf").exists():  # a server that sees takes no ids as prompts
        content = [{"type": "image_url", "image_url": {"url": picture(128)}}, {"type": "text", "text": "Which clause?"}]
        (seen,) = answers(
            base, files | {"mmproj": vision}, [chat | {"messages": [{"role": "user", "content": content}]}]
        )
        tokens = seen["usage"]["prompt_tokens"] - spoken["usage"]["prompt_tokens"]
        assert tokens == 4 * 4 + 2  # one for each 32 x 32 pixels, and one at either end


def test_the_manifest_lists_the_files_and_what_was_proven(run: Run) -> None:
    stages, plan = manifest.read(run.manifest)["stages"], read_plan(run.plan)
    files = {f"gguf/{run.name}-LORA-F32.gguf", f"gguf/{run.name}.jinja"}
    files |= set() if plan.expert_rank else {f"gguf/mmproj-{run.name}-F16.gguf"}
    assert [stage["stage"] for stage in stages] == ["train", "export"]
    assert stages[-1]["outputs"].keys() == files
    assert {run.named(file) for file in (run.path / "gguf").iterdir()} == files
    found = {claim["claim"].split(": ")[1]: claim["measured"] for claim in stages[-1]["claims"]}
    tensors = len(load_file(run.adapter / WEIGHTS)) + (2 * 4 if plan.expert_rank else 0)  # gate and up are two there
    assert found["tensors that are the adapter's, A bit for bit and B at the scale of training"] == tensors
    if not plan.expert_rank:
        assert found["tensors that are the base's, matrices rounded to F16"] == 34


def test_a_number_of_another_adapter_is_found(run: Run, converter: Converter, tmp_path: Path) -> None:
    order = take(run, "bf16")
    shutil.copytree(run.adapter, tmp_path / "adapter")
    tensors = load_file(file := tmp_path / "adapter" / WEIGHTS)
    tensors["base_model.model.model.layers.1.linear_attn.out_proj.lora_A.weight"][1, 70] += 1e-6
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ProofFailed, match="a matrix of the GGUF is not the adapter's") as told:
        lora.check(
            run.path / "gguf" / f"{run.name}-LORA-F32.gguf",
            replace(order, changes=Adapter(tmp_path / "adapter")),
            converter,
        )
    assert told.value.problems[0].where.endswith("blk.1.ssm_out.weight")


@pytest.mark.parametrize(
    ("base", "wish", "why"),
    [("pico_base", "lora.dora=true", "DoRA scales whole rows"), ("pico_moe_base", "lora.router=true", "trained whole")],
)
def test_an_adapter_that_llama_cpp_cannot_add_is_refused_and_the_merged_model_named(
    base: str, wish: str, why: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    made = made_run(request.getfixturevalue(base), tmp_path, "method=lora", wish)
    with pytest.raises(ArtifactError, match="cannot add this adapter") as told:
        export_beside(made, ["adapter"], None, None, Path("unused"), print)
    (problem,) = told.value.problems
    assert why in problem.why
    assert problem.fix.startswith(f"finetune export {made.path} --gguf q8_0")


def test_a_base_that_does_not_say_how_pictures_are_prepared_is_refused(pico_base: Path, tmp_path: Path) -> None:
    made = made_run(pico_base, tmp_path, "method=lora")
    with pytest.raises(ArtifactError, match="does not say how pictures are prepared") as told:
        export_beside(made, ["projector"], None, None, Path("unused"), print)
    assert told.value.problems[0].fix.startswith("hf download OWNER/NAME preprocessor_config.json")

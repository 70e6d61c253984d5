"""What is no mixture of adapters is refused before a byte is written; what is asked for is asked for again in full."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial import in_process
from trial.made_run import begun_run, made_run

from finetune.cli import merging
from finetune.demo_base import make_pico_base
from finetune.errors import ArtifactError, ProofFailed, RecipeError
from finetune.merge import Mix, adapter_only, again, combine, merge
from finetune.run import Run


@pytest.fixture(scope="module")
def run(pico_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made_run(pico_base, tmp_path_factory.mktemp("run"), "method=lora")


def refusal(run: Run, mix: Mix) -> str:
    before = sorted(run.path.rglob("*"))
    with pytest.raises(ArtifactError) as told:
        merge(run, "bf16", None, lambda line: None, lambda *told: None, mix)
    assert sorted(run.path.rglob("*")) == sorted({*before, run.lock})  # nothing was begun
    return str(told.value)


def test_what_is_neither_a_run_nor_an_adapter_is_named(run: Run, tmp_path: Path) -> None:
    told = refusal(run, Mix(others=((tmp_path, 1.0),)))
    assert told.startswith("error: this is neither a run nor an adapter\n")
    assert "manifest.json, and adapter_config.json and adapter_model.safetensors, missing" in told
    assert refusal(run, Mix(others=((tmp_path / "x", 1.0),))).startswith("error: there is no such run or adapter\n")


def test_runs_of_another_base_and_unfinished_ones_are_refused(run: Run, pico_base: Path, tmp_path: Path) -> None:
    base = make_pico_base(tmp_path / "base", tied=True)
    other = made_run(base, tmp_path / "other", "method=lora", "lora.targets=[attention]")
    told = refusal(run, Mix(others=((other.path, 1.0),)))
    assert told.startswith("error: small-0001 and small-0001 are not of one base\n")
    assert "another base: it was trained on base, small-0001 on pico\n" in told
    unfinished = begun_run(pico_base, tmp_path)
    told = refusal(run, Mix(others=((unfinished.path, 1.0),)))
    assert f"finetune train --resume {unfinished.path}" in told


Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], None]


def _other_shape(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name in tensors if name.endswith("lora_A.weight"))
    tensors[name] = tensors[name][:, :-1].contiguous()


def _without_one(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    del tensors[next(name for name in tensors if name.endswith("lora_B.weight"))]


WRONG: dict[str, tuple[Change, str]] = {
    "another base": (
        lambda config, _: config.update(base_model_name_or_path="Qwen/Qwen3.6-27B"),
        "its adapter_config.json says Qwen/Qwen3.6-27B, that of small-0001 ",
    ),
    "another revision": (lambda config, _: config.update(revision="abc"), " at abc, that of small-0001 "),
    "another shape": (_other_shape, "the adapter is not of this base"),
    "a half": (_without_one, "error: the adapter lacks base_model.model.model.layers."),
    "biases": (lambda config, _: config.update(lora_bias=True), "it asks for lora_bias, which is more than W + scale"),
    "DoRA": (lambda config, _: config.update(use_dora=True), "error: the adapter lacks"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_adapter_that_is_not_of_this_base_or_not_a_sum_is_refused(wrong: str, run: Run, tmp_path: Path) -> None:
    change, expected = WRONG[wrong]
    folder = Path(shutil.copytree(run.adapter, tmp_path / "other"))
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    change(config, tensors)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    assert expected in refusal(run, Mix(others=((folder, 1.0),)))


def test_dora_and_thinned_routers_have_no_sum(pico_moe_base: Path, pico_base: Path, tmp_path: Path) -> None:
    dora = made_run(pico_base, tmp_path / "dora", "method=lora", "lora.dora=true")
    assert refusal(dora, Mix(weight=0.5)).startswith("error: DoRA cannot be combined\n")
    routers = made_run(pico_moe_base, tmp_path, "method=lora", "lora.router=true")
    told = refusal(routers, Mix(others=((routers.path, 1.0),), method="ties", density=0.5))
    assert told.startswith("error: routers that were trained whole cannot be combined by ties\n")
    assert told.endswith("fix   --method linear")


WORDS: dict[str, tuple[str, str]] = {
    "{run}=nan": ("a weight is a finite number", "{run}=1"),
    "{run} {run}=-inf": ("a weight is a finite number", "{run}=1"),
    "{run}=0 {run}=0.0": ("every adapter has the weight 0", "{run}=1"),
    "{run} --density 0.5": ("linear has no density", "--method ties, or --method dare"),
    "{run} --method ties --density 0": ("there is no such density", "--density 0.5"),
    "{run} --method dare --density 1.5": ("there is no such density", "--density 0.5"),
    "{run} --adapter-only": ("there is nothing to combine", "finetune merge {run} ANOTHER-RUN --adapter-only"),
    "{run}=2 --adapter-only --onto dequantised": ("there is no such adapter", "leave one of the two out"),
    "{run} {run} --method ties --adapter-only": (
        "ties makes no adapter",
        "finetune merge {run} {run} --method ties --density 0.5   # or --method linear",
    ),
}


@pytest.mark.parametrize("words", WORDS)
def test_words_that_make_no_sense_are_told_with_a_fix(words: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    what, fix = WORDS[words]
    assert in_process.command("merge", *words.format(run=run.path).split()) == RecipeError.exit_code
    told = capsys.readouterr().err
    assert told.startswith(f"error: {what}\n")
    assert told.endswith(f"  fix   {fix.format(run=run.path)}\n")


def test_a_method_that_is_unknown_is_told_with_those_there_are(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_process.command("merge", str(run.path), "--method", "slerp") == RecipeError.exit_code
    assert "'linear', 'ties', 'dare'" in capsys.readouterr().err


def test_only_a_number_behind_the_last_equals_sign_is_a_weight_and_a_folder_s_own_name_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=1").mkdir()
    words = ["a=1", "a=1=0.5", "b=c", "b=c=-2e-1", "d", "e=2"]
    expected = [("a=1", 1.0), ("a=1", 0.5), ("b=c", 1.0), ("b=c", -0.2), ("d", 1.0), ("e", 2.0)]
    assert merging._weighed(words) == [(Path(path), weight) for path, weight in expected]


def test_the_command_that_goes_on_repeats_every_word(run: Run, tmp_path: Path) -> None:
    mix = Mix(0.1, ((tmp_path / "a=b c", 1.0), (Path("d"), -1e-7)), "dare", 0.3)
    told = shlex.split(again(run, "dequantised", tmp_path / "out", mix))
    adapters = [f"{run.path}=0.1", f"{tmp_path}/a=b c", "d=-1e-07"]
    rest = ["--method", "dare", "--density", "0.3", "--onto", "dequantised", "--out", f"{tmp_path}/out"]
    assert told == ["finetune", "merge", *adapters, *rest]
    assert merging._weighed(told[2:5]) == [(run.path, mix.weight), *mix.others]
    assert mix.folder(run, "merged").name == "merged-with-a=b c-d"
    assert Mix(0.5).folder(run, "adapter").name == "adapter-0.5"
    assert Mix(others=((Path("d"), 1.0),) * 4).folder(run, "merged").name == "merged-with-4-others"


def test_other_weights_do_not_take_what_is_finished_for_theirs(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    combine(run, Mix(0.5), out, lambda line: None)
    with pytest.raises(ArtifactError, match="there is something in this place"):
        combine(run, Mix(0.25), out, lambda line: None)


def test_a_combined_adapter_that_is_not_the_sum_fails_its_proof_and_gets_no_name(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(adapter: Any, base: Any, folder: Path) -> None:
        write(adapter, base, folder)
        file = folder / "adapter_model.safetensors"
        tensors = load_file(file)
        name = next(name for name in tensors if name.endswith("layers.2.mlp.up_proj.lora_B.weight"))
        save_file({**tensors, name: tensors[name] * 1.001}, file)

    write = adapter_only._write
    monkeypatch.setattr(adapter_only, "_write", wrong)
    with pytest.raises(ProofFailed, match=r"up_proj\.weight is not the weighted sum of the adapters"):
        combine(run, Mix(0.5), tmp_path / "out", lambda line: None)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.partial" / "out").is_dir()

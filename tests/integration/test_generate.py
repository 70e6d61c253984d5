"""Answers come from the prompt that was trained with, with and without the adapter."""

import json
import re
import shutil
from pathlib import Path

import pytest

from finetune.errors import ArtifactError
from finetune.generate import Tuned, answer, open_tuned
from finetune.model import load_base
from finetune.plan import read_plan
from finetune.run import Run
from finetune.stopping import Stop
from finetune.train import train


@pytest.fixture(scope="module")
def tuned(blue_run: Run) -> Tuned:
    return open_tuned(blue_run)


def test_the_tuned_model_answers_as_it_was_taught_and_the_base_does_not(tuned: Tuned) -> None:
    asked = [{"role": "user", "content": "colour 7?"}]
    shown: list[str] = []
    assert answer(tuned, asked, temperature=0, max_new_tokens=16, show=shown.append) == "blue"
    assert "".join(shown) == "blue"
    assert answer(tuned, asked, temperature=0, max_new_tokens=16, as_base=True) != "blue"


def test_the_prompt_is_the_one_of_training(tuned: Tuned) -> None:
    ids = tuned.renderer.prompt_ids(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "colour 7?"}], (), tuned.thinking
    )
    assert tuned.renderer.vocabulary.decode(ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\ncolour 7?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_sampling_is_repeatable_by_its_seed(tuned: Tuned) -> None:
    asked = [{"role": "user", "content": "anything"}]
    first, second = (answer(tuned, asked, temperature=1.5, max_new_tokens=8, seed=3, as_base=True) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("changed", ["the run's plan", "the base's chat template", "the base"])
def test_what_was_not_trained_with_is_not_asked(pico_base: Path, blue_run: Run, tmp_path: Path, changed: str) -> None:
    shutil.copytree(pico_base, tmp_path / "base")
    copy = Run(tmp_path / "runs" / blue_run.name)
    shutil.copytree(blue_run.path, copy.path)
    copy.recipe.write_text(re.sub(r"(?m)^base: .*$", f"base: {tmp_path / 'base'}", copy.recipe.read_text()))
    open_tuned(copy)
    file = {
        "the run's plan": copy.plan,
        "the base's chat template": tmp_path / "base" / "chat_template.jinja",
        "the base": tmp_path / "base" / "config.json",
    }[changed]
    file.write_text(file.read_text() + "\n")
    with pytest.raises(ArtifactError, match=f"{changed} is not the one that was trained with"):
        open_tuned(copy)


def test_a_finished_run_whose_adapter_changed_is_not_called_proven(blue_run: Run, tmp_path: Path) -> None:
    copy = Run(tmp_path / blue_run.name)
    shutil.copytree(blue_run.path, copy.path)
    weights = copy.adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="not the one that was proven"):
        train(copy, Stop(), lambda line: None, lambda record: None)
    weights.unlink()
    with pytest.raises(ArtifactError, match=r"adapter_model\.safetensors is gone"):
        train(copy, Stop(), lambda line: None, lambda record: None)


def test_what_only_transformers_knows_to_be_damaged_is_an_error_of_ours(
    pico_base: Path, blue_run: Run, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(pico_base, base)
    (base / "generation_config.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"the base's generation_config\.json cannot be used"):
        load_base(base, read_plan(blue_run.plan))
    config = json.loads((base / "config.json").read_text())
    config["text_config"]["use_cache"] = "yes"
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=r"the base's config\.json cannot be used"):
        load_base(base, read_plan(blue_run.plan))

"""`finetune verify` finds what was damaged, lost or exchanged, and nothing where all is as it was proven."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial.made_run import made_run

from finetune.errors import ArtifactError
from finetune.export import export, export_for_vllm
from finetune.provenance import links
from finetune.run import Run, manifest, open_run
from finetune.shards import shards
from finetune.verify import verify


def silent(*_: Any) -> None:
    """Takes what would be told to a user."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def exported(pico_moe_base: Path, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Run:
    """A mixture's run, merged and exported."""
    run = made_run(pico_moe_base, tmp_path_factory.mktemp("exported"))
    export(run, ("bf16",), None, None, cache, silent, silent)
    return run


@pytest.fixture
def run(exported: Run, tmp_path: Path) -> Run:
    """A copy to harm, beside it, for the recipe names its base from there."""
    copy = exported.path.with_name(f"copy-of-{tmp_path.name}")
    shutil.copytree(exported.path, copy)
    return open_run(copy)


def wrong(path: Path, cache: Path, base: Path | None = None) -> dict[str, Any]:
    """What does not hold: claim -> what is found."""
    return {each["claim"]: each["measured"] for each in verify(path, base, cache, silent) if not each["holds"]}


@pytest.mark.parametrize("part", ["", "adapter", "merged", "gguf"])
def test_all_that_a_run_made_is_as_it_was_proven(exported: Run, cache: Path, part: str) -> None:
    claims = list(verify(exported.path / part, None, cache, silent))
    assert len(claims) >= 4
    assert [claim for claim in claims if not claim["holds"]] == []


def test_the_chain_goes_from_the_rows_to_the_gguf_by_hashes(exported: Run) -> None:
    told = manifest.read(exported.manifest)
    took = {name for name in told["stages"][-1]["inputs"] if name.startswith("merged/")}
    assert took == {exported.named(shard) for shard in shards(exported.merged)}
    assert [link.told for link in links(told) if not link.holds] == []
    assert links(told)[-1].told == "export took the weights that merging made"


def test_an_adapter_written_for_vllm_has_the_same_places(
    exported: Run, cache: Path, tmp_path: Path, pico_moe_base: Path
) -> None:
    folder, said = tmp_path / "served", list[str]()
    entry = export_for_vllm(exported, folder, said.append)
    assert said == [
        f"vllm serve {pico_moe_base} --enable-lora --max-lora-rank 8 --enable-mixed-moe-lora-format "
        f"--lora-modules {exported.name}={folder}"
    ]
    assert export_for_vllm(exported, folder, said.append) == entry
    assert said[1].startswith("the folder is there")
    told = {each["claim"]: each["measured"] for each in verify(folder, pico_moe_base, cache, silent)}
    ours = {each["claim"]: each["measured"] for each in verify(exported.adapter, None, cache, silent)}
    assert told.pop("layout") == "vLLM"
    assert ours.pop("layout") == "PEFT"
    assert told == ours


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def _shard(run: Run, part: str) -> Path:
    """The first shard of the merged model that holds a tensor of that kind."""
    return next(file for file in sorted(run.merged.glob("*.safetensors")) if any(part in n for n in load_file(file)))


def _lose_mtp(run: Run) -> None:
    file = _shard(run, "mtp.")
    rewrite(file, lambda tensors: [tensors.pop(name) for name in list(tensors) if "mtp." in name])


def _nan(run: Run) -> None:
    rewrite(_shard(run, "visual."), lambda tensors: next(iter(tensors.values())).view(-1)[:1].fill_(torch.nan))


def _other_template(run: Run) -> None:
    with (run.merged / "chat_template.jinja").open("a") as file:
        file.write("{# served #}")


def _quantised(run: Run) -> None:
    config = json.loads((run.merged / "config.json").read_text())
    (run.merged / "config.json").write_text(json.dumps({**config, "quantization_config": {"load_in_4bit": True}}))


def _cut(run: Run) -> None:
    file = _shard(run, "visual.")
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("harm", "claims"),
    [
        (_lose_mtp, {"the base's index is not that of its shards"}),
        (_nan, {"tensors whose numbers are all finite"}),
        (_other_template, {"configs, tokenizer and template, the base's byte for byte"}),
        (
            _quantised,
            {
                "weights are not quantised, as converters want them",
                "configs, tokenizer and template, the base's byte for byte",
            },
        ),
        (_cut, {"a shard of the base is cut short"}),
    ],
    ids=["lost mtp", "nan", "template", "quantised", "cut short"],
)
def test_a_merged_folder_that_was_harmed_is_told_of_by_itself_and_by_its_run(
    run: Run, cache: Path, harm: Callable[[Run], None], claims: set[str]
) -> None:
    harm(run)
    assert wrong(run.merged, cache).keys() == claims
    (told,) = wrong(run.path, cache).values()
    assert told.endswith("is another")


def test_without_a_base_a_config_that_tells_of_more_than_there_is_is_found(
    run: Run, cache: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(run.merged, alone / "deep" / "model")
    folder = alone / "deep" / "model"
    assert wrong(folder, cache) == {}
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["mtp_num_hidden_layers"] = 0
    (folder / "config.json").write_text(json.dumps(config))
    assert [claim.startswith("tensors of mtp") for claim in wrong(folder, cache)] == [True]


def test_an_adapter_of_another_base_or_with_a_number_that_is_none_is_found(
    run: Run, cache: Path, pico_base: Path
) -> None:
    assert wrong(run.adapter, cache, pico_base).keys() == {"the adapter is not of this base"}
    rewrite(run.adapter / "adapter_model.safetensors", lambda tensors: next(iter(tensors.values()))[0].fill_(torch.inf))
    assert wrong(run.adapter, cache).keys() == {"whose numbers are all finite"}


def test_a_gguf_that_was_exchanged_or_cut_is_found(run: Run, cache: Path) -> None:
    (file,) = (run.path / "gguf").glob("*.gguf")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    told = wrong(file, cache)
    assert told.keys() == {f"{file.name}: the file that was proven", f"{file.name}: a GGUF"}


def test_what_was_removed_whole_is_no_damage_and_what_is_missing_from_a_folder_is(run: Run, cache: Path) -> None:
    shutil.rmtree(run.path / "gguf")
    assert wrong(run.path, cache) == {}
    (run.merged / "config.json").unlink()
    assert list(wrong(run.path, cache).values()) == ["config.json is gone"]


def test_a_folder_for_vllm_that_was_harmed_is_not_taken_for_the_adapter(run: Run, cache: Path) -> None:
    export_for_vllm(run, None, silent)
    (run.path / "vllm" / "adapter_config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"adapter_config.json is not the one that was proven"):
        export_for_vllm(run, None, silent)
    assert list(wrong(run.path, cache).values()) == ["adapter_config.json is another"]


def test_a_run_whose_base_is_not_here_is_verified_without_it(exported: Run, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(exported.path, tmp_path / exported.name)
    claims = list(verify(tmp_path / exported.name, None, cache, silent))
    assert [claim["claim"] for claim in claims if not claim["holds"]] == []
    assert any(claim["claim"] == "the base was not compared" for claim in claims)


@pytest.mark.parametrize("raw", ["[" * 99_999, "[]", "", '{"alpha_pattern": [1]}'])
def test_an_adapters_config_of_another_kind_is_a_claim_that_does_not_hold(run: Run, cache: Path, raw: str) -> None:
    (run.adapter / "adapter_config.json").write_text(raw)
    assert wrong(run.adapter, cache).keys() == {"the adapter's config cannot be read"}
    alone = shutil.copytree(run.adapter, run.path / "far" / "from" / "it" / "adapter")  # where no run tells the base
    assert wrong(alone, cache).keys() == {"the adapter's config cannot be read"}


@pytest.mark.parametrize("value", [5, [5], {"a": 1}])
def test_a_class_that_is_no_name_is_a_claim_that_does_not_hold(run: Run, cache: Path, value: Any) -> None:
    config = json.loads((run.merged / "config.json").read_text())
    (run.merged / "config.json").write_text(json.dumps({**config, "architectures": value}))
    assert "the class that vLLM and SGLang serve" in wrong(run.merged, cache)


def test_a_name_that_no_file_can_have_is_one_that_is_gone(run: Run, cache: Path) -> None:
    told = json.loads(run.manifest.read_text())
    told["stages"][0]["outputs"] |= {f"adapter/{'x' * 5000}": "00"}
    run.manifest.write_text(json.dumps(told))
    (found,) = wrong(run.path, cache).values()
    assert found.endswith("x is gone")


def test_where_there_is_nothing_that_is_said(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ArtifactError, match="nothing to verify"):
        list(verify(tmp_path, None, cache, silent))

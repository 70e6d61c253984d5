"""Several adapters become one: what comes out is what PEFT's own arithmetic makes of their deltas."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.utils.merge_utils import task_arithmetic, ties
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

sys.path.append(str(Path(__file__).parents[1] / "proof"))

from trial import in_process
from trial.made_run import made_run

from finetune.merge import Method, Mix, combine, merge
from finetune.merge.combining import SEED
from finetune.merge.deltas import drawn, key_of, kth_largest
from finetune.run import atomic, manifest

pytestmark = pytest.mark.filterwarnings(  # PEFT 0.21 looks for these keys among modules only, and applies them
    "ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning"
)

KINDS: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    "dense": (
        "pico_base",
        (
            ("method=lora", "lora.targets=[attention,mlp]"),
            ("lora.rank=8", "lora.rslora=true", "lora.alpha=3"),
            ("method=lora", "lora.rank=2", "lora.targets=[linear_attention]"),
        ),
    ),
    "mixture": (
        "pico_moe_base",
        (
            ("method=lora", "lora.targets=[attention,mlp,experts]"),
            ("lora.expert_rank=3", "lora.rslora=true"),
            ("method=lora", "lora.router=true", "lora.targets=[experts]"),
        ),
    ),
}
"""Kind of base -> the wishes of three runs; the third one's adapter is given as a folder of PEFT's."""

WEIGHTS = (1.0, 0.7, -0.4)

Tensors = dict[str, torch.Tensor]


class Case:
    """A base, three adapters, and what each adds to every weight, as plain PEFT has it."""

    def __init__(self, base: Path, folder: Path, wishes: tuple[tuple[str, ...], ...]) -> None:
        self.base = base
        self.runs = [made_run(base, folder / str(i), *each, seed=i) for i, each in enumerate(wishes)]
        self.bare = Path(shutil.copytree(self.runs[2].adapter, folder / "a=b" / "third"))
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        self.weights: Tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.deltas = [self.added(run.adapter) for run in self.runs]

    def added(self, adapter: Path) -> Tensors:
        """Merges an adapter into zeros, by plain PEFT: no rounding of a sum with a weight hides anything."""
        model = AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32)
        for parameter in model.parameters():
            parameter.data.zero_()
        found = PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
        routers = {name for name in found if name.endswith("mlp.gate.weight") and found[name].any()}
        return {n: t - self.weights[n] if n in routers else t for n, t in found.items() if t.any()}

    def sum(self) -> Tensors:
        """The weighted sum of all deltas; the second adapter is there twice."""
        found: Tensors = {}
        for deltas, weight in zip([*self.deltas, self.deltas[1]], (*WEIGHTS, 0.3), strict=True):
            for name, delta in deltas.items():
                found[name] = found.get(name, torch.zeros_like(delta)) + weight * delta
        return found

    def mix(self, method: Method = "linear", density: float | None = None) -> Mix:
        """Asks for all of them; by the other methods for the first two."""
        others = ((self.runs[1].path, WEIGHTS[1]), (self.bare, WEIGHTS[2]), (self.runs[1].path, 0.3))
        return Mix(1.0, others if method == "linear" else others[:1], method, density)


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    base, wishes = KINDS[request.param]
    return Case(request.getfixturevalue(base), tmp_path_factory.mktemp("several"), wishes)


def merged(case: Case, mix: Mix, out: Path) -> Tensors:
    """Merges, and gives the weights under the names of the text-only class, and the manifest's entry's claims hold."""
    entry = merge(case.runs[0], "bf16", out, lambda line: None, lambda *told: None, mix)
    assert all(claim["holds"] for claim in entry["claims"])
    found = {n: t for file in sorted(out.glob("*.safetensors")) for n, t in load_file(file).items()}
    return {
        n.replace("model.language_model.", "model."): t for n, t in found.items() if n.startswith(("model.l", "lm"))
    }


def strays(one: torch.Tensor, other: torch.Tensor) -> int:
    """Counts numbers that are more than a unit in bfloat16's last place apart: their bits, in the order of the numbers.

    Where weight and deltas cancel, what float32 rounded of terms of 0.1 is more than that: 1e-8 is granted.
    """

    def ordered(tensor: torch.Tensor) -> torch.Tensor:
        bits = tensor.to(torch.bfloat16).view(torch.int16).int()
        return torch.where(bits < 0, -32768 - bits, bits)

    return int((((ordered(one) - ordered(other)).abs() > 1) & ((one - other).abs() > 1e-8)).sum())


def test_the_weighted_sum_is_that_of_plain_peft_s_deltas_to_a_unit_in_the_last_place(
    case: Case, tmp_path: Path
) -> None:
    found, added = merged(case, case.mix(), tmp_path / "out"), case.sum()
    assert found.keys() == case.weights.keys()
    for name, weight in case.weights.items():
        if name not in added:
            assert torch.equal(found[name], weight.bfloat16()), name
        else:
            assert strays(found[name], weight + added[name]) == 0, name


def test_ties_is_peft_s_on_the_whole_delta_of_every_matrix(case: Case, tmp_path: Path) -> None:
    found, density = merged(case, case.mix("ties", 0.3), tmp_path / "out"), 0.3
    for name, weight in case.weights.items():
        parts = [(d[name], w) for d, w in zip(case.deltas[:2], WEIGHTS[:2], strict=True) if name in d]
        if not parts:
            continue
        weights = torch.tensor([w for _, w in parts])
        matrices = [[d] for d, _ in parts] if weight.dim() == 2 else [list(d) for d, _ in parts]
        added = torch.stack([ties(list(deltas), weights, density) for deltas in zip(*matrices, strict=True)])
        # numbers that float32's rounding cannot tell apart may change places at the bound
        assert strays(found[name], weight + added.view(weight.shape)) <= 2, name


def test_dare_is_peft_s_sum_of_deltas_of_which_a_share_is_drawn(case: Case, tmp_path: Path) -> None:
    found, density = merged(case, case.mix("dare", 0.25), tmp_path / "out"), 0.25
    for name, weight in case.weights.items():
        parts = [(i, d[name]) for i, d in enumerate(case.deltas[:2]) if name in d]
        if not parts:
            continue
        rows, width = weight.view(-1, weight.shape[-1]).shape
        masks = [drawn(key_of(SEED, i, name), 0, rows, width, density).view(weight.shape) for i, _ in parts]
        thinned = [delta * mask / density for (_, delta), mask in zip(parts, masks, strict=True)]
        added = task_arithmetic(thinned, torch.tensor([WEIGHTS[i] for i, _ in parts]))
        assert strays(found[name], weight + added) == 0, name


def test_the_combined_adapter_says_in_plain_peft_what_its_parts_say_together(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    entry = combine(case.runs[0], case.mix(), out, lambda line: None)
    found, wanted = case.added(out), case.sum()
    assert found.keys() == wanted.keys()
    for name, delta in wanted.items():
        away = (found[name] - delta).norm() / delta.norm()
        assert away < 1e-5 if name.endswith("mlp.gate.weight") else away < 1e-6, name  # a router is kept whole
    assert entry["outputs"] == {str(file): atomic.sha256(file) for file in out.iterdir()}
    assert [stage["stage"] for stage in manifest.read(case.runs[0].manifest)["stages"]].count("combine") == 1
    assert combine(case.runs[0], case.mix(), out, lambda line: None) == entry  # it is verified, and not made again


def test_layers_may_have_other_ranks_and_targets_in_the_combined_adapter(case: Case, tmp_path: Path) -> None:
    lacking = Path(shutil.copytree(case.runs[1].adapter, tmp_path / "without layer 0"))
    tensors = load_file(lacking / "adapter_model.safetensors")
    rest = {name: tensor for name, tensor in tensors.items() if ".layers.0." not in name}
    save_file(rest, lacking / "adapter_model.safetensors")
    combine(case.runs[0], Mix(others=((lacking, 0.7),)), tmp_path / "adapter", lambda line: None)
    found, wanted = case.added(tmp_path / "adapter"), dict(case.deltas[0])
    for name, delta in case.deltas[1].items():
        if ".layers.0." not in name:
            wanted[name] = wanted.get(name, torch.zeros_like(delta)) + 0.7 * delta
    assert found.keys() == wanted.keys()
    for name, delta in wanted.items():
        assert (found[name] - delta).norm() < 1e-6 * delta.norm(), name


def test_the_manifest_names_every_adapter_and_a_merge_of_the_run_alone_is_another(
    pico_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (made_run(pico_base, tmp_path / str(seed), "method=lora", seed=seed) for seed in (0, 1))
    mix, said = Mix(0.5, ((two.path, 2.0),), "dare", 0.5), list[str]()
    entry = merge(one, "bf16", None, said.append, lambda *told: None, mix)
    folder = one.path / "merged-with-small-0001"
    names = ("adapter_config.json", "adapter_model.safetensors")
    assert entry["inputs"]["adapters"] == [
        {"adapter": "small-0001", "weight": w, **{name: atomic.sha256(run.adapter / name) for name in names}}
        for run, w in ((one, 0.5), (two, 2.0))
    ]
    assert {key: entry["inputs"][key] for key in ("method", "density", "seed", "onto")} == {
        "method": "dare",
        "density": 0.5,
        "seed": SEED,
        "onto": "bf16",
    }
    assert entry["outputs"].keys() == {f"{folder.name}/{file.name}" for file in folder.iterdir()}
    alone = merge(one, "bf16", None, said.append, lambda *told: None)
    assert one.merged.is_dir()
    assert "adapters" not in alone["inputs"]
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert in_process.command("merge", f"{one.path}=0.5", f"{two.path}=2", "--method", "dare") == 0
    told = capsys.readouterr()
    assert told.out == f"{folder}\n"
    assert "the merge is finished, and its files are those that were proven\n" in told.err
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    assert [stage["stage"] for stage in manifest.read(one.manifest)["stages"]] == ["train", "merge", "merge"]


def test_draws_and_bounds_do_not_depend_on_the_pieces_that_are_read() -> None:
    for width in (64, 63):
        whole = drawn(7, 0, 200, width, 0.3)
        pieces = torch.cat([drawn(7, first, count, width, 0.3) for first, count in ((0, 7), (7, 150), (157, 43))])
        assert torch.equal(whole, pieces)
        assert abs(whole.double().mean().item() - 0.3) < 4 * (0.21 / whole.numel()) ** 0.5
    numbers = torch.randn(1000, 37, generator=torch.Generator().manual_seed(0))
    for k in (1, 5, 18_500, 37_000):
        assert kth_largest(lambda: iter(numbers.split(100)), k) == numbers.abs().flatten().topk(k)[0][-1].item()
    assert kth_largest(lambda: iter([torch.zeros(5, 5)]), 3) == 0
    assert kth_largest(lambda: iter([numbers]), 0) == torch.inf

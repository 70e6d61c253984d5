"""`finetune plan` as a user types it."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol
from xml.etree import ElementTree

import pytest

from finetune.cli import main
from finetune.plan import read_plan
from finetune.plan.picture import draw_memory


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


class Command(Protocol):
    """Runs `finetune plan r.yaml` with more words."""

    def __call__(self, *words: str) -> Done: ...


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    (tmp_path / "r.yaml").write_text("base: Qwen/Qwen3.6-27B\ndata: {train: rows.jsonl, eval: 0, max_length: 4096}\n")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Hi", "completion": "Hello"}\n' * 40)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))  # no base of this computer is found

    def run(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["finetune", "plan", "r.yaml", *words])
        with pytest.raises(SystemExit) as left:
            main()
        told = capsys.readouterr()
        return Done(int(left.value.code or 0), told.out, told.err)

    return run


def test_the_table_adds_up_to_its_peak_and_says_that_it_fits(plan: Command) -> None:
    done = plan("--gpu", "24GB")
    assert (done.code, done.err) == (0, "")
    table = done.out.split("at its worst moment")[1]
    *parts, peak = (float(size) for size in re.findall(r"([0-9]+\.[0-9]{2}) GiB", table))
    assert sum(parts) == pytest.approx(peak, abs=0.01 * len(parts))
    verdict = re.match(r"fits: ([0-9.]+) GiB at the peak; 24GB gives training 23.28 GiB; ([0-9.]+) GiB to", done.out)
    assert verdict
    assert float(verdict[1]) == peak
    assert float(verdict[2]) == pytest.approx(23.28 - peak, abs=0.011)


def test_what_fits_by_less_than_the_arithmetic_may_be_off_by_says_so(plan: Command) -> None:
    done = plan("--gpu", "24GB", "--set", "data.max_length=34048")
    assert done.code == 0
    assert done.out.startswith("fits NARROWLY: ")


def test_no_line_of_the_table_is_wider_than_a_terminal(plan: Command) -> None:
    for gpu in ("24GB", "8GB", "cpu"):
        table = plan("--gpu", gpu).out.split("at its worst moment")[1].splitlines()
        assert max(len(line) for line in table if "▇" in line) <= 100


def test_the_host_that_is_named_is_kept_to(plan: Command) -> None:
    long = ("--gpu", "24GB", "--set", "data.max_length=16384")
    free = json.loads(plan(*long, "--json").out)
    assert sum(free["host_parts"].values()) == free["host_bytes"]
    small = plan(*long, "--host", "24GB", "--json")
    told = json.loads(small.out)
    assert told["host_bytes"] <= 0.8 * 24 * 2**30 < free["host_bytes"]
    assert told["choices"] != free["choices"]
    assert (small.code, told["fits"]) == (0, True)
    assert plan("--gpu", "24GB", "--host", "much").code == 2


def test_the_json_is_the_plan_and_nothing_else(plan: Command) -> None:
    done = plan("--gpu", "24GB", "--json")
    told = json.loads(done.out)
    assert told["fits"]
    assert sum(told["parts"].values()) == told["peak_bytes"]


def test_what_does_not_fit_ends_with_4_and_a_line_to_copy(plan: Command) -> None:
    done = plan("--gpu", "24GB", "--set", "data.max_length=131072")
    assert done.code == 4
    assert "DOES NOT FIT" in done.out
    fix = done.err.splitlines()[-1]
    assert fix.startswith("  fix   --set ")
    first = fix.removeprefix("  fix   ").split(" or ")[0].split()
    again = plan("--gpu", "24GB", "--set", "data.max_length=131072", *first)
    assert (again.code, again.err) == (0, "")


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (("--gpu", "cpu"), "--gpu"),
        (("--gpu", "cpu", "--host", "1GB", "--set", "base=Qwen/Qwen3.5-2B", "--set", "method=lora"), "--host"),
        (("--gpu", "1GB"), "--gpu"),
        (("--gpu", "24GB", "--host", "3GB"), "--host"),
        (("--gpu", "b200", "--host", "3GB", "--set", "method=full", "--set", "base=Qwen/Qwen3.5-2B"), "--host"),
    ],
)
def test_where_no_recipe_near_fits_the_machine_on_which_it_does_is_named(
    plan: Command, words: tuple[str, ...], flag: str
) -> None:
    done = plan(*words)
    assert done.code == 4
    fix = done.err.splitlines()[-1].removeprefix("  fix   ").split(" # ")[0].split()
    assert fix[0] == flag
    assert plan(*words, *fix).code == 0


def test_of_what_a_gpu_can_hold_the_set_that_lacks_least_host_memory_is_told(plan: Command) -> None:
    told = json.loads(plan("--gpu", "24GB", "--host", "3GB", "--json").out)
    assert told["peak_bytes"] <= told["gpu_bytes"]
    others = json.loads(plan("--gpu", "24GB", "--json").out)
    assert told["host_bytes"] <= others["host_bytes"]


def test_a_driver_that_does_not_answer_is_told(plan: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho broken; exit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    told = json.loads(plan("--json").out)["notes"]
    assert "planned without a GPU, for nvidia-smi ended with exit code 9: broken; finetune doctor tells more" in told


def test_a_bare_size_says_whose_speed_it_has(plan: Command) -> None:
    notes = json.loads(plan("--gpu", "24GB", "--json").out)["notes"]
    assert notes == ["24GB has the speed of an rtx3090; --gpu takes a card's name too"]
    assert json.loads(plan("--gpu", "rtx4090", "--json").out)["notes"] == []


def test_json_of_what_does_not_fit_is_whole_too(plan: Command) -> None:
    done = plan("--gpu", "8GB", "--json")
    assert done.code == 4
    assert json.loads(done.out)["fits"] is False


def test_explain_tells_of_every_position_that_was_left(plan: Command) -> None:
    done = plan("--gpu", "24GB", "--explain", "--set", "memory.optimizer=adamw")
    lines = done.out.split("one lever moved")[1].splitlines()[2:]
    told = {line[:38].strip(): line for line in lines}
    chosen = re.search(r"^levers +(.*)$", done.out, re.MULTILINE)
    assert chosen
    here = set(chosen[1].split(", "))
    every = {"embeddings device", "embeddings host", "head full", "head int8", "head nf4", "checkpoints device"}
    every |= {"checkpoints host", "recompute layer", "recompute halves", "optimizer adamw_8bit"}
    every |= {"optimizer adamw", "optimizer paged_adamw_8bit"}
    assert {name for name in told if not name.startswith("micro_batch")} == every - here
    assert "the recipe pins memory.optimizer" in told["optimizer adamw_8bit"]
    assert "-2.37     +2.37" in told["embeddings host"]
    assert "rounds the head" in told["head nf4"]


def test_why_not_answers_what_is_forbidden_with_the_way_out(plan: Command) -> None:
    done = plan("--gpu", "24GB", "--why-not", "parallel.zero=2")
    assert done.code == 0
    assert done.out == (
        "parallel.zero=2: ZeRO-2 has nothing to shard over: there is one process\n  instead  --set parallel.zero=null\n"
    )


def test_why_not_answers_what_does_not_fit_by_how_much_and_with_what_would(plan: Command) -> None:
    done = plan("--gpu", "16GB", "--set", "data.max_length=2048", "--why-not", "data.max_length=65536")
    first, *others = done.out.splitlines()
    assert re.fullmatch(r"data.max_length=65536: does not fit: [0-9.]+ GiB too much on 16GB", first)
    assert others[0].startswith("  as it is it fits --gpu ")
    assert all(line.startswith("  with  --set ") for line in others[1:])


def test_why_not_answers_what_fits_and_is_slower(plan: Command) -> None:
    done = plan("--gpu", "48GB", "--set", "memory.micro_batch=1", "--why-not", "memory.checkpoints=host")
    assert re.match(r"memory.checkpoints=host: it fits, [+-][0-9.]+ GiB at the peak, as fast; then ", done.out)
    assert "checkpoints host" in done.out


def test_why_not_may_be_asked_twice_and_in_json(plan: Command) -> None:
    asked = ("--why-not", "memory.head=nf4", "--why-not", "lora.rank=64")
    lines = plan("--gpu", "24GB", *asked).out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["memory.head=nf4", "lora.rank=64"]
    told = json.loads(plan("--gpu", "24GB", "--json", "--explain", *asked).out)
    assert told["why_not"].keys() == {"memory.head=nf4", "lora.rank=64"}
    assert {"lever", "position", "peak_bytes", "host_bytes", "seconds", "verdict"} == told["rejected"][0].keys()


def test_why_not_answers_of_a_recipe_that_does_not_fit_too(plan: Command) -> None:
    asked = ("--gpu", "8GB", "--why-not", "lora.rank=8")
    assert (plan(*asked).code, plan(*asked, "--json").code) == (0, 0)


def test_why_not_of_what_is_done_says_so(plan: Command) -> None:
    assert (
        plan("--gpu", "48GB", "--why-not", "memory.head=full").out == "memory.head=full: that is what the plan does\n"
    )


def test_why_not_of_an_unknown_key_is_an_error(plan: Command) -> None:
    done = plan("--gpu", "24GB", "--why-not", "memory.haed=nf4")
    assert done.code == 2
    assert done.err.splitlines()[1:] == [
        "  where --why-not memory.haed=nf4",
        "  why   unknown keys are errors, not comments",
        "  fix   --why-not memory.head=nf4",
    ]
    assert "Traceback" not in done.err


def test_why_not_of_another_base_that_lacks_a_family_or_is_unknown_is_told(plan: Command) -> None:
    done = plan("--gpu", "24GB", "--why-not", "base=someone/else")
    assert done.code != 1
    assert "Traceback" not in done.err


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_picture_is_drawn(plan: Command, suffix: str, tmp_path: Path) -> None:
    done = plan("--gpu", "24GB", "--picture", f"memory{suffix}")
    assert (done.code, done.err) == (0, f"drew memory{suffix}\n")
    drawn = (tmp_path / f"memory{suffix}").read_bytes()
    if suffix == ".png":
        assert drawn.startswith(b"\x89PNG")
    else:
        assert ElementTree.fromstring(drawn).tag.endswith("svg")
    assert len(drawn) > 5000


def test_a_name_of_dollars_is_no_formula(plan: Command, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(plan("--gpu", "24GB", "--json").out)
    named = replace(read_plan(tmp_path / "plan.json"), base=r"$\frac$", gpu="$$")
    draw_memory(named, tmp_path / "memory.svg")
    assert (tmp_path / "memory.svg").stat().st_size > 5000


@pytest.mark.parametrize(
    ("file", "code", "told"),
    [
        ("memory.pdf", 2, "a PNG or an SVG"),
        ("memory", 2, "a PNG or an SVG"),
        ("", 2, "a PNG or an SVG"),
        ("no/such/memory.png", 4, "cannot be written"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_told(plan: Command, file: str, code: int, told: str) -> None:
    done = plan("--gpu", "24GB", "--picture", file)
    assert (done.code, done.err.count("error:")) == (code, 1)
    assert told in done.err


def test_a_card_that_nobody_knows_is_refused(plan: Command) -> None:
    done = plan("--gpu", "nonsense")
    assert done.code == 2
    assert "no GPU is known by that word" in done.err
    assert "--gpu" in done.err.splitlines()[-1]


def test_a_plan_for_the_cpu_is_made_in_the_host_s_memory(plan: Command) -> None:
    done = plan("--gpu", "cpu", "--set", "base=Qwen/Qwen3.5-0.8B", "--set", "method=lora", "--json")
    told = json.loads(done.out)
    assert (told["device"], told["dtype"], told["gpu"]) == ("cpu", "float32", "")
    assert "CUDA context" not in told["parts"]
    assert told["gpu_bytes"] <= 0.8 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# several GPUs

MIXTURE = ("--set", "base=Qwen/Qwen3.6-35B-A3B")


def test_the_page_of_several_gpus_says_what_they_share_and_send(plan: Command) -> None:
    done = plan("--gpu", "h100x8", "--nodes", "2", "--network", "ib400", *MIXTURE)
    assert (done.code, done.err) == (0, "")
    assert "processes    16 on 2 machines: NVLink inside, InfiniBand 400 Gb/s for each GPU between\n" in done.out
    assert re.search(
        r"^on the wire  gradients [0-9.]+ GB a step from each; 9[0-9.]+% of a step computes$", done.out, re.M
    )
    table = done.out.split("sharing out")[1].split("\n\n")[0].splitlines()[1:]
    assert [line.split()[:2] for line in table] == [
        [spread, zero] for spread, zero in zip("---248", "012000", strict=True)
    ]
    assert [line.split()[-1] for line in table].count("chosen") == 1
    assert max(map(len, table)) <= 100
    assert "processes" not in plan("--gpu", "h100", *MIXTURE).out


def test_the_json_of_several_gpus_has_the_wire_and_all_ways(plan: Command) -> None:
    told = json.loads(plan("--gpu", "h100x8", "--json", *MIXTURE).out)
    assert set(told["wire_bytes"]) == {"gradients"}
    assert {(each["expert_parallel"], each["zero"]) for each in told["alternatives"]} == {
        (expert, zero) for expert in (1, 2, 4, 8) for zero in (0, 1, 2)
    }


def test_why_not_answers_what_spreading_the_experts_would_send(plan: Command) -> None:
    asked = ("--why-not", "parallel.expert=4", "--why-not", "parallel.expert=1", "--why-not", "parallel.expert=3")
    spread, whole, odd, instead = plan("--gpu", "rtx4090x8", *MIXTURE, *asked).out.splitlines()
    assert re.match(
        r"parallel.expert=4: it fits, -[0-9.]+ GiB at the peak, \+[0-9]+%, [0-9.]+ GB on the wire a ", spread
    )
    assert spread.endswith("expert 4")
    assert whole == "parallel.expert=1: that is what the plan does"
    assert odd == "parallel.expert=3: the experts cannot be spread evenly: 256 experts do not divide by 3"
    assert instead == "  instead  --set parallel.expert=null"


def test_explain_names_the_ways_that_were_rejected(plan: Command) -> None:
    told = plan("--gpu", "rtx4090x2", "--explain", *MIXTURE).out
    (chosen,) = re.findall(r"^ +(\S+) +([012]) .* chosen$", told, re.M)
    every = {("1", zero) for zero in "012"} | {("2", zero) for zero in "012"}
    rejected = set(re.findall(r"^  parallel expert=(\d) zero=(\d) ", told, re.M))
    assert rejected == every - {(chosen[0].replace("-", "1"), chosen[1])}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--nodes", "2"), "say what each machine has"),
        (("--gpu", "h100x8", "--nodes", "2", "--network", "40gbe"), "no network is known by that word"),
        (("--gpu", "h100x8", "--nodes", "0"), "--nodes"),
    ],
)
def test_machines_that_cannot_be_wished_for_are_refused(plan: Command, words: tuple[str, ...], told: str) -> None:
    done = plan(*words)
    assert (done.code, told in done.err) == (2, True)

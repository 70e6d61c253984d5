"""What several processes send to each other, and how the plan has them share out what they hold."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_memory import job
from test_plan import DENSE, MIXTURE, UNKNOWN, planned

from finetune.cards import CARDS
from finetune.errors import RecipeError
from finetune.hardware import Hardware, started_nodes, wished, with_network, with_nodes
from finetune.levers import Levers
from finetune.links import NETWORKS, inside
from finetune.memory import NF4_BYTES, budget, sent_weights
from finetune.plan import Plan, read_plan
from finetune.plan.wire import all_gather, all_reduce, exchanged_bytes, reduce_scatter, wire_of

FOUR, EIGHT = wished("24GBx4"), wished("h100x8")
TWO_MACHINES = with_nodes(EIGHT, 2)


def together(folder: Path, *words: str, hardware: Hardware = EIGHT, base: str = MIXTURE) -> Plan:
    """Plans for several GPUs; every example is 4,096 tokens long."""
    more = (f"base={base}", "data.max_length=4096", "train.batch_size=64", *words)
    return planned(folder, *more, hardware=hardware, counts=UNKNOWN)


def ways(made: Plan) -> dict[tuple[int, int], int]:
    """Spread and stage -> bytes on the wire, of every way that was looked at."""
    return {(each.expert_parallel, each.zero): each.wire_bytes for each in made.alternatives}


# bytes on the wire


def test_a_ring_sends_what_the_textbook_says() -> None:
    assert all_reduce(100, 4) == 150  # each part goes round but for one hop, to be added up and again to be told
    assert reduce_scatter(100, 4) + all_gather(25, 4) == all_reduce(100, 4)
    assert [collective(100, 1) for collective in (all_reduce, all_gather, reduce_scatter)] == [0, 0, 0]


def test_gradients_and_adapters_on_the_wire_are_those_of_the_adapters(tmp_path: Path) -> None:
    made = together(tmp_path, base=DENSE)
    gradients = 4 * made.trainable_parameters
    assert made.wire_bytes == {"gradients": 2 * 7 * gradients // 8}
    sent = ways(made)
    assert sent[1, 1] == pytest.approx(3 * 7 / 8 * gradients, abs=1)
    shared = together(tmp_path, "parallel.zero=2", "memory.micro_batch=2", base=DENSE)
    # after each of four micro-batches the gradients are added up: nobody keeps those of others' shares
    assert shared.wire_bytes["gradients"] == 4 * 2 * 7 * gradients // 8
    assert shared.wire_bytes["updated adapters"] == pytest.approx(7 / 8 * gradients, abs=1)


def test_tokens_for_spread_experts_are_counted_in_rows_choices_and_weights(tmp_path: Path) -> None:
    made = together(tmp_path, "parallel.expert=4", "memory.micro_batch=2")
    token = 4 * 2048 * 2 + 8 * 8 + 2 * 8 * 2  # states and answers there and back; int64 choices; weights there and back
    assert exchanged_bytes(tokens=1, size=2, hidden=2048, chosen=8, e=2) == token
    every = exchanged_bytes(tokens=1, size=8, hidden=2048, chosen=8, e=2)
    # 16 processes are more than 8 experts: a token meets 16 (1 - (15/16)^8) = 6.45 of them, and not 15 others
    owners = exchanged_bytes(tokens=1, size=16, hidden=2048, chosen=8, e=2)
    assert (every, owners) == (7 * token, pytest.approx(15 * 6.4525 / 16 * token, rel=1e-4))
    assert made.wire_bytes["tokens for routed experts"] == 40 * 4 * 3 * 8192 * token  # layers, micro-batches, others


def test_facts_of_the_wire_are_found_again(tmp_path: Path) -> None:
    """The project's own table: 56 GB for 8,192 tokens over 8 processes in six transfers of bf16 rows; ours are four."""
    sent = 40 * exchanged_bytes(tokens=8192, size=8, hidden=2048, chosen=8, e=2)
    assert sent == pytest.approx(4 / 6 * 56e9, rel=0.02)


def test_one_process_sends_nothing_and_has_nothing_to_share_out(tmp_path: Path) -> None:
    made = planned(tmp_path, f"base={MIXTURE}")
    assert (made.wire_bytes, made.wire_seconds, made.alternatives, made.sharing, made.links) == ({}, 0, (), "", ())


def test_stage_3_gathers_frozen_weights_three_times_in_a_micro_batch() -> None:
    made, levers = job(processes=4, zero=3), Levers()
    whole, shared = (budget(each, levers, 1) for each in (job(processes=4, zero=2), made))
    sent = sent_weights(made, levers)
    packed = whole.parts["linear layers in NF4"] * 0.5 / NF4_BYTES  # not the scales
    assert sent == pytest.approx(packed + whole.parts["embedding"], abs=2)
    assert whole.static_bytes - shared.static_bytes == pytest.approx(3 / 4 * sent, abs=4)
    assert shared.parts["frozen weights made whole"] == 10**9
    wire = wire_of(made, levers, FOUR, micro_steps=2, tokens=4096)
    assert wire.parts["frozen weights"] == 2 * 3 * 3 * sent // 4
    assert wire.parts["gradients"] == 2 * 3 * 4 * made.num_trained // 4  # of each a share, after each micro-batch
    assert wire.seconds > 10 * wire_of(replace(made, zero=2), levers, FOUR, micro_steps=2, tokens=4096).seconds


# links


def test_the_narrowest_place_of_a_ring_decides(tmp_path: Path) -> None:
    one, two, slow = (
        together(tmp_path, base=DENSE, hardware=hardware)
        for hardware in (EIGHT, TWO_MACHINES, with_network(TWO_MACHINES, "site-100m"))
    )
    assert one.links == ("NVLink",)
    assert two.links == ("NVLink", "100 Gb/s Ethernet")
    assert one.wire_seconds < two.wire_seconds < slow.wire_seconds
    assert slow.wire_seconds == pytest.approx(slow.wire_bytes["gradients"] / 11.25e6, rel=0.01)  # 0.9 of 12.5 MB/s
    fast = together(tmp_path, base=DENSE, hardware=with_network(TWO_MACHINES, "ib400"))
    assert fast.wire_seconds == pytest.approx(fast.wire_bytes["gradients"] / 315e9, rel=0.1)  # NVLink: eight adapters


def test_cards_without_nvlink_are_joined_by_half_of_their_slots() -> None:
    assert inside(CARDS["h100"]).bandwidth == pytest.approx(315e9)
    assert inside(wished("80GB").card).name == "nvlink"  # a size has the speed of an A100
    assert inside(CARDS["rtx5090"]).bandwidth == pytest.approx(27.5e9)
    assert inside(CARDS["rtx4090"]).name == "pcie"
    assert inside(None).name == "memory"
    assert NETWORKS["ib400"].of_machine(8) == 8 * NETWORKS["ib400"].of_machine(1)
    assert NETWORKS["100gbe"].of_machine(8) == NETWORKS["100gbe"].of_machine(1)


def test_a_misspelt_network_is_told_with_one_that_is_known() -> None:
    with pytest.raises(RecipeError, match="no network is known by that word") as told:
        with_network(TWO_MACHINES, "25gb")
    fix = told.value.problems[0].fix
    assert fix == "--network 25gbe"
    assert with_network(TWO_MACHINES, fix.split()[1]).network.name == "25gbe"


def test_machines_are_counted_where_an_engine_tells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GROUP_WORLD_SIZE", "CROSS_SIZE", "SLURM_JOB_NUM_NODES", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert started_nodes() == 1
    monkeypatch.setenv("WORLD_SIZE", "12")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "3")
    assert started_nodes() == 3
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    assert started_nodes() == 2
    monkeypatch.setenv("WORLD_SIZE", "1")  # a job of two machines on which one process trains alone
    assert started_nodes() == 1


def test_more_machines_are_wished_for_with_their_gpus() -> None:
    assert (TWO_MACHINES.processes, TWO_MACHINES.nodes, TWO_MACHINES.on_each) == (16, 2, 8)
    with pytest.raises(RecipeError, match="say what each machine has"):
        with_nodes(replace(EIGHT, wished=False), 2)


# what is chosen


def test_experts_that_fit_whole_are_not_spread_and_the_plan_says_what_that_would_send(tmp_path: Path) -> None:
    made = together(tmp_path, hardware=FOUR)
    assert made.expert_parallel == 1
    assert made.fits
    assert "each GPU holds all experts (15.5 GiB): spread over 2 they would send" in made.sharing
    assert {(expert, zero) for expert in (1, 2, 4) for zero in (0, 1, 2)} == set(ways(made))


def test_experts_are_spread_over_the_fewest_that_hold_them(tmp_path: Path) -> None:
    made = together(tmp_path, hardware=wished("rtx4080x8"))
    assert (made.fits, made.expert_parallel) == (True, 2)
    assert "whole the experts lack" in made.sharing
    assert not any(each.fits for each in made.alternatives if each.expert_parallel == 1)


def test_the_plainest_stage_is_taken_unless_states_must_be_shared_out(tmp_path: Path) -> None:
    assert together(tmp_path, base=DENSE).zero == 0
    tight = together(tmp_path, "lora.rank=128", "memory.checkpoints=device", base=DENSE, hardware=wished("24GBx8"))
    assert tight.zero > 0
    assert "or" in tight.sharing or "leaves room" in tight.sharing


def test_what_was_chosen_is_the_fastest_that_fits_but_for_a_fiftieth(tmp_path: Path) -> None:
    for gpus in ("rtx4090x8", "rtx4080x8", "h100x4", "rtxa6000x8"):
        for method in ("qlora", "lora"):
            made = together(tmp_path, f"method={method}", hardware=wished(gpus))
            for each in made.alternatives:
                for_cause = re.search("rounds the head|too close to the edge|routers balance", each.verdict)
                assert not each.fits or for_cause or made.step_seconds <= 1.02 * each.step_seconds, (gpus, each)
            assert [each.verdict for each in made.alternatives].count("chosen") == 1


@pytest.mark.parametrize(
    "words", [("parallel.zero=1", "parallel.expert=4"), ("parallel.zero=2",), ("parallel.expert=8",)]
)
def test_what_the_recipe_says_is_done(tmp_path: Path, words: tuple[str, ...]) -> None:
    made = together(tmp_path, *words)
    wanted = {word.split("=")[0].removeprefix("parallel."): int(word[-1]) for word in words}
    assert made.zero == wanted.get("zero", made.zero)
    assert made.expert_parallel == wanted.get("expert", made.expert_parallel)
    assert all(f"the recipe says {word.replace('=', ' ')}" in made.sharing for word in words)
    assert len(made.alternatives) == (1 if len(words) == 2 else 4 if "zero" in wanted else 3)


def test_experts_are_not_spread_over_machines_unless_the_recipe_says_so(tmp_path: Path) -> None:
    pairs = with_nodes(wished("rtx4080x2"), 4)
    made = together(tmp_path, hardware=pairs)
    assert {expert for expert, _ in ways(made)} == {1, 2}
    across = together(tmp_path, "parallel.expert=8", hardware=pairs)
    assert across.expert_parallel == 8
    assert across.wire_seconds > made.wire_seconds


def test_each_process_has_its_part_of_the_host(tmp_path: Path) -> None:
    poor = replace(EIGHT, wished=False, host_bytes=24 * 2**30)
    alone = replace(poor, processes=1)
    assert together(tmp_path, base=DENSE, hardware=alone).fits
    made = together(tmp_path, base=DENSE, hardware=poor)
    assert not made.fits  # eight processes of 3 GiB, each with a matrix on its way


def test_a_plan_of_several_survives_its_file(tmp_path: Path) -> None:
    made = together(tmp_path, hardware=TWO_MACHINES)
    (tmp_path / "plan.json").write_text(made.to_json())
    assert read_plan(tmp_path / "plan.json") == made


def test_experts_that_fit_whole_are_spread_only_for_much_less_time(tmp_path: Path) -> None:
    """Few tokens at a time, and making all experts whole takes most of a step."""
    short = ("data.max_length=256", "train.batch_size=16", "memory.micro_batch=1")
    gains = {}
    for gpus in ("h100x8", "rtx4090x8"):
        made = together(tmp_path, *short, hardware=with_nodes(wished(gpus), 2))
        whole, spread = (
            min(each.step_seconds for each in made.alternatives if each.fits and (each.expert_parallel > 1) == much)
            for much in (False, True)
        )
        gains[made.expert_parallel > 1] = spread / whole
        assert made.expert_parallel == 1 or "makes fewer experts whole" in made.sharing
        assert (made.expert_parallel > 1) == (spread <= 0.85 * whole)
    assert True in gains

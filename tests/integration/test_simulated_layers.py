"""The plan's bytes beside those of transformers' own layers, run without data: a few of what `scripts/prove simulate`
runs.

What the simulation leaves out, scalars and rounding to 512 bytes, is a thousandth; the formulas leave out what is small
in every base. So two hundredths are held here, and three were promised.
"""

import pytest
from simulation.comparing import KINDS, Pair, compare_layer, compare_loss, compare_stack, lever_sets
from simulation.model import Setting

from finetune.levers import Levers

DENSE, MIXTURE = "Qwen/Qwen3.6-27B", "Qwen/Qwen3.6-35B-A3B"
HALVES = Levers(recompute="halves")

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


def assert_close(pair: Pair, tolerance: float = 0.02) -> None:
    assert abs(pair.apart) <= tolerance, f"{pair.what}: {pair.predicted:,} counted, {pair.simulated:,} simulated"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levers", [Levers(), HALVES], ids=["layer", "halves"])
@pytest.mark.parametrize("nf4", [True, False], ids=["nf4", "bf16"])
def test_one_layer_of_the_27b_holds_what_is_counted(kind: str, levers: Levers, nf4: bool) -> None:
    assert_close(compare_layer(Setting(DENSE, 4096, levers, nf4=nf4), kind))


@pytest.mark.parametrize(
    "setting",
    [
        Setting(DENSE, 1024, kernels=False, convolution=False),
        Setting(DENSE, 1024, HALVES, kernels=False, convolution=False),
        Setting(DENSE, 16_384),
        Setting(DENSE, 2048, micro_batch=2),
        Setting(DENSE, 2048, rank=64),
        Setting(DENSE, 2048, dropout=0.1),
        Setting(DENSE, 2048, dora=True),
        Setting(DENSE, 16_384, HALVES, dora=True),
        Setting(DENSE, 2048, rank=0, nf4=False),
        Setting(DENSE, 2048, convolution=False),
        Setting(MIXTURE, 4096),
        Setting(MIXTURE, 4096, HALVES),
        Setting(MIXTURE, 1024, HALVES),
        Setting(MIXTURE, 4096, dropout=0.1),
        Setting(MIXTURE, 4096, nf4=False),
        Setting("Qwen/Qwen3.5-0.8B", 4096),
        Setting("Qwen/Qwen3.5-9B", 4096, HALVES),
    ],
    ids=str,
)
def test_a_gated_delta_net_layer_of_any_setting_holds_what_is_counted(setting: Setting) -> None:
    assert_close(compare_layer(setting, "linear_attn"))


@pytest.mark.parametrize("levers", list(lever_sets()), ids=lambda levers: f"{levers.checkpoints}-{levers.recompute}")
def test_four_layers_hold_their_inputs_where_the_levers_say(levers: Levers) -> None:
    # the third layer is the largest, and it has three inputs where the budget counts four: of 64, one is a hundredth
    assert_close(compare_stack(Setting(DENSE, 4096, levers)), tolerance=0.03)


@pytest.mark.parametrize("head", ["full", "int8", "nf4"])
@pytest.mark.parametrize("tokens", [512, 2048])
def test_the_loss_holds_what_is_counted_and_no_logits(head: str, tokens: int) -> None:
    setting = Setting(DENSE, tokens, Levers(head=head))  # type: ignore[arg-type]
    for pair in compare_loss(setting):
        assert_close(pair)
        assert pair.simulated < tokens * setting.widths.vocabulary * 2  # what all logits would take in bfloat16 alone

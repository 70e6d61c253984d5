"""The GPUs that people fine-tune on: what each holds, and how fast it computes and moves bytes.

Only NVIDIA: bitsandbytes' 4-bit kernels and flash-linear-attention's backward are proven there. Cards older than
Turing are left out, since CUDA 13 no longer builds for them.

Sources, by column:
  memory             what `nvidia-smi` reports as total, in MiB, in public logs of the card: what ECC takes is gone
                     already (A10, L4, L40S, T4). Cards whose ECC is off by default are given without it (A6000)
  bf16 TFLOP/s       dense, accumulated in float32, which is what training does. GeForce: NVIDIA's whitepapers GA102
                     (Ampere), Ada 2.1 and RTX Blackwell, row "Peak BF16 Tensor TFLOPS with FP32 Accumulate"; the 3060
                     and the Ti cards of 16 GB by the whitepapers' rule, tensor cores x FLOP a clock x boost clock.
                     Data centre and RTX: NVIDIA's datasheet of the card, halved where it gives the sparse figure;
                     RTX PRO 6000: four times its float32 rate, which its generation does.
                     H200: 790 measured with cuBLAS, of 989 in its datasheet
  memory bandwidth   the same sheets
  host bandwidth     one direction, pinned memory, as measured on such slots: 12 GB/s on PCIe 3 x16 and PCIe 4 x8,
                     25 on PCIe 4 x16, 55 on PCIe 5 x16. A slower slot makes it less
  watts              board power in the same sheets
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace

from finetune.errors import RecipeError

GIB, MIB, TERA, GIGA = 2**30, 2**20, 1e12, 1e9

MOST_GPUS = 1024

MOST_HOST_GIB = 65_536

NAMED_TOLERANCE = 0.07
"""Between a size in a card's name and what the driver reports: 23,028 MiB is sold as 24 GB."""


@dataclass(frozen=True)
class Card:
    """One kind of GPU."""

    name: str
    """A word for `--gpu`."""
    memory_bytes: int
    bf16_flops: float
    """FLOP/s of dense bfloat16 products accumulated in float32."""
    memory_bandwidth: float
    """Bytes/s between its memory and its cores."""
    host_bandwidth: float
    """Bytes/s between pinned host memory and the card, one direction."""
    watts: float
    """Of the whole board at full load."""
    compute_capability: tuple[int, int]
    speed_of: str = ""
    """The card whose speed is assumed, where only the memory is known."""


def _card(
    name: str, mib: int, tflops: float, gb_per_second: float, host_gb: float, watts: float, capability: tuple[int, int]
) -> Card:
    return Card(name, mib * MIB, tflops * TERA, gb_per_second * GIGA, host_gb * GIGA, watts, capability)


PCIE3, PCIE4, PCIE5, PCIE4_X8 = 12.0, 25.0, 55.0, 12.0

CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        # name, MiB, bf16 TFLOP/s, GB/s, host GB/s, watts, compute capability
        _card("rtx3060", 12288, 25.5, 360, PCIE4, 170, (8, 6)),
        _card("rtx3090", 24576, 71.0, 936, PCIE4, 350, (8, 6)),
        _card("rtx4060ti", 16380, 44.1, 288, PCIE4_X8, 165, (8, 9)),
        _card("rtx4070tisuper", 16376, 88.2, 672, PCIE4, 285, (8, 9)),
        _card("rtx4080", 16376, 97.5, 716.8, PCIE4, 320, (8, 9)),
        _card("rtx4090", 24564, 165.0, 1008, PCIE4, 450, (8, 9)),
        _card("rtx5070ti", 16303, 87.9, 896, PCIE5, 300, (12, 0)),
        _card("rtx5080", 16303, 112.6, 960, PCIE5, 360, (12, 0)),
        _card("rtx5090", 32607, 209.5, 1792, PCIE5, 575, (12, 0)),
        _card("rtxa5000", 24564, 111.1, 768, PCIE4, 230, (8, 6)),
        _card("rtxa6000", 49140, 154.8, 768, PCIE4, 300, (8, 6)),
        _card("rtx6000ada", 49140, 364.2, 960, PCIE4, 300, (8, 9)),
        _card("rtxpro6000", 97887, 503.8, 1792, PCIE5, 600, (12, 0)),
        # Turing has no bf16 tensor cores: this is its float32 rate, and the doctor says so
        _card("t4", 15360, 8.1, 320, PCIE3, 70, (7, 5)),
        _card("a10", 23028, 125.0, 600, PCIE4, 150, (8, 6)),
        _card("a10g", 23028, 70.0, 600, PCIE4, 300, (8, 6)),
        _card("a30", 24576, 165.0, 933, PCIE4, 165, (8, 0)),
        _card("a40", 46068, 149.7, 696, PCIE4, 300, (8, 6)),
        _card("l4", 23034, 121.0, 300, PCIE4, 72, (8, 9)),
        _card("l40s", 46068, 362.0, 864, PCIE4, 350, (8, 9)),
        _card("a100-40", 40960, 312.0, 1555, PCIE4, 400, (8, 0)),
        _card("a100-80", 81920, 312.0, 2039, PCIE4, 400, (8, 0)),
        _card("h100-pcie", 81559, 756.0, 2000, PCIE5, 350, (9, 0)),
        _card("h100", 81559, 990.0, 3350, PCIE5, 700, (9, 0)),
        _card("h200", 143771, 790.0, 4800, PCIE5, 700, (9, 0)),
        _card("b200", 183359, 2250.0, 8000, PCIE5, 1000, (10, 0)),
    )
}

OTHER_WORDS = {
    "a5000": "rtxa5000",
    "a6000": "rtxa6000",
    "6000ada": "rtx6000ada",
    "rtx6000adageneration": "rtx6000ada",
    "pro6000": "rtxpro6000",
    "a100": "a100-80",
    "a100sxm4": "a100-80",
    "a100sxm440": "a100-40",
    "a100pcie40": "a100-40",
    "a100pcie": "a100-40",
    "a10080gbpcie": "a100-80",
    "h100sxm": "h100",
    "h10080gbhbm3": "h100",
}
"""Other words for a card, and the driver's names of it, as `_squeezed` leaves them."""

SPELLINGS: dict[str, str] = {
    **{name.replace("-", ""): name for name in CARDS},
    **{name.removeprefix("rtx"): name for name in CARDS if name[3:4].isdigit()},  # 4090, without rtx
    **OTHER_WORDS,
}

CLASSES = ((12, "rtx3060"), (16, "rtx4060ti"), (24, "rtx3090"), (32, "rtx5090"), (40, "a100-40"), (48, "rtxa6000"))
LARGE_CLASSES = ((80, "a100-80"), (96, "rtxpro6000"), (144, "h200"), (1024, "b200"))
"""For a bare size: up to so many GiB, the speed of a common card that is not the fastest of its size."""


def parse_gpus(words: str) -> tuple[Card, int]:
    """Reads what `--gpu` says: a card or a size, and how many.

    `rtx4090`, `RTX 4090`, `4090`, `a100-40`, `24GB`, `22.5GiB`, `h100x8`, `8xh100`, `24GBx4`. A size is in units of
    2**30 bytes whichever way it is written, since that is what makers of GPUs mean by GB. It gets the speed of a common
    card of its class, named in `speed_of`.

    Raises:
        RecipeError: no such card, no such size, or a number of GPUs that is not from 1 to 1,024.
    """
    squeezed = _squeezed(words)
    for single, count in _readings(squeezed):
        card = _known(single) or _sized(single, words)
        if card is not None:
            if not 1 <= count <= MOST_GPUS:
                why = f"a plan is for 1 to {MOST_GPUS:,} GPUs"
                raise RecipeError(f"{count} GPUs cannot be planned for", where=_typed(words), why=why, fix="--gpu 24GB")
            return card, count
    raise _unknown(words, squeezed)


def card_named(driver_name: str, memory_bytes: int) -> Card:
    """Finds the card that the driver calls so: the memory is what it reports, the speed is the catalogue's.

    A card that the catalogue lacks, as those of laptops, gets the speed of the class of its memory, named in
    `speed_of`.
    """
    known = _known(_squeezed(driver_name))
    if known is not None:
        return replace(known, memory_bytes=memory_bytes)
    return replace(_of_class(memory_bytes), name=driver_name)


def _squeezed(words: str) -> str:
    """Leaves what tells cards apart: `NVIDIA GeForce RTX 4090` and `rtx-4090` are one.

    A comma stays, and a minus before a number, so that `24,5GB`, `-24GB` and `h100x-1` are none of each.
    """
    plain = re.sub(r"[^a-z0-9.,-]|(?<!^)(?<![0-9]x)-", "", words[:200].strip().lower().replace("×", "x"))
    plain = re.sub(r"^([0-9]*x?)(?:nvidia|geforce|tesla|quadro)+", r"\1", plain)
    return re.sub(r"blackwell.*$", "", plain) if "rtxpro6000" in plain else plain


def _readings(squeezed: str) -> list[tuple[str, int]]:
    """The ways to split a word into a card and a number; the whole first, for `rtx4090` has an x too."""
    found = [(squeezed, 1)]
    if after := re.fullmatch(r"(.+)x([0-9]{1,9})", squeezed):
        found.append((after[1], int(after[2])))
    if before := re.fullmatch(r"([0-9]{1,9})x(.+)", squeezed):
        found.append((before[2], int(before[1])))
    return found


def _known(squeezed: str) -> Card | None:
    """Finds a card by any of its spellings; its memory may follow, as in `h100-80` or `RTX 3060 12GB`."""
    if (spelling := squeezed.removesuffix("gb")) in SPELLINGS:
        return CARDS[SPELLINGS[spelling]]
    for pattern in (r"(.+)([1-9][0-9])(?:gb)?", r"(.+)([1-9][0-9]{2})(?:gb)?"):
        followed = re.fullmatch(pattern, squeezed)
        if followed and followed[1] in SPELLINGS:
            card = CARDS[SPELLINGS[followed[1]]]
            if abs(card.memory_bytes / GIB / int(followed[2]) - 1) <= NAMED_TOLERANCE:
                return card
    return None


def _sized(squeezed: str, words: str) -> Card | None:
    """Makes a card of a bare size, of which the user's words speak.

    Raises:
        RecipeError: no GPU is so small or so large.
    """
    memory_bytes = _size_bytes(squeezed)
    if memory_bytes is None:
        return None
    most = LARGE_CLASSES[-1][0]
    if not GIB <= memory_bytes <= most * GIB:
        why = f"a size is from 1 to {most:,} GB"
        raise RecipeError(f"no GPU has {squeezed}", where=_typed(words), why=why, fix="--gpu 24GB")
    return _of_class(memory_bytes)


def parse_host(words: str) -> int:
    """Reads the size of a host's memory, such as `64GB`.

    Raises:
        RecipeError: it is no size.
    """
    host_bytes = _size_bytes(_squeezed(words))
    if host_bytes is None or not GIB <= host_bytes <= MOST_HOST_GIB * GIB:
        where = _typed(words).replace("--gpu", "--host", 1)
        why = f"a size is from 1GB to {MOST_HOST_GIB}GB, with its unit"
        raise RecipeError("this is no size of a host's memory", where=where, why=why, fix="--host 64GB")
    return host_bytes


def _size_bytes(squeezed: str) -> int | None:
    size = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(gb?|gib|mib|mb)", squeezed)
    return int(float(size[1]) * (MIB if size[2].startswith("m") else GIB)) if size else None


def _of_class(memory_bytes: int) -> Card:
    classes = (*CLASSES, *LARGE_CLASSES)
    like = next((name for gib, name in classes if memory_bytes <= gib * GIB), classes[-1][1])
    return replace(CARDS[like], name=f"{memory_bytes / GIB:g}GB", memory_bytes=memory_bytes, speed_of=like)


def _typed(words: str) -> str:
    """What the user typed, on one line and not too long."""
    short = words if len(words) <= 40 else f"{words[:40]}…"
    return f"--gpu {short if short.isprintable() and short.strip() else ascii(short)}"


def _unknown(words: str, squeezed: str) -> RecipeError:
    what, where = "no GPU is known by that word", _typed(words)
    if re.fullmatch(r"[1-9][0-9]{0,2}(\.[0-9]{1,3})?", squeezed):
        why = "a size needs its unit; a bare number is the name of a card"
        return RecipeError(what, where=where, why=why, fix=f"--gpu {squeezed}GB")
    for single, _ in _readings(squeezed[:60]):
        near = difflib.get_close_matches(single, SPELLINGS, n=4, cutoff=0.7)
        if names := list(dict.fromkeys(SPELLINGS[spelling] for spelling in near)):
            return RecipeError(what, where=where, why=f"near it: {', '.join(names)}", fix=f"--gpu {names[0]}")
    why = f"known are {', '.join(CARDS)}; or its memory"
    return RecipeError(what, where=where, why=why, fix="--gpu 24GB")

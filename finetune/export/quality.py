"""What each kind of GGUF costs and keeps: bytes, bits a weight, and how far its answers are from those in bf16."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from finetune.ggufs import KINDS, gguf_name
from finetune.run import atomic

TABLE, PICTURE = "quality.json", "quality.png"

Count = Annotated[int, Field(gt=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class Quality:
    """Of one file."""

    kind: str
    file: str
    """Its name."""
    num_bytes: Count
    num_weights: Count
    mean_kl: Finite | None
    """Nats a token from the file in bf16; of that one from the merged model. None if nothing could answer here."""
    agreement: Finite | None
    """Share of tokens whose likeliest next one stays."""

    @property
    def bits(self) -> float:
        """Of a weight, all that a file holds besides counted in."""
        return 8 * self.num_bytes / self.num_weights


def size(num_bytes: int) -> str:
    """Tells bytes in the unit that suits them."""
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"


@dataclass(frozen=True)
class Written:
    """What stands in quality.json."""

    run: str
    files: list[Quality]


_WRITTEN = TypeAdapter(Written)


def remembered(folder: Path, run: str, made: Iterable[Quality], say: Callable[[str], None]) -> list[Quality]:
    """Adds what earlier exports of the run told of files that still lie in the folder; the largest first.

    It is a memory and no more: what cannot be read as such is told, and written anew.
    """
    found = {each.kind: each for each in made}
    if (file := folder / TABLE).is_file():
        try:
            told = _WRITTEN.validate_json(file.read_bytes(), strict=True)
        except ValidationError:
            say(f"{TABLE} is not as an export wrote it: it is written anew, without what it told of other files")
            told = Written(run, [])
        for earlier in told.files:
            lies = folder / gguf_name(run, earlier.kind)
            known = earlier.kind in KINDS and earlier.file == lies.name
            if known and lies.is_file() and lies.stat().st_size == earlier.num_bytes:
                found.setdefault(earlier.kind, earlier)
    return sorted(found.values(), key=lambda each: -each.num_bytes)


def table(files: list[Quality]) -> list[str]:
    """Lays the files out for a terminal."""
    lines = [f"{'kind':<10}{'size':>12}{'bits a weight':>15}{'KL from bf16':>15}{'likeliest token stays':>24}"]
    for each in files:
        kl = "" if each.mean_kl is None else f"{each.mean_kl:.2g}{' *' if each.kind == 'bf16' else ''}"
        stays = "not compared" if each.agreement is None else f"{each.agreement:.1%}"
        lines.append(f"{each.kind:<10}{size(each.num_bytes):>12}{each.bits:>15.2f}{kl:>15}{stays:>24}")
    if any(each.kind == "bf16" and each.mean_kl is not None for each in files):
        lines.append("* from the merged model, in float32")
    return lines


def write(folder: Path, name: str, files: list[Quality]) -> list[Path]:
    """Writes quality.json and, where answers were compared, quality.png; gives what it wrote."""
    atomic.write_json(folder / TABLE, asdict(Written(name, files)))
    points = [(each.bits, each.mean_kl, each) for each in files if each.mean_kl is not None and each.kind != "bf16"]
    if not points:
        return [folder / TABLE]
    draw(name, points, folder / PICTURE)
    return [folder / TABLE, folder / PICTURE]


def draw(name: str, points: list[tuple[float, float, Quality]], file: Path) -> None:
    """Draws bits a weight against the distance from bf16, each kind a point."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    bits, distances, _ = zip(*points, strict=True)
    axes.plot(bits, distances, color="#9db4c8", linewidth=1)
    axes.plot(bits, distances, "o", color="#c0392b")
    for bit, distance, each in points:
        told = f"{each.kind}\n{size(each.num_bytes)}"
        axes.annotate(told, (bit, distance), (0, 7), textcoords="offset points", ha="center", fontsize="small")
    axes.set(xlabel="bits a weight", ylabel="mean KL from bf16 (nats a token)", title=f"{name}: size and distance")
    axes.set_yscale("log")
    axes.margins(x=0.1, y=0.2)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)

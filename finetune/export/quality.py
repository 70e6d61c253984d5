"""What each kind of GGUF costs and keeps: bytes, bits a weight, and how far its answers are from those in bf16."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from finetune.run import atomic
from finetune.shards import read_json


@dataclass(frozen=True)
class Quality:
    """Of one file."""

    kind: str
    file: str
    """Its name."""
    num_bytes: int
    num_weights: int
    mean_kl: float | None
    """Nats a token from the file in bf16; of that one from the merged model. None if nothing could answer here."""
    agreement: float | None
    """Share of tokens whose likeliest next one stays."""

    @property
    def bits(self) -> float:
        """Of a weight, all that a file holds besides counted in."""
        return 8 * self.num_bytes / self.num_weights


def size(num_bytes: int) -> str:
    """Tells bytes in the unit that suits them."""
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"


def remembered(folder: Path, made: Iterable[Quality]) -> list[Quality]:
    """Adds what earlier exports told of files that still lie in the folder; the largest first.

    Raises:
        ArtifactError: what they left is damaged.
    """
    found = {each.kind: each for each in made}
    if (file := folder / "quality.json").is_file():
        for told in read_json(file, "what an earlier export measured")["files"]:
            earlier, lies = Quality(**told), folder / told["file"]
            if lies.is_file() and lies.stat().st_size == earlier.num_bytes:
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
    atomic.write_json(folder / "quality.json", {"run": name, "files": [asdict(each) for each in files]})
    points = [(each.bits, each.mean_kl, each) for each in files if each.mean_kl is not None and each.kind != "bf16"]
    if not points:
        return [folder / "quality.json"]
    draw(name, points, folder / "quality.png")
    return [folder / "quality.json", folder / "quality.png"]


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
